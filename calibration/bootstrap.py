"""How certain an AP, and a difference of two, is: a fast bootstrap over pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from calibration.matching import IOUS, ClassMatches, LabelledPicture, join, match_classes
from streamer.frames.detections import Detections

RESAMPLES = 400
_SEED = 0
_RECALLS = np.linspace(0, 1, 101)
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float

    def interval(self) -> tuple[float, float]:
        """Returns the 95 % interval."""
        half = _Z95 * self.error
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

    def __init__(
        self, pictures: Sequence[LabelledPicture], found: Sequence[Detections], *, pooled: bool = False
    ) -> None:
        """Matches the detections `found` in labelled pictures; `pooled` ranks all classes in one list."""
        self._classes = _with_objects(match_classes(pictures, found), pooled)
        self._resampled: dict[int, npt.NDArray[np.float64]] = {}

    @classmethod
    def of_matches(cls, classes: Sequence[ClassMatches]) -> WeightedAp:
        """Returns the AP of what `match_classes` gave."""
        made = cls((), ())
        made._classes = _with_objects(classes, pooled=False)
        return made

    def __call__(self, times: npt.NDArray[np.int64]) -> float:
        """Returns AP x 100 with picture i counted `times[i]` times; NaN without objects."""
        return float(np.mean(self.by_iou(times)))

    def by_iou(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns (10,): the AP x 100 at each IoU of `IOUS`; NaN without objects."""
        aps = []
        for each in self._classes:
            objects = int(each.counts @ times)
            if not objects:
                continue
            weights = times[each.owners][:, None]
            true = np.cumsum(each.hits * weights, axis=0)
            all_found = np.cumsum(~each.ignored * weights, axis=0)
            precision = true / np.maximum(all_found, 1)
            precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            row = np.empty(len(IOUS))
            for column in range(len(IOUS)):
                places = np.searchsorted(true[:, column] / objects, _RECALLS, side="left")
                reached = places < len(precision)
                row[column] = precision[places[reached], column].sum() / len(_RECALLS)
            aps.append(row)
        return 100 * np.mean(aps, axis=0) if aps else np.full(len(IOUS), np.nan)

    def resampled(self, count: int) -> npt.NDArray[np.float64]:
        """Returns the AP x 100 of each resample of `count` pictures at each IoU of `IOUS`, (resamples, 10).

        It is computed once: every model's resamples are the same.
        """
        if count not in self._resampled:
            drawn = np.array([self.by_iou(times) for times in _draws(count)])
            self._resampled[count] = drawn.reshape(-1, len(IOUS))
        return self._resampled[count]


def _with_objects(classes: Sequence[ClassMatches], pooled: bool) -> list[ClassMatches]:
    """Returns the classes that have objects, for COCO measures no others; `pooled` joins them."""
    kept = [each for each in classes if each.counts.any()]
    return [join(kept)] if pooled and kept else kept


@dataclass(frozen=True)
class ApIntervals:
    """95 % intervals of AP x 100; None where the pictures tell nothing of the spread: one, no objects, all alike."""

    AP: tuple[float, float] | None
    AP50: tuple[float, float] | None
    AP75: tuple[float, float] | None


def ap_intervals(model: WeightedAp, count: int) -> ApIntervals:
    """Returns the intervals of one model's AP for `count` pictures.

    Each is the AP plus and minus the bootstrap's standard error (Efron & Tibshirani 1993) times Student's quantile,
    which is 1.96 for many pictures.
    """
    drawn = model.resampled(count)
    at_once = model.by_iou(np.ones(count, np.int64))
    columns = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}

    def interval(part: slice) -> tuple[float, float] | None:
        found = _interval(float(at_once[part].mean()), drawn[:, part].mean(axis=1), count)
        return None if found is None or found[0] == found[1] else (max(0.0, found[0]), min(100.0, found[1]))

    return ApIntervals(**{name: interval(part) for name, part in columns.items()})


@dataclass(frozen=True)
class Difference:
    """The AP x 100 of a second model minus that of a first on the same pictures.

    Attributes:
        value: the difference.
        interval: its 95 % interval; None where one picture, or none with objects, tells nothing of the spread.
        chance_second_is_better: that the second model's AP is the higher one; None likewise.
    """

    value: float
    interval: tuple[float, float] | None
    chance_second_is_better: float | None


def difference(first: WeightedAp, second: WeightedAp, count: int) -> Difference:
    """Compares two models on the same `count` pictures, by a paired bootstrap over them."""
    drawn = second.resampled(count).mean(axis=1) - first.resampled(count).mean(axis=1)
    once = np.ones(count, np.int64)
    value = second(once) - first(once)
    interval = _interval(value, drawn, count)
    if interval is None:
        return Difference(value, None, None)
    estimate = Estimate(value, _error(drawn, count))
    return Difference(value, interval, 0.5 if estimate == Estimate(0, 0) else estimate.chance_above(0))


def estimate_drop(
    pictures: Sequence[LabelledPicture], before: Sequence[Detections], after: Sequence[Detections]
) -> Estimate:
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

    drops = np.array([drop(times) for times in _draws(count)])
    return Estimate(drop(once), _error(drops, count))


def _draws(count: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields how often each picture is drawn, in each of `RESAMPLES` resamples with replacement."""
    random = np.random.default_rng(_SEED)
    for _ in range(RESAMPLES if count else 0):
        yield np.bincount(random.integers(0, count, count), minlength=count)


def _error(drawn: npt.NDArray[np.float64], count: int) -> float:
    """Returns the standard error, without the bootstrap's bias towards small ones for few pictures."""
    return float(np.nanstd(drawn, ddof=1)) * (count / max(count - 1, 1)) ** 0.5


def _interval(value: float, drawn: npt.NDArray[np.float64], count: int) -> tuple[float, float] | None:
    if count < 2 or np.isnan(value) or np.isfinite(drawn).sum() < 2:
        return None
    half = _student95(count - 1) * _error(drawn, count)
    return value - half, value + half


def _student95(freedom: int) -> float:
    """Returns Student's 97.5 % quantile (Abramowitz & Stegun 26.7.5, to the third term)."""
    z = _Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
