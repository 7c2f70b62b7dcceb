"""Precision and recall by confidence, and the thresholds that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.accuracy import Found
from calibration.labels import Sample
from calibration.run_folder.matching import IGNORED, RIGHT, outcomes

WANTED_PRECISION = 0.9
_RECALLS = np.linspace(0, 1, 101)
_THRESHOLDS = (np.arange(1000) / 1000).astype(np.float32)


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives at IoU 0.5.

    Attributes:
        threshold: detections with a greater score are shown, as ``--conf`` does.
        precision: share of the shown detections that are right.
        recall: share of the objects that are found.
        f1: harmonic mean of both.
    """

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of one class, or of all, at each score where they change.

    Attributes:
        name: of the class; ``all`` for all.
        objects: number of labelled objects, without crowds.
        scores: (K,) float32, the distinct scores, greatest first.
        true: (K,) int64, right detections with at least this score.
        shown: (K,) int64, detections with at least this score that count.
        precision_by_recall: (101,), the greatest precision at a recall of at least 0, 0.01 ... 1, as in COCO's AP; NaN
            without objects. Of all classes it is the mean of those with objects.
    """

    name: str
    objects: int
    scores: npt.NDArray[np.float32]
    true: npt.NDArray[np.int64]
    shown: npt.NDArray[np.int64]
    precision_by_recall: npt.NDArray[np.float64]

    @property
    def AP50(self) -> float:
        """COCO's AP at IoU 0.5, x 100; NaN without objects."""
        return 100 * float(self.precision_by_recall.mean())

    @cached_property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of right ones among the detections with at least each score, (K,)."""
        return self.true / np.maximum(self.shown, 1)

    @cached_property
    def recall(self) -> npt.NDArray[np.float64]:
        """Share of the objects that detections with at least each score find, (K,); 0 without objects."""
        return self.true / max(self.objects, 1)

    @cached_property
    def f1(self) -> npt.NDArray[np.float64]:
        """Harmonic mean of precision and recall, (K,)."""
        return 2 * self.true / np.maximum(self.shown + self.objects, 1)

    @property
    def best(self) -> OperatingPoint | None:
        """The threshold with the greatest F1, to a thousandth; None if nothing is found.

        Of several it is the middle of the widest range, which leaves a margin on both sides.
        """
        f1 = self._at_thousandths(self.f1)
        if not f1.any():
            return None
        edges = np.flatnonzero(np.diff(f1 == f1.max(), prepend=False, append=False)).reshape(-1, 2)
        first, end = edges[np.argmax(edges[:, 1] - edges[:, 0])]
        return self.at(int(first + end - 1) // 2 / 1000)

    def at_precision(self, wanted: float) -> OperatingPoint | None:
        """Returns the least threshold that reaches a precision, to a thousandth; None if none does.

        Args:
            wanted: precision, 0 to 1.
        """
        reached = np.flatnonzero(
            (self._at_thousandths(self.precision) >= wanted) & (self._at_thousandths(self.recall) > 0)
        )
        return self.at(int(reached[0]) / 1000) if reached.size else None

    def at(self, threshold: float) -> OperatingPoint:
        """Returns what a threshold gives; precision is 1 where no detection is left."""
        index = int((self.scores > np.float32(threshold)).sum()) - 1
        if index < 0:
            return OperatingPoint(threshold, 1.0, 0.0, 0.0)
        return OperatingPoint(threshold, float(self.precision[index]), float(self.recall[index]), float(self.f1[index]))

    def to_dict(self, wanted_precision: float) -> dict[str, Any]:
        """Returns the figures, and the curves at each hundredth, for JSON; NaN where a figure doesn't exist."""
        points = [self.at(place / 100) for place in range(100)]
        best, wanted = self.best, self.at_precision(wanted_precision)
        return {
            "name": self.name,
            "objects": self.objects,
            "AP50": self.AP50,
            "best": None if best is None else asdict(best),
            "at_wanted_precision": None if wanted is None else asdict(wanted),
            "precision_by_recall": _rounded(self.precision_by_recall),
            "precision_by_confidence": _rounded([point.precision for point in points]),
            "recall_by_confidence": _rounded([point.recall for point in points]),
        }

    def _at_thousandths(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns a value for each of the thresholds 0, 0.001 ... 0.999; 0 where no detection is left."""
        left = np.searchsorted(-self.scores, -_THRESHOLDS, side="left")
        return np.concatenate([[0.0], values])[left]


@dataclass(frozen=True, eq=False)
class DetectionCurves:
    """The curves of one model on one set of pictures.

    Attributes:
        overall: all classes: thresholds from all detections together, `AP50` and `precision_by_recall` as the mean of
            the classes.
        classes: one curve a class, in the order of the class ids.
        pictures: number of pictures.
        wanted_precision: the precision that a threshold is given for, 0 to 1.
    """

    overall: Curve
    classes: tuple[Curve, ...]
    pictures: int
    wanted_precision: float = WANTED_PRECISION

    def to_dict(self) -> dict[str, Any]:
        """Returns all figures for JSON."""
        return {
            "pictures": self.pictures,
            "iou": 0.5,
            "wanted_precision": self.wanted_precision,
            "all": self.overall.to_dict(self.wanted_precision),
            "classes": [curve.to_dict(self.wanted_precision) for curve in self.classes],
        }


def detection_curves(
    samples: Sequence[Sample],
    found: Sequence[Found],
    names: Sequence[str],
    *,
    wanted_precision: float = WANTED_PRECISION,
) -> DetectionCurves:
    """Computes precision and recall at IoU 0.5.

    Args:
        samples: the pictures' labels.
        found: their sizes and detections, in the same order, with scores down to about 0.05 or less.
        names: the classes by class id.
        wanted_precision: the precision that a threshold is wanted for, 0 to 1.

    Raises:
        ValueError: `samples` and `found` differ in length.
    """
    scores, class_ids, is_right = [], [], []
    objects = np.zeros(len(names), np.int64)
    for sample, (size_wh, detections) in zip(samples, found, strict=True):
        outcome = outcomes(sample, size_wh, detections)
        counts = outcome != IGNORED
        scores.append(detections.scores[counts])
        class_ids.append(detections.class_ids[counts])
        is_right.append(outcome[counts] == RIGHT)
        objects += np.bincount(sample.class_ids[sample.is_object], minlength=len(names))
    all_scores = np.concatenate([*scores, np.zeros(0, np.float32)])
    all_ids = np.concatenate([*class_ids, np.zeros(0, np.int64)])
    all_right = np.concatenate([*is_right, np.zeros(0, bool)])
    order = np.argsort(-all_scores, kind="stable")
    all_scores, all_ids, all_right = all_scores[order], all_ids[order], all_right[order]
    classes = tuple(
        _curve(name, int(objects[i]), all_scores[all_ids == i], all_right[all_ids == i]) for i, name in enumerate(names)
    )
    with_objects = [curve.precision_by_recall for curve in classes if curve.objects]
    mean = np.mean(with_objects, axis=0) if with_objects else np.full(len(_RECALLS), np.nan)
    overall = _curve("all", int(objects.sum()), all_scores, all_right, mean)
    return DetectionCurves(overall, classes, len(samples), wanted_precision)


def _curve(
    name: str,
    objects: int,
    scores: npt.NDArray[np.float32],
    is_right: npt.NDArray[np.bool_],
    precision_by_recall: npt.NDArray[np.float64] | None = None,
) -> Curve:
    """Returns the curve of detections that are sorted, best first."""
    true = np.cumsum(is_right, dtype=np.int64)
    shown = np.arange(1, len(scores) + 1)
    if precision_by_recall is None:
        precision_by_recall = np.zeros(len(_RECALLS)) if objects else np.full(len(_RECALLS), np.nan)
        if objects:
            highest = np.maximum.accumulate((true / shown)[::-1])[::-1]
            places = np.searchsorted(true / objects, _RECALLS, side="left")
            reached = places < len(scores)
            precision_by_recall[reached] = highest[places[reached]]
    last_of_each = np.flatnonzero(np.diff(scores, append=np.float32(-np.inf)) != 0)
    return Curve(name, objects, scores[last_of_each], true[last_of_each], shown[last_of_each], precision_by_recall)


def _rounded(values: Sequence[float] | npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]
