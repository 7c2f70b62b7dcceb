"""What a run began with: kept in its folder, so that resuming needs none of the files that it was made from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch

from calibration.files import write_whole
from calibration.training.network import TrainingNetwork
from calibration.training.preparation import Prepared
from streamer.common.errors import ConfigError, ModelError, one_line, short
from streamer.models.nanodet import NanoDet, build
from streamer.models.spec import ModelSpec


def write_beginning(path: Path, prepared: Prepared) -> None:
    """Writes the initial weights, the teacher, and what was done to make them.

    Raises:
        ConfigError: the file can't be written.
    """
    network, teacher = prepared.network, prepared.teacher
    buffer = io.BytesIO()
    torch.save(
        {
            "names": list(network.spec.labels),
            "network": network.state_dict(),
            "has_new_auxiliary": network.has_new_auxiliary,
            "teacher": None if teacher is None else teacher.state_dict(),
            "teacher_activation": None if teacher is None else teacher.spec.activation,
            "done": list(prepared.done),
        },
        buffer,
    )
    write_whole(path, buffer.getvalue())


def read_beginning(path: Path, spec: ModelSpec, data: Path) -> Prepared:
    """Reads what `write_beginning` wrote, executing nothing in the file.

    Args:
        path: the file.
        spec: of the network.
        data: the description of the data, for messages.

    Raises:
        ModelError: it is missing, damaged, or of another network.
        ConfigError: the data's classes are others.
    """
    try:
        stored = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        check_classes(stored["names"], spec, data)
        network = TrainingNetwork(spec)
        network.load_state_dict(stored["network"])
        network.has_new_auxiliary = bool(stored["has_new_auxiliary"])
        teacher: NanoDet | None = None
        if stored["teacher"] is not None:
            teacher = build(spec.model_copy(update={"activation": stored["teacher_activation"]})).eval()
            teacher.load_state_dict(stored["teacher"])
        return Prepared(network, teacher, tuple(map(str, stored["done"])))
    except OSError as error:
        raise ModelError(f"{path}: can't read what the run began with: {error.strerror or error}") from error
    except ConfigError:
        raise
    except Exception as error:  # a damaged file can trip the reader anywhere
        reason = short(one_line(str(error)))
        raise ModelError(f"{path}: it isn't what this run began with, or of another network: {reason}") from error


def check_classes(names: Sequence[str], spec: ModelSpec, data: Path) -> None:
    """Raises ConfigError if the classes of the data aren't those that a run began with."""
    if tuple(names) != spec.labels:
        raise ConfigError(f"{data}: its classes aren't those that the run began with: begin a new one")
