"""A run that is stopped and resumed ends as one that isn't, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from calibration.run_folder.results_table import EpochResult, read_results  # noqa: E402
from calibration.training.augmentation import Augmentation  # noqa: E402
from calibration.training.checkpoint_file import read_checkpoint  # noqa: E402
from calibration.training.job import Job  # noqa: E402
from calibration.training.loop import Training  # noqa: E402
from streamer.common.errors import ConfigError, ModelError  # noqa: E402
from streamer.models.spec import ModelSpec  # noqa: E402
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

MEASURED_TIMES = ("time_s", "images_per_s", "data_wait_share", "gpu_memory_mb")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set"))


def final_state(path: Path) -> dict[str, Any]:
    """Returns what a run ended with, without times."""
    own: dict[str, Any] = read_checkpoint(path)["training"]
    state = {name: value for name, value in own["state"].items() if not name.endswith("_s")}
    return {**own["network"], **{f"average {name}": value for name, value in (own["average"] or {}).items()}} | {
        "optimiser": own["optimiser"]["state"],
        "rates": [group["lr"] for group in own["optimiser"]["param_groups"]],
        "state": state,
    }


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def without_times(path: Path) -> list[EpochResult]:
    return [replace(row, **dict.fromkeys(MEASURED_TIMES)) for row in read_results(path)]  # type: ignore[arg-type]


def assert_same_run(one: Path, other: Path) -> None:
    assert_equal(final_state(one / "last.ckpt"), final_state(other / "last.ckpt"))
    rows, others = without_times(one / "results.csv"), without_times(other / "results.csv")
    assert len(rows) == len(others)
    for row, each in zip(rows, others, strict=True):
        assert row == each
    for path in (one, other):  # no row twice, not even where reading passes over it
        lines = (path / "results.csv").read_text().splitlines()
        assert len(lines) == 1 + len(rows)


def resumed(job: Job) -> Training:
    training = small_training(job)
    training.resume()
    return training


SETTINGS: dict[str, tuple[ModelSpec, dict[str, Any]]] = {
    "default": (
        narrow_spec(),
        {
            "augmentation": Augmentation.strong(), "final_augmentation": Augmentation.light(), "final_share": 0.3,
            "validations": 3,
        },
    ),
    "upstream": (narrow_spec(), {"optimiser": "sgd", "lr": 0.01, "averaging": None, "decays_all": True}),
    "plus": (
        tiny("nanodet-plus-m_64", labels=NAMES),
        {"detach_epoch": 2, "has_new_auxiliary": True, "accumulate": 2, "simulates_int8": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("default", (1,)),
        ("default", (2, 6, 7)),  # an epoch ends at 6
        ("default", (9,)),
        ("upstream", (5, 6)),
        pytest.param("upstream", (8,), marks=pytest.mark.slow),
        pytest.param("plus", (2, 6, 7), marks=pytest.mark.slow),
        pytest.param("plus", (1, 9), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_as_an_undisturbed_one(
    name: str, stops: tuple[int, ...], data: Path, tmp_path: Path
) -> None:
    spec, changes = SETTINGS[name]
    jobs = [small_job(data, tmp_path / run, spec, **{"steps": 10, "batch": 3 * changes.get("accumulate", 1)} | changes)
            for run in ("whole", "parts")]  # fmt: skip
    small_training(jobs[0]).run()
    for number, step in enumerate(stops):
        training = resumed(jobs[1]) if number else small_training(jobs[1])
        outcome = training.run(StopAfter(training, step))
        assert outcome.was_interrupted and outcome.state.step == step
    assert resumed(jobs[1]).run().state.step == 10
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_validations_due_before_a_stop_follow_it(data: Path, tmp_path: Path) -> None:
    """Where a validation's share has passed within an epoch, it is at the epoch's end, also of a resumed run."""
    jobs = [small_job(data, tmp_path / run, steps=40, batch=1, validations=3) for run in ("whole", "parts")]
    small_training(jobs[0]).run()
    training = small_training(jobs[1])
    training.run(StopAfter(training, 15))  # a third of the run is step 13.3; epochs end at 8, 16, 24 ...
    resumed(jobs[1]).run()
    for job in jobs:
        assert [row.step for row in read_results(job.folder.results) if row.AP is not None] == [16, 32, 40]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_without_a_checkpoint_begins_anew(data: Path, tmp_path: Path) -> None:
    jobs = [small_job(data, tmp_path / run, steps=4) for run in ("whole", "killed")]
    small_training(jobs[0]).run()
    (tmp_path / "killed" / "results.csv").write_text((tmp_path / "whole" / "results.csv").read_text())
    resumed(jobs[1]).run()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_longer_run_goes_on_by_its_schedule(data: Path, tmp_path: Path) -> None:
    first = small_job(data, tmp_path, steps=None, epochs=3, batch=3)
    small_training(first).run()
    assert [row.epoch for row in read_results(first.folder.results)] == [1, 2, 3]
    longer = replace(first, recipe=replace(first.recipe, epochs=6))
    training = resumed(longer)
    rates: dict[int, float] = {}
    training.run(on_step=lambda state, _: rates.update({state.step: training.optimiser.param_groups[0]["lr"]}))
    assert training.state.step == training.length.steps == 16
    rows = read_results(first.folder.results)
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5, 6] and rows[-1].AP is not None
    assert len(first.folder.results.read_text().splitlines()) == 7
    recipe = longer.recipe
    expected = {step: recipe.scaled_lr * recipe.schedule.factor(step - 1, (step - 1) / 16) for step in rates}
    assert rates == pytest.approx(expected)


def test_an_epoch_that_a_run_ended_within_has_one_row_when_it_goes_on(data: Path, tmp_path: Path) -> None:
    first = small_job(data, tmp_path, steps=4, batch=3)
    small_training(first).run()
    assert [(row.epoch, row.step) for row in read_results(first.folder.results)] == [(1, 3), (2, 4)]
    resumed(replace(first, recipe=replace(first.recipe, steps=8))).run()
    assert [(row.epoch, row.step) for row in read_results(first.folder.results)] == [(1, 3), (2, 6), (3, 8)]
    assert len(first.folder.results.read_text().splitlines()) == 4


def test_a_finished_run_keeps_its_table(data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=5, batch=3)  # ends within an epoch
    small_training(job).run()
    before = job.folder.results.read_bytes()
    outcome = resumed(job).run()
    assert outcome.state.step == 5 and job.folder.results.read_bytes() == before


def test_a_checkpoint_of_another_network_is_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=2)
    small_training(job).run()
    other = replace(job, spec=narrow_spec(width=24))
    with pytest.raises(ModelError, match=r"last\.ckpt: it isn't a checkpoint of this run, or of another network") as e:
        resumed(other)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_other_classes_are_refused(data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=2)
    small_training(job).run()
    with pytest.raises(ConfigError, match="its classes aren't those that the run began with"):
        resumed(replace(job, spec=narrow_spec(("blue", "red"))))


def test_another_number_of_pictures_is_refused(data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=2)
    small_training(job).run()
    with pytest.raises(
        ConfigError, match="began with 8 training pictures, now there are 7: begin a new one with --init"
    ):
        resumed(replace(job, train=job.train[1:]))


def test_without_the_best_weights_the_best_from_there_on_are_kept(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = small_job(data, tmp_path, steps=2, validations=1)
    small_training(job).run()
    job.folder.best_checkpoint.unlink()
    with pytest.raises(ModelError, match=r"best\.ckpt, with the weights of step 2 \(AP .*\), is gone: put it back, or"):
        resumed(job)
    longer = replace(job, recipe=replace(job.recipe, steps=4))
    assert resumed(longer).run().state.best_step == 4 and job.folder.best_checkpoint.is_file()
    assert "is gone: the best from here on are kept instead" in caplog.text


@pytest.mark.parametrize("left", [5_000, 20_000, 60_000, 100_000])  # PyTorch tells these in different ways
def test_a_checkpoint_that_is_cut_short_is_named(left: int, data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=2)
    small_training(job).run()
    whole = job.folder.last_checkpoint.read_bytes()
    assert len(whole) > left
    job.folder.last_checkpoint.write_bytes(whole[:left])
    with pytest.raises(ModelError, match=r"last\.ckpt: not a checkpoint of this program, or cut short"):
        resumed(job)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_a_damaged_checkpoint_is_named(content: bytes, data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=2)
    job.folder.last_checkpoint.write_bytes(content)
    with pytest.raises(ModelError, match=r"last\.ckpt: not a checkpoint"):
        resumed(job)


def test_best_weights_alone_cant_be_resumed(data: Path, tmp_path: Path) -> None:
    job = small_job(data, tmp_path, steps=2)
    small_training(job).run()
    job.folder.best_checkpoint.replace(job.folder.last_checkpoint)
    with pytest.raises(ModelError, match="it isn't a checkpoint of this run"):
        resumed(job)
