"""The training loop on small sets: what it learns, writes and ends by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from torch import Tensor  # noqa: E402

from calibration.accuracy import Accuracy  # noqa: E402
from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.run_folder.results_table import EpochResult, read_results  # noqa: E402
from calibration.training import loop  # noqa: E402
from calibration.training.augmentation import Augmentation  # noqa: E402
from calibration.training.checkpoint_file import read_checkpoint  # noqa: E402
from calibration.training.loader import Batch, Loader  # noqa: E402
from calibration.training.losses import detection_loss  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from calibration.training.photometry import network_inputs  # noqa: E402
from calibration.training.recipe import Schedule  # noqa: E402
from streamer.common.interrupt import Interrupt  # noqa: E402
from tests.test_nanodet import tiny  # noqa: E402
from tests.training_runs import (  # noqa: E402
    NAMES,
    StopAfter,
    narrow_spec,
    one_thread,  # noqa: F401
    small_job,
    small_training,
    write_set,
)

CONSTANT = Schedule("steps", warmup_steps=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def measured(*values: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes validations measure these AP, the last one again and again; returns the list of those given out."""
    given: list[float] = []

    def accuracy(*_: Any) -> Accuracy:
        given.append(values[min(len(given), len(values) - 1)])
        return Accuracy(given[-1], given[-1], given[-1], 0, 0, 0)

    monkeypatch.setattr(loop, "coco_accuracy", accuracy)
    return given


def seen_batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Notes the batches that loaders give out from now on."""
    seen: list[Batch] = []
    original = Loader.__next__

    def note(self: Loader) -> Batch:
        seen.append(original(self))
        return seen[-1]

    monkeypatch.setattr(Loader, "__next__", note)
    return seen


@pytest.mark.slow
def test_it_learns_eight_pictures(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set", train=8, val=1)
    job = small_job(data, tmp_path / "run", steps=250, batch=8, lr=8e-3, validations=5)
    outcome = small_training(small_job(data, tmp_path / "run", recipe=job.recipe, val=job.train)).run()
    assert outcome.accuracy is not None and outcome.accuracy.AP > 50 and outcome.accuracy.AP50 > 80
    assert outcome.state.best_ap == outcome.accuracy.AP
    rows = read_results(job.folder.results)
    losses = [row.loss for row in rows if row.loss is not None]
    assert losses[-1] < 0.3 * losses[0]


def test_the_loss_falls(data: Path, tmp_path: Path) -> None:
    small_training(small_job(data, tmp_path, steps=24, batch=8, lr=8e-3, schedule=CONSTANT, validations=1)).run()
    losses = [row.loss for row in read_results(tmp_path / "results.csv")]
    assert len(losses) == 24 and None not in losses
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])  # type: ignore[arg-type]


def test_each_epoch_has_a_row_and_validations_fall_on_their_shares(data: Path, tmp_path: Path) -> None:
    rows: list[EpochResult] = []
    job = small_job(data, tmp_path, steps=20, batch=8, validations=10)
    outcome = small_training(job).run(on_row=rows.append)
    assert [(row.epoch, row.step) for row in rows] == [(step, step) for step in range(1, 21)]
    assert [row.epoch for row in rows if row.AP is not None] == list(range(2, 21, 2))
    written = read_results(job.folder.results)
    assert written == tuple(rows)
    for row in rows:
        assert row.loss == pytest.approx(row.qfl + row.bbox + row.dfl, rel=1e-5)  # type: ignore[operator]
        assert row.aux_qfl is None and row.int8_AP is None and row.lr is not None
    assert (outcome.state.epoch, outcome.state.step, outcome.was_interrupted) == (20, 20, False)


def test_validation_every_few_epochs_as_upstream(data: Path, tmp_path: Path) -> None:
    rows: list[EpochResult] = []
    job = small_job(data, tmp_path, steps=None, epochs=7, batch=3, validations=None, validate_epochs=3)
    small_training(job).run(on_row=rows.append)
    assert [row.epoch for row in rows] == list(range(1, 8))
    assert [row.epoch for row in rows if row.AP is not None] == [3, 6, 7]
    assert rows[-1].step == 19  # 7 epochs of 8 pictures in batches of 3


@pytest.mark.parametrize(("batch", "accumulate"), [(6, 1), (6, 2), (6, 3), (24, 2)])
def test_rows_are_of_ascending_epochs_however_batches_lie(
    data: Path, tmp_path: Path, batch: int, accumulate: int
) -> None:
    rows: list[EpochResult] = []
    job = small_job(data, tmp_path, steps=8, batch=batch, accumulate=accumulate, validations=1)
    small_training(job).run(on_row=rows.append)
    ends = [step for step in range(1, 9) if step == 8 or step * batch // 8 > (step - 1) * batch // 8]
    assert [row.step for row in rows] == ends
    assert [row.epoch for row in rows] == [(step - 1) * batch // 8 + 1 for step in ends]
    assert read_results(job.folder.results) == tuple(rows)


def test_checkpoints_hold_the_last_and_the_best(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(10.0, 30.0, 20.0, monkeypatch=monkeypatch)
    job = small_job(data, tmp_path, steps=6, batch=8, validations=3, lr=1e-2, schedule=CONSTANT)
    training = small_training(job)
    averages: dict[int, dict[str, Tensor]] = {}
    assert training.average is not None
    values = training.average.values

    def note(row: EpochResult) -> None:
        averages[row.step] = {name: value.clone() for name, value in values.items()}

    outcome = training.run(on_row=note)
    assert (outcome.state.best_ap, outcome.state.best_step, outcome.state.best_epoch) == (30, 4, 4)
    for path, step in ((job.folder.last_checkpoint, 6), (job.folder.best_checkpoint, 4)):
        assert read_checkpoint(path)["global_step"] == step
        weights, _ = load_checkpoint(path)
        for name, value in weights.items():
            assert torch.equal(value, averages[step][f"network.{name}"]), (path, name)
    assert "training" not in read_checkpoint(job.folder.best_checkpoint)
    assert read_checkpoint(job.folder.last_checkpoint)["names"] == list(NAMES)


def test_patience_ends_a_run_that_no_longer_improves(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = measured(10.0, 20.0, 15.0, 20.0, 12.0, monkeypatch=monkeypatch)
    job = small_job(data, tmp_path, steps=20, batch=8, validations=20, patience=3)
    outcome = small_training(job).run()
    assert given == [10.0, 20.0, 15.0, 20.0, 12.0]
    assert (outcome.state.step, outcome.state.best_step, outcome.state.stale) == (5, 2, 3)
    assert read_checkpoint(job.folder.last_checkpoint)["global_step"] == 5


def test_an_accuracy_that_is_no_number_is_never_the_best(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(float("nan"), monkeypatch=monkeypatch)
    job = small_job(data, tmp_path, steps=2, batch=8)
    outcome = small_training(job).run()
    assert outcome.accuracy is None and not job.folder.best_checkpoint.exists()
    assert job.folder.last_checkpoint.exists()


def test_a_budget_ends_in_time_with_a_validation(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def monotonic() -> float:
        clock.now += 0.05
        return clock.now

    def accuracy(*_: Any) -> Accuracy:
        clock.now += 1.5
        return Accuracy(1, 1, 1, 1, 1, 1)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(loop, "coco_accuracy", accuracy)
    rows: list[EpochResult] = []
    job = small_job(data, tmp_path, steps=None, epochs=None, batch=8, budget_s=20.0, validations=4)
    outcome = small_training(job).run(on_row=rows.append)
    assert 18 < outcome.state.elapsed_s <= 20
    measured_rows = sum(row.AP is not None for row in rows)
    assert rows[-1].AP is not None and measured_rows * 1.5 <= 20 / 5 + 1.5  # a fifth of the time, and the last one
    assert measured_rows >= 2
    rates = [row.lr for row in rows if row.lr is not None]
    assert max(rates) == pytest.approx(job.recipe.scaled_lr) and rates[-1] < 0.2 * max(
        rates
    )  # a validation may be the last that fits


def test_auxiliary_losses_are_detached_from_their_epoch_on(data: Path, tmp_path: Path) -> None:
    spec = tiny("nanodet-plus-m_64", labels=NAMES)
    job = small_job(data, tmp_path, spec, steps=8, batch=4, detach_epoch=2)
    training = small_training(job)
    seen: list[bool] = []
    training.network.register_forward_pre_hook(lambda module, _: seen.append(module.detach_auxiliary))  # type: ignore[arg-type]
    training.run()
    assert seen == [False] * 4 + [True] * 4  # two steps an epoch
    assert read_results(job.folder.results)[-1].aux_qfl is not None


def test_a_validation_reports_its_progress_to_the_shutdown(data: Path, tmp_path: Path) -> None:
    """Where a signal has come, a program without progress is ended: a long validation has to show some."""
    reported: list[object] = []

    class Signals(Interrupt):
        def report_progress(self, progress: object) -> None:
            reported.append(progress)

    job = small_job(data, tmp_path, steps=2, batch=8, validations=1)
    job = replace(job, val=[*job.val] * 20)  # three batches
    small_training(job).run(Signals())
    assert reported[:3] == [0, 1, 2] and len(reported) == len(set(reported)) == 6


def test_accumulating_takes_the_mean_gradient_of_the_parts(data: Path, tmp_path: Path) -> None:
    spec = narrow_spec()
    job = small_job(
        data, tmp_path, spec, steps=1, batch=8, accumulate=2, optimiser="sgd", lr=0.05, reference_batch=8,
        schedule=CONSTANT, clip_norm=None, weight_decay=0.0,
    )  # fmt: skip
    training = small_training(job)
    by_hand = TrainingNetwork(spec)
    by_hand.load_state_dict(training.network.state_dict())
    with Loader(job.train, spec, Augmentation.none(), 4, job.seed) as loader:
        for _ in range(2):  # each half is normalised by its own statistics
            batch = next(loader)
            losses = detection_loss(by_hand(network_inputs(batch.images, spec, batch.colour)), batch.truth, spec)
            torch.autograd.backward(losses.total / 2)
    with torch.no_grad():
        for parameter in by_hand.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    training.run()
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(training.network.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_frozen_backbone_stays_equal_to_the_bit(data: Path, tmp_path: Path) -> None:
    training = small_training(small_job(data, tmp_path, freezes_backbone=True, lr=1e-2))
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    training.run()
    assert training.average is not None
    moved = 0
    for name, value in training.network.state_dict().items():
        if name.startswith("network.backbone."):
            assert torch.equal(value, before[name]) and torch.equal(training.average.values[name], before[name]), name
        else:
            moved += not torch.equal(value, before[name])
    assert moved > 5


def test_gradients_are_clipped(data: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"steps": 1, "optimiser": "sgd", "lr": 1.0, "reference_batch": 4, "weight_decay": 0.0}
    training = small_training(small_job(data, tmp_path, schedule=CONSTANT, clip_norm=0.01, **shared))
    before = {name: value.clone() for name, value in training.network.named_parameters()}
    training.run()
    moved = [(value - before[name]).norm() for name, value in training.network.named_parameters()]
    assert torch.stack(moved).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("stopped_after", [None, 3, 7, 9])
def test_final_augmentation_begins_at_its_share_also_of_a_resumed_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int | None
) -> None:
    strong = Augmentation.strong()
    job = small_job(
        data, tmp_path, steps=10, augmentation=strong, final_augmentation=Augmentation.none(), final_share=0.3
    )
    expected = []
    for settings in (strong, Augmentation.none()):
        with Loader(job.train, job.spec, settings, 4, job.seed, workers=1) as loader:
            expected.append([next(loader).images for _ in range(10)])
    seen = seen_batches(monkeypatch)
    training = small_training(job)
    training.run(None if stopped_after is None else StopAfter(training, stopped_after))
    if stopped_after is not None:
        assert len(seen) == stopped_after
        training = small_training(job)
        training.resume()
        training.run()
    assert [batch.step for batch in seen] == list(range(10))
    for step, batch in enumerate(seen):
        assert torch.equal(batch.images, expected[step >= 7][step]), step


def test_the_loss_of_a_teacher_is_added_or_stands_alone(data: Path, tmp_path: Path) -> None:
    spec = narrow_spec()
    teacher = TrainingNetwork(spec).network
    losses: dict[tuple[bool, bool], float] = {}
    for taught, uses_labels in ((False, True), (True, True), (True, False)):
        job = small_job(
            data, tmp_path / f"{taught}{uses_labels}", spec, steps=1, uses_labels=uses_labels,
            teacher=teacher if taught else None,
        )  # fmt: skip
        small_training(job).run(on_step=lambda _, means, key=(taught, uses_labels): losses.update({key: means["loss"]}))  # type: ignore[misc]
    assert losses[True, False] > 0
    assert losses[True, True] == pytest.approx(losses[False, True] + losses[True, False], rel=1e-5)


def test_the_best_weights_are_a_copy(data: Path, tmp_path: Path) -> None:
    training = small_training(small_job(data, tmp_path))
    copy = training.trained_network()
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert any(bool(value.any()) for value in training.network.parameters())
    assert training.average is not None and any(bool(value.any()) for value in training.average.values.values())
