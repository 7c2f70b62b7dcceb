"""Checkpoints in the form of official ones, with what this project adds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calibration.files import write_whole
from calibration.training.network import TrainingNetwork
from streamer.common.errors import ModelError
from streamer.models.spec import ModelSpec

_LIGHTNING = {"pytorch-lightning_version": "1.9.0"}
"""Upstream's tools take a checkpoint without this key for one of their versions before 0.4, whose names differ."""
NAMES_KEY = "names"
ACTIVATION_KEY = "activation"


def write_checkpoint(
    path: Path, network: TrainingNetwork, averaged: Mapping[str, Tensor] | None = None, extra: Mapping[str, Any] = {}
) -> None:
    """Writes a checkpoint atomically: ``{"state_dict": {"model.backbone...": tensor, ...}, "names": [...], ...}``.

    `calibration.checkpoint.load_checkpoint` and upstream's `load_model_weight` read it, averaged weights first.

    Args:
        path: the file.
        network: its weights are written under ``model.``.
        averaged: averaged weights by the network's own parameter names, written under ``avg_model.``.
        extra: further keys, of plain values and tensors, such as ``epoch``, ``global_step`` and the optimiser's state.

    Raises:
        ConfigError: it can't be written, for instance because the disk is full; a file that was there stays.
    """
    state = {f"model.{name}": value for name, value in _on_cpu(network.official_state()).items()}
    if averaged is not None:
        weights = _on_cpu(network.official_state(averaged))
        state |= {f"avg_model.{name}": value for name, value in weights.items()}
    content: dict[str, Any] = {**_LIGHTNING, "epoch": 0, "global_step": 0, NAMES_KEY: list(network.spec.labels)}
    content |= {ACTIVATION_KEY: network.spec.activation, **extra}
    buffer = io.BytesIO()
    torch.save({**content, "state_dict": state}, buffer)
    write_whole(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads all of what `write_checkpoint` wrote, onto the CPU, executing nothing in the file.

    Raises:
        ModelError: the file is missing, damaged, or another program's.
    """
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: can't read the checkpoint: {error.strerror or error}") from None
    except Exception as error:  # a damaged file can trip the reader anywhere
        raise ModelError(f"{path}: not a checkpoint of this program, or cut short") from error
    if not isinstance(content, dict) or NAMES_KEY not in content or "state_dict" not in content:
        raise ModelError(f"{path}: not a checkpoint of this program: it has no {NAMES_KEY!r}")
    return content


def as_trained(spec: ModelSpec, path: Path) -> ModelSpec:
    """Returns a description with the classes and the activation of a checkpoint that `write_checkpoint` wrote.

    Of other checkpoints, which name neither, it returns the description as it is.
    """
    try:
        stored = read_checkpoint(path)
    except ModelError:
        return spec
    trained = {"labels": tuple(stored[NAMES_KEY]), "activation": stored.get(ACTIVATION_KEY, spec.activation)}
    return spec.model_copy(update=trained)


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}
