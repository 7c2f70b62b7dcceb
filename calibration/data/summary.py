"""Counts and sizes of the splits, for tables and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.data.reading import TrainingData
from calibration.data.scan import ScannedPicture
from calibration.labels import Sample
from streamer.models.letterbox import Letterbox

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SplitSummary:
    """What is in one split.

    Attributes:
        pictures: number of pictures.
        background: pictures without an object.
        ignored: regions to ignore.
        class_counts: (C,) int64, objects by class id.
        pictures_with: (C,) int64, pictures with an object of the class.
        picture_sizes_wh: (P, 2) int64, of the readable pictures in pixels.
        box_sizes: (N, 2) float64, width and height of the objects relative to their picture.
        box_sizes_px: (M, 2) float64, in pixels at the training size, of the objects in readable pictures.
    """

    pictures: int
    background: int
    ignored: int
    class_counts: npt.NDArray[np.int64]
    pictures_with: npt.NDArray[np.int64]
    picture_sizes_wh: npt.NDArray[np.int64]
    box_sizes: Floats
    box_sizes_px: Floats

    @property
    def objects(self) -> int:
        """Number of objects, without regions to ignore."""
        return int(self.class_counts.sum())


def summarise(
    data: TrainingData, scans: Mapping[Path, ScannedPicture], input_wh: tuple[int, int]
) -> dict[str, SplitSummary]:
    """Returns the summary of each split; `input_wh` is the training size, into which pictures are letterboxed."""
    return {split: _summarise(samples, len(data.names), scans, input_wh) for split, samples in data.splits.items()}


def boxes_px(sample: Sample, size_wh: tuple[int, int], input_wh: tuple[int, int]) -> Floats:
    """Returns width and height of all boxes in pixels of the network's input, (N, 2)."""
    resized = Letterbox.fit(size_wh, input_wh, keep_ratio=True).resized_wh
    return sample.boxes_cxcywh[:, 2:] * np.array(resized, np.float64)


def _summarise(
    samples: tuple[Sample, ...], num_classes: int, scans: Mapping[Path, ScannedPicture], input_wh: tuple[int, int]
) -> SplitSummary:
    counts, pictures_with = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    background = ignored = 0
    sizes_wh, relative, pixels = [], [np.zeros((0, 2))], [np.zeros((0, 2))]
    for sample in samples:
        is_object = sample.is_object
        here = np.bincount(sample.class_ids[is_object], minlength=num_classes)
        counts += here
        pictures_with += here > 0
        background += not is_object.any()
        ignored += int((~is_object).sum())
        relative.append(sample.boxes_cxcywh[is_object, 2:])
        scanned = scans.get(sample.image)
        if scanned is not None and not scanned.problem:
            sizes_wh.append(scanned.size_wh)
            pixels.append(boxes_px(sample, scanned.size_wh, input_wh)[is_object])
    return SplitSummary(
        len(samples),
        background,
        ignored,
        counts,
        pictures_with,
        np.array(sizes_wh, np.int64).reshape(-1, 2),
        np.concatenate(relative),
        np.concatenate(pixels),
    )
