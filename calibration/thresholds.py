"""The score from which a model is shown: at a wanted precision, or at the best F1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.matching import ClassMatches, join


@dataclass(frozen=True)
class OperatingPoint:
    """What holds for all detections that score at least `threshold`; precision, recall and F1 are from 0 to 1."""

    threshold: float
    precision: float
    recall: float
    f1: float

    def shown_threshold(self) -> str:
        """Returns the threshold for ``--conf``, which shows what scores more: three decimals, below the score."""
        return f"{max(math.ceil(self.threshold * 1000 - 1e-3) - 1, 0) / 1000:.3f}"


def threshold_for_precision(
    scores: npt.NDArray[np.floating], is_true: npt.NDArray[np.bool_], objects: int, wanted: float
) -> OperatingPoint | None:
    """Returns the lowest threshold, so the one with the most recall, with at least the wanted precision.

    Args:
        scores: (N,) of detections, in any order.
        is_true: (N,) whether each matches an object.
        objects: how many there are to find.
        wanted: the precision, 0 to 1.

    Returns:
        None where no threshold reaches it.
    """
    points = _points(scores, is_true, objects)
    reached = np.flatnonzero(points[:, 1] >= wanted - 1e-12)
    return OperatingPoint(*points[reached[-1]].tolist()) if len(reached) else None


def best_f1(scores: npt.NDArray[np.floating], is_true: npt.NDArray[np.bool_], objects: int) -> OperatingPoint | None:
    """Returns the point with the greatest F1, of equal ones the highest threshold; None where nothing right is found.

    The arguments are those of `threshold_for_precision`.
    """
    points = _points(scores, is_true, objects)
    if not len(points) or not points[:, 3].any():
        return None
    return OperatingPoint(*points[int(np.argmax(points[:, 3]))].tolist())


def most_precise(
    scores: npt.NDArray[np.floating], is_true: npt.NDArray[np.bool_], objects: int
) -> OperatingPoint | None:
    """Returns the point with the greatest precision, of equal ones that of the most recall; None like `best_f1`.

    The arguments are those of `threshold_for_precision`.
    """
    points = _points(scores, is_true, objects)
    if not len(points) or not points[:, 1].any():
        return None
    return OperatingPoint(*points[np.flatnonzero(points[:, 1] == points[:, 1].max())[-1]].tolist())


def _points(scores: npt.NDArray[np.floating], is_true: npt.NDArray[np.bool_], objects: int) -> npt.NDArray[np.float64]:
    """Returns (M, 4): threshold, precision, recall and F1 at each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, np.int64)
    true = np.cumsum(is_true[order])[last]
    recall = true / objects if objects else np.zeros(len(last))
    points: npt.NDArray[np.float64] = np.stack(
        [ranked[last], true / (last + 1), recall, 2 * true / (last + 1 + objects)], axis=1
    )
    return points


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
    if not classes:
        return Thresholds(None, None, None)
    matches = classes[0] if len(classes) == 1 else join(classes)
    counted = ~matches.ignored[:, 0]
    given = (matches.scores[counted].astype(np.float64), matches.hits[counted, 0], int(matches.counts.sum()))
    return Thresholds(threshold_for_precision(*given, wanted_precision), best_f1(*given), most_precise(*given))
