"""The verb train: options and data that it refuses, each in one line, and what it says before it trains."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

import calibration.train  # noqa: E402
import calibration.training.finish  # noqa: E402
from calibration import train_options  # noqa: E402
from calibration.cli import main  # noqa: E402
from calibration.data import read_data  # noqa: E402
from calibration.run_folder.folder import RunFolder  # noqa: E402
from calibration.run_folder.results_table import read_results  # noqa: E402
from calibration.training import checkpoint_file, display  # noqa: E402
from calibration.training.checkpoint_file import read_checkpoint, write_checkpoint  # noqa: E402
from calibration.training.loader import Batch, Loader  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from streamer.common.errors import ConfigError  # noqa: E402
from streamer.common.interrupt import _PROGRESS_TIMEOUT_S, Interrupt  # noqa: E402
from tests.training_runs import NAMES, narrow_spec, one_thread, write_config, write_set  # noqa: E402, F401

COCO_NAMES = ("person", "car")


class Run:
    """The verb in a folder of its own, with a small set and network; nothing is exported at the end."""

    def __init__(self, root: Path, data: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.runs, self.data, self.config, self._capsys = root, root / "runs", data, config, capsys

    def __call__(self, *options: str, small: bool = True) -> tuple[int, str, str]:
        """Returns the exit status, and what was printed and complained."""
        usual: list[str] = []
        if small:
            usual = ["--model-config", str(self.config), "--data", str(self.data), "--device", "cpu", "--workers", "1"]
            usual += ["--steps", "3"] if not {"--epochs", "--steps", "--budget"} & set(options) else []
            usual += [] if "--init" in options else ["--init", "none"]
        runs = [] if "--resume" in options else ["--runs", str(self.runs)]
        self._capsys.readouterr()
        try:
            status = main(["train", *usual, *runs, *options])
        except SystemExit as ended:  # argparse
            status = int(str(ended.code))
        return status, *self._capsys.readouterr()

    def refused(self, *options: str, small: bool = True) -> str:
        """Returns the one line with which a run is refused."""
        status, _, complained = self(*options, small=small)
        errors = [line for line in complained.splitlines() if line.startswith("error: ")]
        assert status == 2, complained
        assert len(errors) == 1 and "Traceback" not in complained, complained
        return errors[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def run(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(calibration.training.finish, "finish", lambda *_, **__: None)
    for module, name in ((display, "draw_results"), (calibration.train, "_draw_labels")):  # most of such a run's time
        monkeypatch.setattr(module, name, lambda *_: None)
    return Run(tmp_path, data, write_config(tmp_path / "narrow.yaml", narrow_spec()), capsys)


def test_lengths_exclude_each_other(run: Run) -> None:
    status, _, complained = run("--budget", "1m", "--epochs", "3")
    assert status == 2 and "not allowed with argument" in complained
    assert not run.runs.exists()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--device", "gpu"), "--device wants auto, cpu, cuda or cuda:N, got 'gpu'"),
        (("--device", "cuda:x"), "--device wants auto"),
        (("--device", "cuda:7"), "PyTorch sees"),
        (("--activation", "relu"), "a network has no activation 'relu'; did you mean 'ReLU'"),
        (("--init", "no/such.ckpt"), "there is no file 'no/such.ckpt'"),
        (("--init", "auto"), "--init"),
        (("--batch", "5", "--accumulate", "2"), "a batch of 5 can't be computed in 2 equal parts"),
        (("--no-labels",), "--no-labels needs a teacher"),
        (("--teacher", "yes"), "random weights can't teach"),
        (("--input-size", "abc"), "an input size is W or WxH"),
        (("--input-size", "16"), "32 to 4096 pixels"),
        (("--classes", "green"), "green"),
        (("--rename", "green=yellow"), "green"),
        (("--rename", "red"), "--rename wants OLD=NEW, got 'red'"),
        (("--data", "no/such.yaml"), "no/such.yaml"),
    ],
)
def test_wrong_options_are_refused_in_a_line_and_leave_no_folder(
    options: tuple[str, ...], wanted: str, run: Run
) -> None:
    assert wanted in run.refused(*options)
    assert not list(run.runs.glob("*"))


@pytest.mark.parametrize(
    "options",
    [
        ("--lr", "0"),
        ("--batch", "0"),
        ("--budget", "soon"),
        ("--precision", "f8"),
        ("--seed", "-1"),
        ("--max-ap-drop", "nan"),
        ("--max-ap-drop", "-1"),
        ("--workers", "100000"),
    ],
)
def test_wrong_values_are_bad_usage(options: tuple[str, ...], run: Run) -> None:
    status, _, complained = run(*options)
    assert status == 2 and options[0] in complained


def test_model_and_data_are_wanted(run: Run) -> None:
    assert "train wants --model NAME and --data data.yaml, or --resume DIR" in run.refused(small=False)
    assert "no model is named 'nanodet-x_416'" in run.refused(
        "--model", "nanodet-x_416", "--data", str(run.data), small=False
    )


def test_only_the_packaged_network_has_packaged_weights(run: Run) -> None:
    line = run.refused("--model", "nanodet-m_320", "--data", str(run.data), "--device", "cpu", small=False)
    assert "no packaged weights of nanodet-m: give a checkpoint with --init FILE" in line


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    assert "train needs onnxsim: pip install 'nanodet-streamer[calibration]'" in run.refused()


def test_a_file_that_is_no_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(b"not weights")
    status, _, complained = run("--init", str(tmp_path / "weights.ckpt"))
    assert status == 1 and "weights.ckpt" in complained and not list(run.runs.glob("*"))


def test_a_checkpoint_of_another_network_is_named(run: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other.ckpt", TrainingNetwork(narrow_spec(width=24)))
    status, _, complained = run("--init", str(tmp_path / "other.ckpt"))
    assert status == 1 and "other.ckpt" in complained and len(complained.splitlines()) == 1


# data


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(split: str, run: Run) -> None:
    run.data = write_set(run.root / "set", **{"train": 3, "val": 3} | {split: 0})
    assert f"the split {split!r} is empty" in run.refused()


def test_a_split_whose_key_is_misspelt_is_refused_and_the_key_named(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.data = write_set(run.root / "set")
    run.data.write_text(run.data.read_text().replace("val:", "vall:"))
    assert "there is no split 'val'" in run.refused()
    assert "'vall'; did you mean 'val'?" in caplog.text


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_background_is_refused(split: str, run: Run) -> None:
    run.data = write_set(run.root / "set")
    for file in (run.data.parent / "labels" / split).iterdir():
        file.write_text("")
    assert f"no picture of {split} has an object" in run.refused()


def test_one_picture_trains(run: Run) -> None:
    run.data = write_set(run.root / "set", train=1, val=1)
    status, said, _ = run()
    assert status == 0 and "batch 1" in said
    assert len(read_results(run.runs / "train-1/results.csv")) == 3


def test_a_class_without_training_pictures_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.data = write_set(run.root / "set")
    content = yaml.safe_load(run.data.read_text())
    run.data.write_text(yaml.safe_dump(content | {"names": ["red", "blue", "green", "white"]}))
    assert run()[0] == 0
    assert "no training picture has green, white: what isn't shown can't be learnt" in caplog.text


def test_what_reading_leaves_out_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.data = write_set(run.root / "set")
    (run.data.parent / "labels/train/000.txt").write_text("0 0.5 0.5 0 0\n9 0.5 0.5 0.1 0.1\n")
    assert run()[0] == 0
    said = {record.getMessage(): record.levelname for record in caplog.records}
    boxes = next(text for text in said if "boxes without width or height" in text)
    assert "(1): " in boxes and "train/000.txt:1: 0 0.5 0.5 0 0" in boxes and said[boxes] == "WARNING"
    assert said[next(text for text in said if "class id that has no name" in text)] == "ERROR"


def test_a_corrupt_picture_is_named_once_and_counted_at_the_end(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.data = write_set(run.root / "set", train=24)
    (run.data.parent / "images/train/004.png").write_bytes(b"\x89PNG")
    assert run("--epochs", "2")[0] == 0
    assert sum("004.png" in record.getMessage() for record in caplog.records) == 1
    assert "1 of 24 training pictures can't be read and were skipped" in caplog.text


def test_too_many_corrupt_pictures_are_refused(run: Run) -> None:
    run.data = write_set(run.root / "set", train=24)
    for number in (1, 2, 3, 4):
        (run.data.parent / f"images/train/{number:03}.png").write_bytes(b"")
    assert "at most 5% is allowed" in run.refused("--epochs", "2")


def test_many_classes_without_training_pictures_are_named_in_part(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.data = write_set(run.root / "set")
    content = yaml.safe_load(run.data.read_text())
    run.data.write_text(yaml.safe_dump(content | {"names": ["red", "blue", *(f"c{number}" for number in range(20))]}))
    assert run("--steps", "1")[0] == 0
    assert "no training picture has c0, c1, c2, c3, c4, c5, c6, c7 and 12 more: what" in caplog.text


def test_a_corrupt_picture_of_val_is_named(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.data = write_set(run.root / "set", val=24)
    (run.data.parent / "images/val/004.png").write_bytes(b"")
    assert run("--steps", "1")[0] == 0
    assert sum("val/004.png: skipped in validation" in record.getMessage() for record in caplog.records) == 1


def test_options_of_classes_can_be_repeated(run: Run) -> None:
    options = ("--rename", "red=a", "--rename", "blue=b", "--classes", "b", "--classes", "a", "--steps", "1")
    assert run(*options)[0] == 0
    assert read_checkpoint(run.runs / "train-1/last.ckpt")["names"] == ["b", "a"]


# the run's folder


def test_validation_pictures_that_cant_be_read_leave_no_folder(run: Run) -> None:
    run.data = write_set(run.root / "set", val=2)
    for file in (run.data.parent / "images/val").iterdir():
        file.write_bytes(b"")
    assert "2 of 2 pictures can't be read" in run.refused() and not list(run.runs.glob("*"))


@pytest.mark.parametrize(
    "change",
    [
        {"batch": "many"}, {"seed": "x"}, {"steps": 0}, {"teacher": "maybe"}, {"max_ap_drop": "x"},
        {"accumulate": 0}, {"lr": "x"}, {"recipe": "own"}, {"precision": 16}, {"workers": -3}, {"speed": 1},
        {"int8": "perhaps"}, {"data": ["a", "b"]}, {5: 6},
    ],
)  # fmt: skip
def test_settings_of_a_run_that_cant_be_are_refused(change: dict[str, Any], run: Run) -> None:
    folder = RunFolder(run.runs / "train-1")
    folder.path.mkdir(parents=True)
    folder.write_args({"model": "nanodet-g_64", "data": str(run.data), "steps": 3} | change)
    line = run.refused("--resume", str(folder.path), small=False)
    assert "args.yaml: " in line and line.endswith("mend the file or start a new run")
    assert "--" + str(next(iter(change))).replace("_", "-") in line or "unrecognized" in line


def test_a_resumed_run_needs_no_initial_weights(run: Run) -> None:
    write_checkpoint(run.root / "first.ckpt", TrainingNetwork(narrow_spec()))
    assert run("--init", str(run.root / "first.ckpt"), "--steps", "2")[0] == 0
    (run.root / "first.ckpt").unlink()
    folder = RunFolder(run.runs / "train-1")
    assert run("--resume", str(folder.path), "--steps", "3", small=False)[0] == 0
    folder.last_checkpoint.unlink()  # as if it had been killed before it saved anything
    status, said, _ = run("--resume", str(folder.path), small=False)
    assert status == 0 and "resumed after step 0" in said
    folder.beginning.write_bytes(b"cut")
    status, _, complained = run("--resume", str(folder.path), small=False)
    assert status == 1 and "initial.ckpt: it isn't what this run began with" in complained


def test_a_run_has_a_picture_of_its_labels(data: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    calibration.train._draw_labels(read_data(data), (64, 64), folder)
    picture = cv2.imread(str(folder.labels_picture))
    assert picture is not None and min(picture.shape[:2]) > 500


def test_a_run_whose_data_has_moved_goes_on(run: Run) -> None:
    run.data = write_set(run.root / "set")
    assert run("--steps", "2")[0] == 0
    run.data.parent.rename(run.root / "moved")
    folder = str(run.runs / "train-1")
    assert "set/data.yaml" in run.refused("--resume", folder, small=False)
    status, said, _ = run("--resume", folder, "--data", str(run.root / "moved/data.yaml"), "--steps", "3", small=False)
    assert status == 0 and "nothing is left" not in said
    status, said, _ = run("--resume", folder, small=False)
    assert status == 0 and "nothing is left to train" in said


def test_a_signal_has_time_for_a_step_and_ends_what_follows_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt, seen = Interrupt(), []
    monkeypatch.setattr(Loader, "__next__", next_noting(lambda: seen.append((True, interrupt._timeout_s))))
    monkeypatch.setattr(
        calibration.training.finish, "finish", lambda *_, **__: seen.append((interrupt._is_deferred, 0.0))
    )
    words = ["--model-config", str(run.config), "--data", str(run.data), "--init", "none", "--device", "cpu"]
    assert main(["train", *words, "--steps", "1", "--runs", str(run.runs)], interrupt) == 0
    assert seen == [(True, _PROGRESS_TIMEOUT_S), (False, 0.0)]


def next_noting(note: Callable[[], None]) -> Callable[[Loader], Batch]:
    """Returns the loader's method that gives a batch, with a call before it."""
    original = Loader.__next__

    def noting(self: Loader) -> Batch:
        note()
        return original(self)

    return noting


def test_a_resumed_run_has_its_folder(run: Run) -> None:
    assert run("--steps", "1")[0] == 0
    line = run.refused("--resume", str(run.runs / "train-1"), "--runs", str(run.root / "other"), small=False)
    assert "--runs is of a new run" in line


def test_each_run_has_a_folder_of_its_own(run: Run) -> None:
    (run.runs / "train-4").mkdir(parents=True)
    assert [run()[0], run()[0]] == [0, 0]
    assert sorted(path.name for path in run.runs.iterdir()) == ["train-4", "train-5", "train-6"]
    assert (run.runs / "train-6/last.ckpt").read_bytes() and not list((run.runs / "train-4").iterdir())
    args = RunFolder(run.runs / "train-6").read_args()
    assert args["steps"] == 3 and args["batch"] == 8 and args["seed"] == 0 and args["init"] == "none"


def test_the_same_seed_gives_the_same_weights_and_another_one_others(run: Run) -> None:
    for seed in ("5", "5", "6"):
        assert run("--seed", seed)[0] == 0
    first, same, other = (read_checkpoint(run.runs / f"train-{number}/last.ckpt")["state_dict"] for number in (1, 2, 3))
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_a_full_disk_is_said_in_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(output: Path, _: bytes) -> None:
        raise ConfigError(f"{output}: can't be written: {OSError(errno.ENOSPC, 'No space left on device').strerror}")

    monkeypatch.setattr(checkpoint_file, "write_whole", fill)
    assert "can't be written: No space left on device" in run.refused()


# resuming


def test_changed_options_are_refused_when_resuming(run: Run) -> None:
    assert run("--batch", "4")[0] == 0
    folder = str(run.runs / "train-1")
    for option, value, before in (("--batch", "8", "4"), ("--seed", "1", "0"), ("--recipe", "upstream", "default")):
        line = run.refused("--resume", folder, option, value, small=False)
        assert f"{option} was {before} when the run began and can't change to {value}" in line
    assert "--freeze-backbone was False" in run.refused("--resume", folder, "--freeze-backbone", small=False)
    status, said, _ = run("--resume", folder, "--batch", "4", "--steps", "5", small=False)
    assert status == 0 and "5 steps" in said


def test_more_epochs_extend_a_run(run: Run) -> None:
    assert run("--epochs", "2")[0] == 0
    folder = run.runs / "train-1"
    status, said, _ = run("--resume", str(folder), "--epochs", "5", small=False)
    assert status == 0 and "5 epochs" in said
    rows = read_results(folder / "results.csv")
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 5
    assert RunFolder(folder).read_args()["epochs"] == 5
    assert run("--resume", str(folder), "--steps", "7", small=False)[0] == 0  # counted otherwise
    args = RunFolder(folder).read_args()
    assert args["steps"] == 7 and "epochs" not in args


def test_fewer_epochs_end_a_run_where_it_is(run: Run) -> None:
    assert run("--epochs", "4")[0] == 0
    folder = run.runs / "train-1"
    table = (folder / "results.csv").read_bytes()
    status, said, _ = run("--resume", str(folder), "--epochs", "2", small=False)
    assert status == 0 and "4 steps" in said and (folder / "results.csv").read_bytes() == table


def test_a_folder_without_a_run_cant_be_resumed(run: Run, tmp_path: Path) -> None:
    assert "no such folder" in run.refused("--resume", str(tmp_path / "train-9"), small=False)
    (tmp_path / "empty").mkdir()
    assert "holds no args.yaml" in run.refused("--resume", str(tmp_path / "empty"), small=False)


def test_a_resumed_run_of_other_data_is_refused(run: Run) -> None:
    run.data = write_set(run.root / "set")
    assert run()[0] == 0
    (run.data.parent / "images/train/000.png").unlink()
    (run.data.parent / "labels/train/000.txt").unlink()
    assert "began with 8 training pictures, now there are 7" in run.refused(
        "--resume", str(run.runs / "train-1"), "--steps", "6", small=False
    )


# memory


@pytest.mark.parametrize(
    ("room", "options", "advice"),
    [
        (4, ("--batch", "8"), "for 8 pictures at once (--batch 8): 4 fit; --accumulate 2 computes the same batch in"
         " parts, or give --batch 4"),
        (1, ("--batch", "8", "--accumulate", "2"), "for 4 pictures at once (--batch 8): 1 fit; --accumulate 8 computes"
         " the same batch in parts, or give --batch 2"),
        (2, ("--batch", "5"), "for 5 pictures at once (--batch 5): 2 fit; --batch 2"),
        (0, ("--batch", "8"), "for 8 pictures at once (--batch 8), and for a single one: give a smaller --input-size"),
    ],
)  # fmt: skip
def test_too_little_memory_says_the_batch_that_fits(
    room: int, options: tuple[str, ...], advice: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingNetwork.forward

    def limited(self: TrainingNetwork, images: torch.Tensor) -> Any:
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, images)

    monkeypatch.setattr(TrainingNetwork, "forward", limited)
    assert run.refused(*options).endswith(f"the GPU's memory is too small {advice}")


# the command that a card prints


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.just("nanodet-g_416"), "data": st.sampled_from([Path("data.yaml"), Path("my set/data.yaml")]),
            "init": st.sampled_from(["auto", "none", "a b.ckpt"]), "activation": st.just("ReLU"),
            "freeze_backbone": st.booleans(), "teacher": st.sampled_from(["auto", "yes", "no"]),
            "classes": st.sampled_from([["red"], ["red cell", "white cell"]]),
            "rename": st.lists(st.sampled_from(["a=b", "old name=new 'name'"]), min_size=1, max_size=2),
            "no_labels": st.booleans(), "epochs": st.integers(1, 999),
            "recipe": st.sampled_from(["default", "upstream"]),
            "batch": st.integers(1, 512), "accumulate": st.integers(1, 8), "lr": st.floats(1e-6, 1),
            "patience": st.integers(1, 50), "seed": st.integers(0, 2**31), "device": st.sampled_from(["auto", "cpu"]),
            "precision": st.sampled_from(["auto", "f32", "bf16"]), "compile": st.booleans(),
            "workers": st.integers(1, 64), "int8": st.booleans(), "max_ap_drop": st.floats(0, 100),
        },
    )
)  # fmt: skip
def test_the_command_of_a_run_gives_its_settings_again(settings: dict[str, Any]) -> None:
    assert parsed(train_options.command_of(train_options.DEFAULTS | settings)) == train_options.DEFAULTS | settings


@pytest.mark.parametrize("budget_s", [20.0, 0.5, 1200.0, 86_400.0, 1_234_567.0])
def test_the_command_of_a_budget(budget_s: float) -> None:
    assert parsed(train_options.command_of(train_options.DEFAULTS | {"budget": budget_s}))["budget"] == budget_s


def parsed(command: str) -> dict[str, Any]:
    """Returns the settings that a command gives."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "calibration", "train"]
    parser = argparse.ArgumentParser()
    train_options.add_arguments(parser)
    given = {name: value for name, value in vars(parser.parse_args(words[4:])).items() if value is not None}
    return train_options.DEFAULTS | given
