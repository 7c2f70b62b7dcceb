"""Draws precision-recall and confidence curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.run_folder.curves import Curve, DetectionCurves, OperatingPoint
from calibration.run_folder.plots import COLOURS, INK, LIGHT, cut, legend, new_figure, plain_axes, save, say_empty

_MOST_NAMED = 20
_NAMED_OF_MANY = 5


def draw_precision_recall(curves: DetectionCurves, path: Path) -> None:
    """Draws precision by recall of each class and their mean as PNG.

    Raises:
        ConfigError: the file can't be written, or Matplotlib isn't installed.
    """
    figure = new_figure((9, 6))
    axes = figure.subplots()
    plain_axes(axes, f"Precision by recall at IoU 0.5, {curves.pictures} pictures", "recall", "precision")
    recalls = np.linspace(0, 1, 101)
    if not curves.overall.objects:
        say_empty(axes, "no labelled objects")
    else:
        for curve, colour in _coloured(curves.classes):
            label = f"{cut(curve.name)}  {curve.AP50:.1f}  ({curve.objects})" if colour != LIGHT else None
            axes.plot(recalls, curve.precision_by_recall, color=colour, linewidth=1.2, label=label)
        mean = f"mean of all  {curves.overall.AP50:.1f}  ({curves.overall.objects})"
        axes.plot(recalls, curves.overall.precision_by_recall, color=INK, linewidth=3, label=mean)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.01)
        handles, labels = axes.get_legend_handles_labels()
        title = "class  AP50  (objects)"
        if sum(curve.objects > 0 for curve in curves.classes) > _MOST_NAMED:
            title += f"\nbest and worst {_NAMED_OF_MANY}; others grey"
        figure.legend(
            handles[::-1][:1] + handles[:-1],
            labels[::-1][:1] + labels[:-1],
            loc="outside right upper",
            title=title,
            fontsize=8,
            title_fontsize=8,
            frameon=False,
            alignment="left",
        )
    save(figure, path)


def draw_confidence(curves: DetectionCurves, path: Path) -> None:
    """Draws precision, recall and F1 by confidence, with the best threshold and that of the wanted precision, as PNG.

    Raises:
        ConfigError: the file can't be written, or Matplotlib isn't installed.
    """
    figure = new_figure((13, 5.5))
    together, by_class = figure.subplots(1, 2)
    overall = curves.overall
    plain_axes(together, "All classes together, at IoU 0.5", "confidence threshold (--conf)")
    plain_axes(by_class, "F1 by class", "confidence threshold (--conf)", "F1")
    if overall.best is None:
        say_empty(together, "no object was found")
        say_empty(by_class, "no object was found")
    else:
        for values, name, colour in (
            (overall.precision, "precision", COLOURS[0]),
            (overall.recall, "recall", COLOURS[1]),
            (overall.f1, "F1", INK),
        ):
            _steps(together, overall, values, color=colour, linewidth=2, label=name)
        _mark(together, overall.best, "best F1", INK, "--")
        wanted = overall.at_precision(curves.wanted_precision)
        if wanted is None:
            together.plot([], [], " ", label=f"precision {curves.wanted_precision:g} isn't reached")
        else:
            _mark(together, wanted, f"precision {curves.wanted_precision:g}", COLOURS[0], ":")
        legend(together, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        for curve, colour in _coloured(curves.classes):
            if not len(curve.scores):
                continue
            best = curve.best
            known = f"{cut(curve.name)}  {best.threshold:g}  (F1 {best.f1:.2f})" if best else f"{cut(curve.name)}  -"
            label = known if colour != LIGHT else None
            _steps(by_class, curve, curve.f1, color=colour, linewidth=1.2, label=label)
        _steps(
            by_class, overall, overall.f1, color=INK, linewidth=2.5, label=f"all together  {overall.best.threshold:g}"
        )
        handles, labels = by_class.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside right upper",
            title="class  best threshold",
            fontsize=8,
            title_fontsize=8,
            frameon=False,
            alignment="left",
        )
        for axes in (together, by_class):
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.01)
    save(figure, path)


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


def _steps(axes: Any, curve: Curve, values: np.ndarray[Any, Any], **options: Any) -> None:
    """Draws a value that is constant between two scores, thresholds ascending."""
    axes.plot(curve.scores[::-1], values[::-1], drawstyle="steps-pre", **options)


def _mark(axes: Any, point: OperatingPoint, name: str, colour: str, style: str) -> None:
    figures = f"precision {point.precision:.2f}, recall {point.recall:.2f}, F1 {point.f1:.2f}"
    axes.axvline(
        point.threshold, color=colour, linestyle=style, linewidth=1.2, label=f"{name}: {point.threshold:g} ({figures})"
    )
