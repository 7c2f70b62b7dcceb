"""Exporting a checkpoint that this program trained: its own classes and activation."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from calibration.export import read_spec  # noqa: E402
from calibration.training.checkpoint_file import write_checkpoint  # noqa: E402
from calibration.training.network import TrainingNetwork  # noqa: E402
from streamer.models.spec import spec_for  # noqa: E402


def test_a_name_is_completed_by_the_checkpoint(tmp_path: Path) -> None:
    trained = spec_for("nanodet-m-0.5x_64").model_copy(update={"labels": ("cat", "dog"), "activation": "ReLU"})
    write_checkpoint(tmp_path / "best.ckpt", TrainingNetwork(trained))
    assert read_spec("nanodet-m-0.5x_64", None, tmp_path / "best.ckpt") == trained


def test_other_checkpoints_leave_the_description_as_it_is(tmp_path: Path) -> None:
    spec = spec_for("nanodet-m-0.5x_64")
    torch.save({"state_dict": {}}, tmp_path / "official.ckpt")
    assert read_spec("nanodet-m-0.5x_64", None, tmp_path / "official.ckpt") == spec
    assert read_spec("nanodet-m-0.5x_64", None, tmp_path / "missing.ckpt") == spec
