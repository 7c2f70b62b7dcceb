"""Precision and recall by confidence, and the thresholds that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.accuracy import Found
from calibration.labels import Sample
from calibration.matching import ClassMatches, match_found
from calibration.thresholds import ScoreCurve, ranked_together

WANTED_PRECISION = 0.9
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Curve(ScoreCurve):
    """The curve of one class, or of all.

    Attributes:
        name: of the class; ``all`` for all.
        precision_by_recall: (101,), the greatest precision at a recall of at least 0, 0.01 ... 1, as in COCO's AP; NaN
            without objects. Of all classes it is the mean of those with objects.
    """

    name: str
    precision_by_recall: npt.NDArray[np.float64]

    @property
    def AP50(self) -> float:
        """COCO's AP at IoU 0.5, x 100; NaN without objects."""
        return 100 * float(self.precision_by_recall.mean())

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
    matched = {each.class_id: each for each in match_found(samples, found)}
    curves = [_curve(name, [matched[i]] if i in matched else []) for i, name in enumerate(names)]
    with_objects = [curve.precision_by_recall for curve in curves if curve.objects]
    mean = np.mean(with_objects, axis=0) if with_objects else np.full(len(_RECALLS), np.nan)
    overall = _curve("all", list(matched.values()), mean)
    return DetectionCurves(overall, tuple(curves), len(samples), wanted_precision)


def _curve(name: str, classes: Sequence[ClassMatches], mean: npt.NDArray[np.float64] | None = None) -> Curve:
    """Returns the curve of one class, none or several; `mean` is the precision by recall of several."""
    ranked = ranked_together(classes)
    curve = ScoreCurve.of(ranked)
    if mean is None:
        mean = np.zeros(len(_RECALLS)) if curve.objects else np.full(len(_RECALLS), np.nan)
        if curve.objects:
            true = np.cumsum(ranked.is_right)
            highest = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
            places = np.searchsorted(true / curve.objects, _RECALLS, side="left")
            reached = places < len(true)
            mean[reached] = highest[places[reached]]
    return Curve(curve.objects, curve.scores, curve.true, curve.shown, name, mean)


def _rounded(values: Sequence[float] | npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]
