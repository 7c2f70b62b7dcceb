"""A network to train, with its initial weights and, where an activation is exchanged, its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from calibration.labels import Sample
from calibration.pictures import read_picture
from calibration.training.batchnorm import is_folded, restore_batchnorm
from calibration.training.initial_weights import Source, initialise, read_source
from calibration.training.network import TrainingNetwork
from calibration.training.photometry import network_inputs
from calibration.training.slopes import exchanges_leaky_relu
from streamer.common.errors import ConfigError, SourceError
from streamer.models.nanodet import NanoDet
from streamer.models.spec import ModelSpec
from streamer.models.zoo import resolve_model

_STATISTICS_PICTURES = 64
_PACKAGED = {"nanodet-g": "nanodet-g_416_float"}


@dataclass(frozen=True)
class Prepared:
    """What a run begins with.

    Attributes:
        network: with its initial weights.
        teacher: the network as it was before its activation was exchanged, or None.
        done: what was done, each in a sentence.
    """

    network: TrainingNetwork
    teacher: NanoDet | None
    done: tuple[str, ...]


def find_source(spec: ModelSpec, init: str) -> Source | None:
    """Reads the file of initial weights; returns None for random ones.

    Args:
        spec: of the network.
        init: ``auto``, ``none`` or a file. ``auto`` takes the packaged model's, where the network is packaged.

    Raises:
        ConfigError: there is no such file, or the network isn't packaged.
        ModelError: it can't be read.
    """
    if init == "none":
        return None
    if init == "auto":
        name = _PACKAGED.get(spec.name)
        if name is None:
            raise ConfigError(
                f"there are no packaged weights of {spec.name}: give a checkpoint with --init FILE, or train from"
                " random weights with --init none, which takes far more pictures and time"
            )
        return replace(read_source(resolve_model(name)[0]), shown=f"the packaged {name}")
    path = Path(init)
    if not path.is_file():
        raise ConfigError(f"--init wants auto, none, or a checkpoint or float ONNX file; there is no file {init!r}")
    return read_source(path)


def prepare(
    spec: ModelSpec,
    source: Source | None,
    samples: Sequence[Sample],
    device: torch.device,
    *,
    seed: int,
    teaches: bool | None,
    teacher_activation: str,
) -> Prepared:
    """Builds the network, loads its weights, and measures the statistics of normalisations that a file has folded.

    Args:
        spec: of the network, with the classes to train.
        source: initial weights, or None.
        samples: the training pictures.
        device: where the statistics are measured.
        seed: of new weights.
        teaches: whether the initial network teaches the new one; None: where its activation is another and it knows the
            same classes.
        teacher_activation: the activation that the initial weights were trained with, where their file doesn't say.

    Raises:
        ModelError: the weights don't fit.
        ConfigError: a teacher is wanted, and its classes are others.
    """
    torch.manual_seed(seed)
    network = TrainingNetwork(spec)
    done = list(initialise(network, source, spec.labels))
    old = None
    if source is not None and teaches is not False:
        own = source.activation or teacher_activation
        if source.keeps_head(spec) and (teaches or own != spec.activation):
            old = TrainingNetwork(spec.model_copy(update={"activation": own}))
            initialise(old, source, spec.labels)
            done.append(f"the network with {own} teaches the one with {spec.activation}")
    if teaches and old is None:
        if source is None:
            raise ConfigError("random weights can't teach: leave --teacher yes out, or give trained ones with --init")
        raise ConfigError(f"{source.path} can't teach: it doesn't know all of the classes to train")
    folded = [each for each in (network, old) if each is not None and is_folded(each.network)]
    if folded:
        images = _inputs(samples[:_STATISTICS_PICTURES], spec)
        for each in folded:
            each.network.to(device)
            batches = torch.split(torch.from_numpy(images), 8)
            restore_batchnorm(each.network, (network_inputs(batch.to(device), spec) for batch in batches))
    if old is not None and exchanges_leaky_relu(old.spec, spec):  # the statistics are those of what it begins as
        network.network.load_state_dict(old.network.state_dict())
    return Prepared(network, None if old is None else old.network.eval(), tuple(done))


def _inputs(samples: Sequence[Sample], spec: ModelSpec) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Returns pictures as network inputs, (B, H, W, 3) uint8 BGR; unreadable ones are left out."""
    pixels = []
    for index, sample in enumerate(tqdm(samples, desc="statistics", unit=" images", disable=None)):
        try:
            pixels.append(read_picture(sample, index, spec).pixels)
        except SourceError:
            continue
    if not pixels:
        raise ConfigError("none of the first training pictures can be read")
    return np.stack(pixels)
