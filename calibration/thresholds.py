"""The score from which a model is shown: at a wanted precision, or at the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.matching import ClassMatches, join

_THRESHOLDS = (np.arange(1000) / 1000).astype(np.float32)
_TOLERANCE = 1e-12


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


class Ranked(NamedTuple):
    """Detections that count, best score first, and the number of objects to find.

    Attributes:
        scores: (N,) float32.
        is_right: (N,) bool, at IoU 0.5.
        objects: number of labelled objects, without regions to ignore.
    """

    scores: npt.NDArray[np.float32]
    is_right: npt.NDArray[np.bool_]
    objects: int


def ranked_together(classes: Sequence[ClassMatches]) -> Ranked:
    """Returns the detections of any number of classes as one ranking."""
    if not classes:
        return Ranked(np.zeros(0, np.float32), np.zeros(0, bool), 0)
    matches = classes[0] if len(classes) == 1 else join(classes)
    counted = ~matches.ignored[:, 0]
    return Ranked(matches.scores[counted], matches.hits[counted, 0], int(matches.counts.sum()))


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """Precision and recall at each score where they change, and the thresholds to choose from, to a thousandth.

    Attributes:
        objects: number of labelled objects, without regions to ignore.
        scores: (K,) float32, the distinct scores, greatest first.
        true: (K,) int64, right detections with at least this score.
        shown: (K,) int64, detections with at least this score that count.
    """

    objects: int
    scores: npt.NDArray[np.float32]
    true: npt.NDArray[np.int64]
    shown: npt.NDArray[np.int64]

    @classmethod
    def of(cls, ranked: Ranked) -> ScoreCurve:
        """Returns the curve of detections; those of one score can't be told apart."""
        last_of_each = np.flatnonzero(np.diff(ranked.scores, append=np.float32(-np.inf)) != 0)
        true = np.cumsum(ranked.is_right, dtype=np.int64)[last_of_each]
        return cls(ranked.objects, ranked.scores[last_of_each], true, last_of_each + 1)

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
        """The threshold with the greatest F1; None if nothing right is found.

        Of several it is the middle of the widest range, which leaves a margin on both sides.
        """
        f1 = self._at_thousandths(self.f1)
        if not f1.any():
            return None
        edges = np.flatnonzero(np.diff(f1 == f1.max(), prepend=False, append=False)).reshape(-1, 2)
        first, end = edges[np.argmax(edges[:, 1] - edges[:, 0])]
        return self.at(int(first + end - 1) // 2 / 1000)

    @property
    def most_precise(self) -> OperatingPoint | None:
        """The threshold with the greatest precision, of equal ones that with the most recall; None like `best`."""
        precision = self._at_thousandths(np.where(self.true > 0, self.precision, 0))
        return self._lowest(precision == precision.max()) if precision.any() else None

    def at_precision(self, wanted: float) -> OperatingPoint | None:
        """Returns the lowest threshold, so the one with the most recall, that reaches a precision; None if none does.

        Of those that show the same detections it is the highest.

        Args:
            wanted: precision, 0 to 1.
        """
        reached = self._at_thousandths(np.where(self.true > 0, self.precision, 0)) >= wanted - _TOLERANCE
        return self._lowest(reached & (self._at_thousandths(self.recall) > 0))

    def at(self, threshold: float) -> OperatingPoint:
        """Returns what a threshold gives; precision is 1 where no detection is left."""
        index = int((self.scores > np.float32(threshold)).sum()) - 1
        if index < 0:
            return OperatingPoint(threshold, 1.0, 0.0, 0.0)
        return OperatingPoint(threshold, float(self.precision[index]), float(self.recall[index]), float(self.f1[index]))

    def _lowest(self, holds: npt.NDArray[np.bool_]) -> OperatingPoint | None:
        """Returns the lowest of the thousandths that a condition holds for, (1000,), or None."""
        reached = np.flatnonzero(holds)
        if not len(reached):
            return None
        same = np.flatnonzero(self._left == self._left[reached[0]])
        return self.at(int(same[-1]) / 1000)

    @cached_property
    def _left(self) -> npt.NDArray[np.intp]:
        """How many of the scores are greater than the thresholds 0, 0.001 ... 0.999, (1000,)."""
        return np.searchsorted(-self.scores, -_THRESHOLDS, side="left")

    def _at_thousandths(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns a value, (K,), for each of the thresholds 0, 0.001 ... 0.999; 0 where no detection is left."""
        return np.concatenate([[0.0], values])[self._left]


@dataclass(frozen=True)
class Thresholds:
    """The points to choose from.

    Attributes:
        at_precision: the lowest threshold with the wanted precision; None where it isn't reached.
        at_best_f1: None where nothing right is found.
        most_precise: the highest precision that there is; None likewise.
    """

    at_precision: OperatingPoint | None
    at_best_f1: OperatingPoint | None
    most_precise: OperatingPoint | None


def thresholds(classes: Sequence[ClassMatches], wanted_precision: float) -> Thresholds:
    """Returns the points of one class or of several together; detections are right at IoU 0.5 or more."""
    curve = ScoreCurve.of(ranked_together(classes))
    return Thresholds(curve.at_precision(wanted_precision), curve.best, curve.most_precise)
