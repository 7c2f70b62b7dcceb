"""The standard error of a difference in AP, by a fast bootstrap over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from calibration.agreement import box_overlap
from calibration.pictures import Picture
from streamer.frames.detections import Detections

_RESAMPLES = 400
_SEED = 0
_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float

    def interval(self) -> tuple[float, float]:
        """Returns the 95 % interval."""
        half = NormalDist().inv_cdf(0.975) * self.error
        return self.value - half, self.value + half

    def chance_above(self, limit: float) -> float:
        """Returns the chance that the true figure is greater than `limit`."""
        if self.error <= 0:
            return float(self.value > limit)
        return 1 - NormalDist(self.value, self.error).cdf(limit)


class WeightedAp:
    """COCO AP (IoU 0.5 to 0.95, all sizes) of one model's detections with a weight for each picture.

    Detections are matched with ground truth once, as in pycocotools' `COCOeval`.
    """

    def __init__(self, pictures: Sequence[Picture], found: Sequence[Detections], *, pooled: bool = False) -> None:
        """Matches the detections `found` in labelled pictures; `pooled` ranks all classes in one list."""
        self._classes: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]] = []
        ranked: list[npt.NDArray[np.float32]] = []
        truth = [picture.sample.class_ids for picture in pictures]
        for class_id in np.unique(np.concatenate(truth)) if truth else ():
            scores, owners, hits = [], [], []
            for index, (picture, detections) in enumerate(zip(pictures, found, strict=True)):
                mine = np.flatnonzero(detections.class_ids == class_id)
                mine = mine[np.argsort(-detections.scores[mine], kind="stable")]
                scores.append(detections.scores[mine])
                owners.append(np.full(len(mine), index, np.int64))
                hits.append(hits_of(detections.boxes_xyxy[mine], _boxes(picture, int(class_id))))
            order = np.argsort(-np.concatenate(scores), kind="stable")
            counts = np.array([int(picture.sample.objects_of(int(class_id)).sum()) for picture in pictures], np.int64)
            self._classes.append((np.concatenate(owners)[order], np.concatenate(hits)[order], counts))
            ranked.append(np.concatenate(scores)[order])
        if pooled and self._classes:
            order = np.argsort(-np.concatenate(ranked), kind="stable")
            owner, hit, counted = zip(*self._classes, strict=True)
            self._classes = [(np.concatenate(owner)[order], np.concatenate(hit)[order], np.sum(counted, axis=0))]

    def __call__(self, times: npt.NDArray[np.int64]) -> float:
        """Returns AP x 100 with picture i counted `times[i]` times; NaN without objects."""
        aps = []
        for owners, hits, counts in self._classes:
            objects = int(counts @ times)
            if not objects:
                continue
            weights = times[owners][:, None]
            true = np.cumsum(hits * weights, axis=0)
            all_found = np.cumsum(weights, axis=0)
            precision = true / np.maximum(all_found, 1)
            precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            for column in range(len(_IOUS)):
                places = np.searchsorted(true[:, column] / objects, _RECALLS, side="left")
                reached = places < len(precision)
                aps.append(float(precision[places[reached], column].sum()) / len(_RECALLS))
        return 100 * float(np.mean(aps)) if aps else float("nan")


def estimate_drop(pictures: Sequence[Picture], before: Sequence[Detections], after: Sequence[Detections]) -> Estimate:
    """Estimates the AP x 100 that the second model loses: its relative loss of pooled AP, times the first one's AP.

    Pooled AP varies half as much between picture sets as AP (docs/calibration.md). The standard error is from a paired
    bootstrap (Efron & Tibshirani 1993).
    """
    count = len(pictures)
    once = np.ones(count, np.int64)
    models = [WeightedAp(pictures, found, pooled=True) for found in (before, after)]
    scale = WeightedAp(pictures, before)(once)

    def drop(times: npt.NDArray[np.int64]) -> float:
        first, second = (model(times) for model in models)
        return scale * (1 - second / first) if first > 0 else 0.0

    random = np.random.default_rng(_SEED)
    drawn = (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(_RESAMPLES))
    drops = np.array([drop(times) for times in drawn])
    error = float(np.nanstd(drops, ddof=1)) * (count / max(count - 1, 1)) ** 0.5
    return Estimate(drop(once), error)


def _boxes(picture: Picture, class_id: int) -> npt.NDArray[np.float64]:
    """Returns the ground truth of one class without crowds, xyxy in pixels."""
    return picture.sample.boxes_xyxy(picture.size_wh)[picture.sample.objects_of(class_id)]


def hits_of(
    boxes: npt.NDArray[np.float32], truth: npt.NDArray[np.float64], ious: npt.NDArray[np.float64] = _IOUS
) -> npt.NDArray[np.bool_]:
    """Returns (N, K): whether each detection, best first, matches an object at each of K least IoUs, as pycocotools.

    Args:
        boxes: (N, 4) xyxy, detections of one class in one picture.
        truth: (M, 4) xyxy, the objects of this class there.
        ious: (K,), the least IoU of a match; COCO's ten by default.
    """
    hits = np.zeros((len(boxes), len(ious)), bool)
    if not len(boxes) or not len(truth):
        return hits
    overlap = box_overlap(boxes.astype(np.float64)[:, None], truth[None])
    for column, least in enumerate(ious):
        free = overlap.copy()
        for row in range(len(boxes)):
            best = int(np.argmax(free[row]))
            if free[row, best] >= least - 1e-10:
                hits[row, column] = True
                free[:, best] = -1
    return hits
