"""The verb train from pictures to files that detect, alone and in two processes."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.cli import main  # noqa: E402
from calibration.run_folder.folder import RunFolder  # noqa: E402
from calibration.run_folder.results_table import read_results  # noqa: E402
from calibration.training.checkpoint_file import read_checkpoint, write_checkpoint  # noqa: E402
from calibration.training.loader import Loader  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from streamer.detector import open_detector  # noqa: E402
from streamer.frames.frame import Frame  # noqa: E402
from streamer.models.file import load_model  # noqa: E402
from tests.training_runs import (  # noqa: E402
    NAMES,
    draw,
    narrow_spec,
    one_thread,  # noqa: F401
    small_job,
    small_training,
    write_config,
    write_set,
)

pytestmark = pytest.mark.slow

PICTURES = ("labels.png", "results.png", "PR.png", "confidence.png", "confusion.png", "confusion_normalised.png")
DRAWN = ("train_batch_0.jpg", "train_batch_1.jpg", "val_batch_0.jpg")


def options(root: Path, *more: str, init: str = "none") -> list[str]:
    """Options of a run over the set and the network of a folder."""
    return [
        "train", "--model-config", str(root / "narrow.yaml"), "--data", str(root / "set/data.yaml"), "--init", init,
        "--device", "cpu", "--runs", str(root / "runs"), "--workers", "1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set, a network and one finished run with INT8."""
    root = tmp_path_factory.mktemp("train")
    write_set(root / "set", train=24, val=16)
    write_config(root / "narrow.yaml", narrow_spec())
    torch.set_num_threads(1)
    assert (
        main(
            options(
                root,
                "--steps",
                "150",
                "--batch",
                "12",
                "--lr",
                "8e-3",
                "--precision",
                "f32",
                "--int8",
                "--max-ap-drop",
                "100",
                "--seed",
                "3",
            )
        )
        == 0
    )
    return root


def test_every_file_of_a_run_is_there_and_whole(root: Path) -> None:
    folder = RunFolder(root / "runs/train-1")
    for name in (*PICTURES, *DRAWN):
        picture = cv2.imread(str(folder.path / name))
        assert picture is not None and min(picture.shape[:2]) > 50, name
    assert json.loads(folder.curves.read_text())
    rows = read_results(folder.results)
    assert len(rows) == 75 and rows[-1].step == 150 and rows[-1].AP is not None and rows[-1].int8_AP is not None
    with folder.results.open(newline="") as file:
        assert len(list(csv.reader(file))) == 76
    args = yaml.safe_load(folder.args.read_text())
    assert args["seed"] == 3 and args["batch"] == 12 and args["int8"] is True
    for path in (folder.best_onnx, folder.best_int8_onnx):
        onnx.checker.check_model(str(path), full_check=True)
        assert load_model(path).spec.labels == NAMES
    int8 = {node.op_type for node in onnx.load(str(folder.best_int8_onnx)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= int8
    weights, _ = load_checkpoint(folder.best_checkpoint)
    assert len(weights) > 50
    report = json.loads((folder.path / "best_int8.json").read_text())
    assert all(verdict["passed"] for verdict in report["verdicts"])
    card = folder.model_card.read_text()
    assert "run_stream.py --model" in card and all(name in card for name in NAMES) and "INT8" in card
    known = {"model_card.md", "args.yaml", "results.csv", "curves.json", "best.onnx"}
    known |= {"best.ckpt", "last.ckpt", "initial.ckpt"}
    known |= {"best_int8.onnx", "best_int8.json", "best_int8.md", "tensorboard", *PICTURES, *DRAWN}
    assert {path.name for path in folder.path.iterdir()} - known <= {"train_batch_2.jpg", "val_batch_1.jpg"}


@pytest.mark.parametrize("name", ["best.onnx", "best_int8.onnx"])
def test_what_is_trained_detects(root: Path, name: str) -> None:
    with open_detector(root / "runs/train-1" / name, device="cpu", conf=0.05) as detector:
        pixels, lines = draw(1000)
        frame = Frame(pixels, "test", 0, 0.0, 0.0)
        detector.prepare(frame)
        detector.submit(frame)
        _, detections, _ = detector.collect()
    assert len(lines) == 1 and len(detections.scores) >= 1
    _, x, y, w, h = (float(value) * 96 for value in lines[0].split())
    truth = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    low, high = np.maximum(truth[:2], detections.boxes_xyxy[:, :2]), np.minimum(truth[2:], detections.boxes_xyxy[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    sizes = np.prod(detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2], axis=1)
    assert (shared / (w * h + sizes - shared)).max() > 0.4


def test_the_settings_and_the_cards_command_reproduce_the_weights(root: Path) -> None:
    first = RunFolder(root / "runs/train-1")
    card = first.model_card.read_text()
    command = next(line.strip().strip("`") for line in card.splitlines() if "-m calibration train" in line)
    words = shlex.split(command[command.index("python -m calibration") :].rstrip("`"))
    before = set((root / "runs").iterdir())
    assert main([*words[3:], "--runs", str(root / "runs")]) == 0
    (made,) = set((root / "runs").iterdir()) - before
    again = RunFolder(made)
    one, other = first.read_args(), again.read_args()
    assert one == other
    for path in ("best_onnx", "best_int8_onnx"):
        assert getattr(first, path).read_bytes() == getattr(again, path).read_bytes(), path


def test_a_run_goes_on_from_its_best_weights(root: Path) -> None:
    best = root / "runs/train-1/best.ckpt"
    before = set((root / "runs").iterdir())
    assert main(options(root, "--steps", "2", "--batch", "12", init=str(best))) == 0
    (made,) = set((root / "runs").iterdir()) - before
    (row,) = read_results(made / "results.csv")
    rows = read_results(root / "runs/train-1/results.csv")
    assert row.loss is not None and rows[0].loss is not None and row.loss < 0.8 * rows[0].loss


def test_a_resumed_run_that_is_finished_writes_its_files_again(root: Path) -> None:
    folder = RunFolder(root / "runs/train-1")
    card, table = folder.model_card.read_text(), folder.results.read_bytes()
    folder.best_onnx.unlink()
    assert main(["train", "--resume", str(folder.path)]) == 0
    assert folder.best_onnx.is_file() and folder.results.read_bytes() == table
    assert folder.model_card.read_text().splitlines()[0] == card.splitlines()[0]


# another activation


def test_relu_from_leakyrelu_by_distillation_without_labels(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "set", train=24, val=8, labels=False)
    shutil.rmtree(tmp_path / "set/labels/val")  # that of train has empty files
    write_config(tmp_path / "narrow.yaml", narrow_spec())
    best = str(root / "runs/train-1/best.ckpt")
    best = str(shutil.copy(best, tmp_path / "initial.ckpt"))
    chosen = options(
        tmp_path, "--activation", "ReLU", "--no-labels", "--steps", "60", "--batch", "12", "--lr", "4e-3", init=best
    )
    assert main(chosen) == 0
    said = capsys.readouterr().out
    assert "the network with LeakyReLU teaches the one with ReLU" in said
    assert "val has no labels: AP is measured against the" in said
    folder = RunFolder(tmp_path / "runs/train-1")
    assert load_model(folder.best_onnx).spec.activation == "ReLU"
    assert read_checkpoint(folder.best_checkpoint)["activation"] == "ReLU"
    Path(best).unlink()  # a resumed run has its teacher in its folder
    assert main(["train", "--resume", str(folder.path), "--steps", "61"]) == 0
    assert read_results(folder.results)[-1].step == 61
    rows = read_results(folder.results)
    assert rows[0].qfl is None and rows[0].loss is not None and rows[-1].loss is not None
    assert rows[-1].AP50 is not None and rows[-1].AP50 > 90  # of what the teacher finds
    assert any(row.AP is not None and row.AP > 50 for row in rows)


@pytest.mark.parametrize(
    ("names", "activation", "teacher", "teaches"),
    [
        (("red", "blue"), "ReLU", "auto", True),
        (("blue", "red"), "ReLU", "auto", True),  # rows are taken by name
        (("red", "green"), "ReLU", "auto", False),
        (("red", "blue"), "LeakyReLU", "auto", False),
        (("red", "blue"), "LeakyReLU", "yes", True),
        (("red", "blue"), "ReLU", "no", False),
    ],
)
def test_a_teacher_where_the_activation_is_exchanged_and_classes_match(
    names: tuple[str, ...], activation: str, teacher: str, teaches: bool, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("calibration.training.finish.finish", lambda *_, **__: None)
    write_set(tmp_path / "set", names=names)
    write_config(tmp_path / "narrow.yaml", narrow_spec())
    folder = tmp_path / "a new row"  # words of a path mean nothing
    folder.mkdir()
    training = small_training(small_job(tmp_path / "set/data.yaml", tmp_path / "x", narrow_spec(NAMES)))
    write_checkpoint(folder / "weights.ckpt", training.network)
    more = ("--activation", activation, "--teacher", teacher, "--steps", "1")
    kept: list[bool] = []
    monkeypatch.setattr(TrainingNetwork, "keep_statistics", lambda _: kept.append(True))
    assert main(options(tmp_path, *more, init=str(folder / "weights.ckpt"))) == 0
    said = capsys.readouterr().out
    assert ("teaches the one with" in said) == teaches
    is_exchanged = teaches and activation == "ReLU"
    assert bool(kept) == is_exchanged
    rate = re.search(r"learning rate (\S+) .*batch (\d+)", said)
    assert rate is not None
    wanted = (3e-4 if is_exchanged else 1e-3) * (int(rate[2]) / 32) ** 0.5
    assert float(rate[1]) == pytest.approx(wanted, rel=0.06)


def test_weights_know_their_activation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that was trained with ReLU isn't taught by itself with LeakyReLU, for which its weights aren't."""
    monkeypatch.setattr("calibration.training.finish.finish", lambda *_, **__: None)
    write_set(tmp_path / "set")
    write_config(tmp_path / "narrow.yaml", narrow_spec())
    spec = narrow_spec().model_copy(update={"activation": "ReLU"})
    training = small_training(small_job(tmp_path / "set/data.yaml", tmp_path / "x", spec))
    write_checkpoint(tmp_path / "relu.ckpt", training.network)
    chosen = options(tmp_path, "--activation", "ReLU", "--steps", "1", init=str(tmp_path / "relu.ckpt"))
    assert main(chosen) == 0
    assert "teaches" not in capsys.readouterr().out


def test_a_teacher_that_lacks_a_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "set", names=("red", "green"))
    write_config(tmp_path / "narrow.yaml", narrow_spec())
    training = small_training(small_job(tmp_path / "set/data.yaml", tmp_path / "x", narrow_spec(NAMES)))
    write_checkpoint(tmp_path / "weights.ckpt", training.network)
    assert main(options(tmp_path, "--teacher", "yes", init=str(tmp_path / "weights.ckpt"))) == 2
    assert "can't teach: it doesn't know all of the classes" in capsys.readouterr().err


# several processes


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a module in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "--nproc-per-node=2", "-m", *words], capture_output=True, text=True, timeout=250, env=environment,
        cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_processes_share_batches_and_agree_on_time(tmp_path: Path) -> None:
    """With a budget too, whose end and learning rate depend on each process's clock."""
    data = write_set(tmp_path / "set", train=10, val=2)
    launched("tests.train_in_processes", str(data), str(tmp_path / "run"))
    ranks = [json.loads((tmp_path / f"run/rank-{rank}.json").read_text()) for rank in (0, 1)]
    for name in ("steps", "elapsed_s", "rates", "weights"):
        assert ranks[0][name] == ranks[1][name], name
    steps = ranks[0]["steps"]
    assert steps > 5
    job = small_job(data, tmp_path / "alone", batch=4)
    with Loader(job.train, job.spec, job.recipe.augmentation, 4, job.seed, workers=1) as loader:
        for step in range(steps):
            alone = next(loader).indices.tolist()
            assert [ranks[0]["indices"][step], ranks[1]["indices"][step]] == [alone[0::2], alone[1::2]]


def test_two_processes_train_as_one_run(tmp_path: Path) -> None:
    write_set(tmp_path / "set", train=8, val=4)
    write_config(tmp_path / "narrow.yaml", narrow_spec())
    done = launched("calibration", *options(tmp_path, "--steps", "8", "--batch", "4", "--seed", "5"))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train-1"]
    folder = RunFolder(tmp_path / "runs/train-1")
    rows = read_results(folder.results)
    assert [row.step for row in rows] == [2, 4, 6, 8] and all(row.AP is not None for row in rows)
    assert done.stdout.count("epoch 1, step 2: AP") == 1 and folder.best_onnx.is_file()
    assert len(list(folder.events.iterdir())) == 1 and not (tmp_path / "runs/tensorboard").exists()
