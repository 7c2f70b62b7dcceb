"""What the verb `val` prints of its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from calibration.accuracy import Accuracy
from calibration.agreement import Agreement
from calibration.bootstrap import RESAMPLES, ApIntervals, Difference
from calibration.speed import Speed
from calibration.thresholds import OperatingPoint, Thresholds
from streamer.common.errors import counted
from streamer.detector.base import EngineInfo

_FEW_PICTURES, _FEW_OBJECTS = 30, 10
_SIZES = {"APs": "small", "APm": "medium", "APl": "large"}


def interval_lines(accuracy: Accuracy, intervals: ApIntervals, pictures: int) -> Iterator[str]:
    """Yields the 95 % intervals, or why there is none, whether classes are rare, and which sizes have no objects."""
    if intervals.AP is None or intervals.AP50 is None or intervals.AP75 is None:
        yield "no intervals: they take two pictures or more that the model does differently well on"
    else:
        named = {"AP": intervals.AP, "AP50": intervals.AP50, "AP75": intervals.AP75}
        figures = ", ".join(f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in named.items())
        few = f"; with fewer than {_FEW_PICTURES} pictures they are too narrow" if pictures < _FEW_PICTURES else ""
        yield f"95 % intervals: {figures} ({counted(pictures, 'picture')}, {RESAMPLES} resamples{few})"
    rare = sum(each.objects < _FEW_OBJECTS for each in accuracy.classes.values())
    if rare:
        share = f"{rare} of {len(accuracy.classes)} classes"
        verb = "has" if rare == 1 else "have"
        yield f"{share} {verb} fewer than {_FEW_OBJECTS} objects, with which AP tends to be too high"
    without = [size for name, size in _SIZES.items() if np.isnan(accuracy.values()[name])]
    if without:
        yield f"no {' or '.join(without)} objects in these pictures"


def speed_line(speed: Speed, engine: EngineInfo) -> str:
    """Returns the times and what they were measured on."""
    threads = "" if speed.threads is None else f", {counted(speed.threads, 'thread')}"
    return (
        f"speed: network {speed.network_ms:.2f} ms, frame to detections {speed.frame_ms:.2f} ms "
        f"(median of {speed.turns}, one picture in flight; {engine.name} {engine.precision}, {engine.device}{threads})"
    )


def threshold_lines(what: str, found: Thresholds, wanted: float) -> Iterator[str]:
    """Yields the threshold with the wanted precision, or that there is none, and that of the best F1."""
    if found.at_precision is not None:
        yield f"{what}: precision {wanted:g} or more from --conf {_point(found.at_precision)}"
    elif found.most_precise is None:
        yield f"{what}: nothing right is found, so no threshold has precision {wanted:g}"
    else:
        yield f"{what}: precision {wanted:g} isn't reached; the highest is at --conf {_point(found.most_precise)}"
    if found.at_best_f1 is not None:
        yield f"{what}: best F1 {found.at_best_f1.f1:.3f} at --conf {_point(found.at_best_f1)}"


def class_lines(accuracy: Accuracy, found: Mapping[str, Thresholds], wanted: float) -> Iterator[str]:
    """Yields a table of the classes with objects, the worst AP first: AP, and the thresholds of `threshold_lines`."""
    yield f"                          precision >= {wanted:<8g}  best F1"
    yield f"{'AP':>6}  {'AP50':>6}  {'objects':>7}  {'--conf':>6}  {'recall':>8}  {'--conf':>6}  {'F1':>6}  class"
    for label, each in sorted(accuracy.classes.items(), key=lambda item: item[1].AP):
        points = found.get(label, Thresholds(None, None, None))
        at, best = points.at_precision, points.at_best_f1
        yield (
            f"{each.AP:6.2f}  {each.AP50:6.2f}  {each.objects:7}  "
            f"{f'{at.threshold:.3f}' if at else 'never':>6}  {f'{at.recall:.3f}' if at else '-':>8}  "
            f"{f'{best.threshold:.3f}' if best else '-':>6}  {f'{best.f1:.3f}' if best else '-':>6}  {label}"
        )


def difference_lines(model: str, against: str, compared: Difference, speed_ratio: float) -> Iterator[str]:
    """Yields how the two models differ in AP and speed; `speed_ratio` is the first one's time over the second's."""
    drop = f"drop {compared.value:+.2f} AP"
    if compared.interval is None or compared.chance_second_is_better is None:
        yield f"{drop}; no interval: it takes two pictures or more, with objects"
    else:
        low, high = compared.interval
        yield (
            f"{drop}, 95 % interval {low:+.2f} to {high:+.2f} (paired bootstrap); probability that {against} is better "
            f"than {model}: {compared.chance_second_is_better:.2f}"
        )
    faster = f"{1 / speed_ratio:.2f} times as fast as" if speed_ratio < 1 else f"{speed_ratio:.2f} times as slow as"
    yield f"{model} is {faster} {against}, frame to detections, measured in turns"


def agreement_line(seen: Agreement) -> str:
    """Returns the agreement of two models' detections."""
    return (
        f"agreement {seen.score:.3f}: {seen.matched} matched (IoU {seen.mean_iou:.3f}, score difference "
        f"{seen.mean_score_difference:.3f}), {seen.misses} missed, {seen.extras} extra"
    )


def _point(point: OperatingPoint) -> str:
    return f"{point.threshold:.3f}: precision {point.precision:.3f}, recall {point.recall:.3f}"
