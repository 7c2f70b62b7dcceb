"""Reads pictures as network inputs, split into calibration, validation and gate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from calibration.dataset import check_unreadable, list_images, read_frame, read_samples
from calibration.labels import Sample
from streamer.common.errors import ConfigError, SourceError
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec

MIN_PICTURES = 16
_MIN_CALIBRATION = 8


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, letterboxed by the runtime's own code.

    Attributes:
        sample: its file and ground truth.
        size_wh: of the file, in pixels.
        letterbox: from the file's pixels to the network's input.
        pixels: the network's input, (H, W, 3) uint8 BGR.
    """

    sample: Sample
    size_wh: tuple[int, int]
    letterbox: Letterbox
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DatasetSplit:
    """The pictures of each purpose; calibration shares none with the others.

    Attributes:
        calibration: for the ranges of activations.
        validation: for choosing methods and layers, without labels.
        gate: for the accuracy gate; includes `validation`.
        unreadable: files that were skipped.
    """

    calibration: list[Picture]
    validation: list[Picture]
    gate: list[Picture]
    unreadable: list[Path]


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures whose labels are read already; the two share none.

    Attributes:
        calibration: for the ranges of activations.
        gate: for validation and the accuracy gate.
    """

    calibration: Sequence[Sample]
    gate: Sequence[Sample]


def split_labelled(spec: ModelSpec, pictures: LabelledPictures) -> DatasetSplit:
    """Reads pictures whose labels are read already.

    Raises:
        ConfigError: too few pictures, or too many unreadable ones.
    """
    unreadable: list[Path] = []
    where = pictures.calibration[0].image.parent if pictures.calibration else Path()
    calibration, held_out = (
        _shuffled(_letterboxed(spec, samples, where, unreadable, MIN_PICTURES))
        for samples in (pictures.calibration, pictures.gate)
    )
    return DatasetSplit(calibration, held_out[: len(held_out) // 2], held_out, unreadable)


def split(
    spec: ModelSpec,
    images: Path,
    labels: Path | None = None,
    gate_images: Path | None = None,
    gate_labels: Path | None = None,
    extra_images: Path | None = None,
) -> DatasetSplit:
    """Reads the pictures and splits them by the hash of their names, which is reproducible.

    Without `gate_images`, a quarter of `images` (at least 8) is for calibration and the rest is held out; with them,
    all of `images` are for calibration. Half of the held-out pictures are for validation, all of them for the gate.
    `extra_images` are for calibration too and need no labels.

    Raises:
        ConfigError: too few pictures, too many unreadable ones, or labels that don't fit.
    """
    if gate_labels and not gate_images:
        raise ConfigError("--gate-labels needs --gate-images: whose labels are they?")
    if gate_images and labels and not gate_labels:
        raise ConfigError("accuracy is measured on --gate-images, so it's they that need labels: give --gate-labels")
    unreadable: list[Path] = []
    given = _shuffled(_read(spec, images, None if gate_images else labels, unreadable))
    if gate_images:
        shared = {picture.sample.image.resolve() for picture in given}
        held_out = _shuffled(_read(spec, gate_images, gate_labels, unreadable))
        if any(picture.sample.image.resolve() in shared for picture in held_out):
            raise ConfigError("--gate-images and --images share pictures: the gate needs its own")
        calibration = given
    else:
        count = max(_MIN_CALIBRATION, len(given) // 4)
        calibration, held_out = given[:count], given[count:]
    if extra_images is not None:
        used = {picture.sample.image.resolve() for picture in (*given, *held_out)}
        extra = _read(spec, extra_images, None, unreadable, least=1)
        calibration += [picture for picture in extra if picture.sample.image.resolve() not in used]
    return DatasetSplit(calibration, held_out[: len(held_out) // 2], held_out, unreadable)


def network_input(picture: Picture, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Returns (1, 3, H, W) float32, normalised exactly as the engines' graph does."""
    scale = 1 / np.array(spec.std_bgr, np.float32)
    normalised = (picture.pixels.astype(np.float32) - np.array(spec.mean_bgr, np.float32)) * scale
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])


def _shuffled(pictures: Sequence[Picture]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: hashlib.sha256(picture.sample.image.name.encode()).digest())


def _read(
    spec: ModelSpec, images: Path, labels: Path | None, unreadable: list[Path], *, least: int = MIN_PICTURES
) -> list[Picture]:
    if labels is None:
        samples = [Sample.of(file, []) for file in list_images(images)]
    else:
        samples = read_samples(images, labels, spec.labels)
    return _letterboxed(spec, samples, images, unreadable, least)


def read_picture(sample: Sample, index: int, spec: ModelSpec) -> Picture:
    """Reads one picture as a network's input; raises SourceError if it can't be read."""
    frame = read_frame(sample.image, index)
    letterbox = Letterbox.for_model(frame, spec)
    width, height = spec.input_size_wh
    pixels = np.zeros((height, width, 3), np.uint8)
    letterbox.apply(frame, pixels)
    return Picture(sample, frame.size_wh, letterbox, pixels)


def _letterboxed(
    spec: ModelSpec, samples: Sequence[Sample], where: Path, unreadable: list[Path], least: int
) -> list[Picture]:
    """Reads pictures; unreadable ones are left out, at most a few, and added to `unreadable`."""
    if len(samples) < least:
        raise ConfigError(f"{where}: wanted at least {least} pictures, got {len(samples)}")
    pictures = []
    bad = []
    for index, sample in enumerate(tqdm(samples, desc="reading pictures", unit=" images", disable=None)):
        try:
            pictures.append(read_picture(sample, index, spec))
        except SourceError:
            bad.append(sample.image)
    check_unreadable(bad, len(samples), where)
    unreadable += bad
    return pictures
