"""Draws precision-recall and confidence curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.run_folder.curves import Curve, DetectionCurves
from calibration.run_folder.plots import COLOURS, INK, LIGHT, cut, legend, new_figure, plain_axes, save, say_empty
from calibration.thresholds import OperatingPoint
from streamer.common.errors import counted

_MOST_NAMED = 20
_NAMED_OF_MANY = 5
_THRESHOLD = "confidence threshold (--conf)"


def draw_precision_recall(curves: DetectionCurves, path: Path) -> None:
    """Draws precision by recall of each class and their mean as PNG.

    Raises:
        ConfigError: the file can't be written, or Matplotlib isn't installed.
    """
    figure = new_figure((9, 6))
    axes = figure.subplots()
    plain_axes(axes, f"Precision by recall at IoU 0.5, {counted(curves.pictures, 'picture')}", "recall", "precision")
    recalls = np.linspace(0, 1, 101)
    if not curves.overall.objects:
        say_empty(axes, "no labelled objects")
    else:
        for curve, colour in _coloured(curves.classes):
            label = f"{cut(curve.name)}  {curve.AP50:.1f}  ({curve.objects})" if colour != LIGHT else None
            axes.plot(recalls, curve.precision_by_recall, color=colour, linewidth=1.2, label=label)
        mean = f"mean of all  {curves.overall.AP50:.1f}  ({curves.overall.objects})"
        axes.plot(recalls, curves.overall.precision_by_recall, color=INK, linewidth=3, label=mean)
        _unit_square(axes)
        title = "class  AP50  (objects)"
        if sum(curve.objects > 0 for curve in curves.classes) > _MOST_NAMED:
            title += f"\nbest and worst {_NAMED_OF_MANY}; others grey"
        handles, labels = axes.get_legend_handles_labels()
        _legend_beside(figure, handles[-1:] + handles[:-1], labels[-1:] + labels[:-1], title)
    save(figure, path)


def draw_confidence(curves: DetectionCurves, path: Path) -> None:
    """Draws precision, recall and F1 by confidence, with the best threshold and that of the wanted precision, as PNG.

    Raises:
        ConfigError: the file can't be written, or Matplotlib isn't installed.
    """
    has_classes = len(curves.classes) > 1
    figure = new_figure((13 if has_classes else 7, 5.5))
    plots = figure.subplots(1, 1 + has_classes, squeeze=False)[0]
    _draw_together(plots[0], curves)
    if has_classes:
        _draw_by_class(plots[1], curves)
        handles, labels = plots[1].get_legend_handles_labels()
        if handles:
            _legend_beside(figure, handles, labels, "class  best threshold")
    save(figure, path)


def _draw_together(axes: Any, curves: DetectionCurves) -> None:
    """Draws precision, recall and F1 of all classes, with the named thresholds."""
    overall = curves.overall
    plain_axes(axes, f"All classes together at IoU 0.5, {counted(curves.pictures, 'picture')}", _THRESHOLD)
    if overall.best is None:
        say_empty(axes, "no object was found")
        return
    for values, name, colour in (
        (overall.precision, "precision", COLOURS[0]),
        (overall.recall, "recall", COLOURS[1]),
        (overall.f1, "F1", INK),
    ):
        _steps(axes, overall, values, color=colour, linewidth=2, label=name)
    _mark(axes, overall.best, "best F1", INK, "--")
    wanted = overall.at_precision(curves.wanted_precision)
    if wanted is None:
        axes.plot([], [], " ", label=f"precision {curves.wanted_precision:g} isn't reached")
    else:
        _mark(axes, wanted, f"precision {curves.wanted_precision:g}", COLOURS[0], ":")
    _unit_square(axes)
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _draw_by_class(axes: Any, curves: DetectionCurves) -> None:
    """Draws F1 of each class."""
    plain_axes(axes, "F1 by class", _THRESHOLD, "F1")
    if curves.overall.best is None:
        say_empty(axes, "no object was found")
        return
    for curve, colour in _coloured(curves.classes):
        best = curve.best
        known = f"{best.threshold:g}  (F1 {best.f1:.2f})" if best else "-"
        label = f"{cut(curve.name)}  {known}" if colour != LIGHT else None
        _steps(axes, curve, curve.f1, color=colour, linewidth=1.2, label=label)
    together = f"all together  {curves.overall.best.threshold:g}"
    _steps(axes, curves.overall, curves.overall.f1, color=INK, linewidth=2.5, label=together)
    _unit_square(axes)


def _coloured(classes: Sequence[Curve]) -> list[tuple[Curve, str]]:
    """Returns the classes with objects, best AP50 first, with colours; of many only the first and last have one."""
    known = sorted((curve for curve in classes if curve.objects), key=lambda curve: -curve.AP50)
    if len(classes) == 1:  # equal to the curve of all
        return []
    if len(known) <= _MOST_NAMED:
        return list(zip(known, COLOURS, strict=False))
    colours = [LIGHT] * len(known)
    colours[:_NAMED_OF_MANY] = COLOURS[:_NAMED_OF_MANY]
    colours[-_NAMED_OF_MANY:] = COLOURS[_NAMED_OF_MANY : 2 * _NAMED_OF_MANY]
    return sorted(zip(known, colours, strict=True), key=lambda each: each[1] != LIGHT)


def _unit_square(axes: Any) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)


def _legend_beside(figure: Any, handles: list[Any], labels: list[str], title: str) -> None:
    options = {"fontsize": 8, "title_fontsize": 8, "frameon": False, "alignment": "left"}
    figure.legend(handles, labels, loc="outside right upper", title=title, **options)


def _steps(axes: Any, curve: Curve, values: np.ndarray[Any, Any], **options: Any) -> None:
    """Draws a value that is constant between two scores, thresholds ascending."""
    axes.plot(curve.scores[::-1], values[::-1], drawstyle="steps-pre", **options)


def _mark(axes: Any, point: OperatingPoint, name: str, colour: str, style: str) -> None:
    figures = f"precision {point.precision:.2f}, recall {point.recall:.2f}, F1 {point.f1:.2f}"
    axes.axvline(
        point.threshold, color=colour, linestyle=style, linewidth=1.2, label=f"{name}: {point.threshold:g} ({figures})"
    )
