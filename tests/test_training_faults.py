"""Bad pictures, full disks, losses that aren't finite, and memory that doesn't suffice, in the middle of a run."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import Tensor  # noqa: E402

from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.files import write_whole  # noqa: E402
from calibration.run_folder.results_table import read_results  # noqa: E402
from calibration.training import checkpoint_file, loop, memory_probe  # noqa: E402
from calibration.training.checkpoint_file import read_checkpoint  # noqa: E402
from calibration.training.job import NotFinite  # noqa: E402
from calibration.training.losses import Losses, detection_loss  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from calibration.training.recipe import Schedule  # noqa: E402
from calibration.training.truth import Truth  # noqa: E402
from streamer.common.errors import ConfigError  # noqa: E402
from tests.test_nanodet import FAMILIES, tiny  # noqa: E402
from tests.training_runs import (  # noqa: E402
    CPU,
    narrow_spec,
    one_thread,  # noqa: F401
    small_job,
    small_training,
    write_set,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def spoil(monkeypatch: pytest.MonkeyPatch, at_call: int, value: float, *, gradient_only: bool = False) -> None:
    """Makes the loss of one batch, or only its gradient, infinite or no number."""
    calls = []
    original = loop.detection_loss

    def spoilt(*arguments: Any) -> Losses:
        losses: Losses = original(*arguments)
        calls.append(1)
        if len(calls) != at_call:
            return losses
        total = losses.total * value
        return losses._replace(total=losses.total + (total - total.detach()).nan_to_num() if gradient_only else total)

    monkeypatch.setattr(loop, "detection_loss", spoilt)


def assert_finite(path: Path) -> None:
    content = read_checkpoint(path)
    for weights in (content["state_dict"], content["training"]["network"], content["training"]["average"]):
        assert all(bool(value.isfinite().all()) for value in weights.values())
    load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_isnt_finite_names_step_and_pictures(
    value: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(data, tmp_path, steps=12, batch=2, validations=6)  # an epoch is 4 steps
    spoil(monkeypatch, 7, value)
    with pytest.raises(NotFinite) as error:
        small_training(job).run()
    said = str(error.value)
    assert "the loss of step 6 isn't finite (pictures 00" in said and said.count(".png") == 2 and "\n" not in said
    assert "lower --lr" in said and error.value.exit_code == 1
    assert read_checkpoint(job.folder.last_checkpoint)["global_step"] == 4
    assert_finite(job.folder.last_checkpoint)
    assert [row.epoch for row in read_results(job.folder.results)] == [1]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_the_loss_of_a_diverged_network_is_no_number_and_no_crash(name: str, value: float) -> None:
    """On a GPU an index out of range would end the process; the loss is read much later."""
    spec = tiny(name, labels=("gear", "nut"))
    network = TrainingNetwork(spec)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    truth = Truth.pad([torch.tensor([[8.0, 8, 40, 50]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.zeros(0).long()])
    losses = detection_loss(network(torch.randn(2, 3, 64, 64)), truth, spec)
    torch.autograd.backward(losses.total)
    assert not bool(losses.total.isfinite())


def test_many_pictures_are_named_in_part(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 1, float("nan"))
    with pytest.raises(NotFinite, match=r"\(pictures \d+\.png, \d+\.png, \d+\.png, \d+\.png and 4 more\)"):
        small_training(small_job(data, tmp_path, batch=8)).run()


def test_weights_that_arent_finite_are_never_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of a finite loss may be infinite; the checkpoint after that step stays the one before."""
    job = small_job(data, tmp_path, steps=12, batch=2, validations=6, clip_norm=None)
    training = small_training(job)

    def ruin(_: Any, *__: Any) -> None:
        if training.state.step == 7:  # the last of the second epoch
            with torch.no_grad():
                next(training.network.parameters()).fill_(float("nan"))

    training.optimiser.register_step_post_hook(ruin)
    with pytest.raises(NotFinite, match="weights aren't finite after step 8: lower --lr"):
        training.run()
    assert_finite(job.folder.last_checkpoint)
    assert read_checkpoint(job.folder.last_checkpoint)["global_step"] == 4
    assert read_checkpoint(job.folder.best_checkpoint)["global_step"] == 4


def test_a_rate_far_too_high_is_said_and_leaves_finite_weights(data: Path, tmp_path: Path) -> None:
    job = small_job(
        data, tmp_path, steps=200, batch=8, optimiser="sgd", lr=1e9, lr_exponent=1, clip_norm=None,
        schedule=Schedule("steps", warmup_steps=0), validations=200,
    )  # fmt: skip
    with pytest.raises(NotFinite, match=r"lower --lr"):
        small_training(job).run()
    if job.folder.last_checkpoint.exists():
        assert_finite(job.folder.last_checkpoint)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(data, tmp_path, steps=6, batch=8, validations=6)
    training = small_training(job)
    before: list[bytes] = []

    def cut_off(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(output: Path, content: bytes) -> None:
        if training.state.step < 3 or output.name != name:
            write_whole(output, content)
            return
        before.append(output.read_bytes())
        with pytest.MonkeyPatch.context() as disk:
            disk.setattr(Path, "write_bytes", cut_off)
            write_whole(output, content)

    monkeypatch.setattr(checkpoint_file, "write_whole", fill)
    with pytest.raises(ConfigError, match=rf"{name}: can't be written: No space left on device"):
        training.run(on_row=lambda _: setattr(training.state, "best_ap", -1.0))
    monkeypatch.undo()
    assert (tmp_path / name).read_bytes() == before[0]
    assert_finite(tmp_path / "last.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt", "results.csv"]
    again = small_training(job)
    again.resume()
    assert again.state.step == 2
    assert again.run().state.step == 6


def test_a_full_disk_under_the_table_is_said(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calibration.run_folder.results_table as table

    def fill(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table.os, "fsync", fill)
    with pytest.raises(ConfigError, match=r"results\.csv: can't add a row: No space left on device; free some space"):
        small_training(small_job(data, tmp_path)).run()


def test_a_corrupt_picture_is_named_once_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_set(tmp_path / "set", train=24)
    job = small_job(data, tmp_path / "run", steps=18, batch=4)  # three epochs
    training = small_training(job)
    (tmp_path / "set/images/train/005.png").write_bytes(b"\x89PNG cut off")
    with caplog.at_level(logging.WARNING):
        outcome = training.run()
    named = [record.getMessage() for record in caplog.records if "005.png" in record.getMessage()]
    assert len(named) == 1 and "skipped, as it can't be read" in named[0]
    assert outcome.unreadable == 1 and outcome.state.step == 18


def test_too_many_corrupt_pictures_end_the_run(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", train=24)
    job = small_job(data, tmp_path / "run", steps=18, batch=4)
    for number in (3, 5, 9):
        (tmp_path / f"set/images/train/{number:03}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"of 24 pictures can't be read \(00\d\.png, .*at most 5% is allowed"):
        small_training(job).run()


@pytest.mark.parametrize(("room", "wanted"), [(100, 16), (16, 16), (15, 8), (3, 2), (1, 1), (0, None)])
def test_the_largest_fitting_batch_is_found(room: int, wanted: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = TrainingNetwork.forward

    def limited(self: TrainingNetwork, images: Tensor) -> Any:
        tried.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, images)

    monkeypatch.setattr(TrainingNetwork, "forward", limited)
    assert memory_probe.largest_fitting_batch(narrow_spec(), 33, CPU, "f32") == wanted
    assert tried == [size for size in (16, 8, 4, 2, 1) if size >= (wanted or 0)]


def test_memory_of_the_backward_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.autograd.backward
    tried: list[float] = []

    def limited(loss: Tensor) -> None:
        tried.append(float(loss.detach()))
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(loss)

    monkeypatch.setattr(torch.autograd, "backward", limited)
    assert memory_probe.largest_fitting_batch(narrow_spec(), 8, CPU, "bf16") == 2
