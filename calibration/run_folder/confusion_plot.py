"""Draws a confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.run_folder.confusion import BACKGROUND, ConfusionMatrix
from calibration.run_folder.plots import GREY, cut, new_figure, save

_MOST_ROOMY = 25
_MOST_DRAWN = 100
"""Classes; 300 take ten seconds to draw, and nobody can read them."""


def draw_confusion(matrix: ConfusionMatrix, path: Path, *, normalised: bool) -> None:
    """Draws a confusion matrix as PNG: rows are labels, columns detections, colours the share of each row.

    Of more than 100 classes, those are drawn that are confused or missed most.

    Args:
        matrix: the counts.
        path: the PNG file.
        normalised: whether numbers are shares of a row rather than counts.

    Raises:
        ConfigError: the file can't be written, or Matplotlib isn't installed.
    """
    drawn = _most_confused(matrix)
    shares, counts = (values[np.ix_(drawn, drawn)] for values in (matrix.normalised(), matrix.counts))
    names = [cut(matrix.names[place]) for place in drawn[:-1]]
    part = f", {len(names)} of {len(matrix.names)} classes" if len(names) < len(matrix.names) else ""
    size = len(shares)
    roomy = size <= _MOST_ROOMY
    cell = 0.62 if roomy else 0.22
    longest = max(len(name) for name in (*names, BACKGROUND))
    side = max(3.2, cell * size) + 0.085 * longest
    figure = new_figure((side + 2.0, side + 1.2))
    axes = figure.subplots()
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_title(
        f"{'Share of each row' if normalised else 'Number of objects'}{part}\n"
        f"IoU 0.5, confidence above {matrix.threshold:g}",
        fontsize=10,
        loc="left",
    )
    small = 9 if roomy else 7
    axes.set_xticks(range(size), [*names, "missed"], fontsize=small, rotation=0 if size < 4 else 90)
    axes.set_yticks(range(size), [*names, BACKGROUND], fontsize=small)
    axes.set_xlabel("detected as", fontsize=10)
    axes.set_ylabel("labelled as", fontsize=10)
    axes.tick_params(length=0)
    axes.axhline(size - 1.5, color=GREY, linewidth=1)
    axes.axvline(size - 1.5, color=GREY, linewidth=1)
    for row, column in np.argwhere(counts > 0):
        share = f"{shares[row, column]:.2f}"
        value = (share if roomy else share.lstrip("0")) if normalised else str(counts[row, column])
        colour = "white" if shares[row, column] > 0.4 else "black"
        axes.text(column, row, value, ha="center", va="center", fontsize=9 if roomy else 6, color=colour)
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, shrink=0.7, aspect=max(12, size / 2))
    ticks = np.array([0, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.set_ticks(np.sqrt(ticks), labels=[f"{tick:.0%}" for tick in ticks])
    bar.set_label("share of the row", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    save(figure, path)


def _most_confused(matrix: ConfusionMatrix) -> npt.NDArray[np.int64]:
    """Returns the places of the rows to draw, in order; the last one is the background's."""
    wrong = matrix.counts * (1 - np.eye(len(matrix.counts), dtype=np.int64))
    order = np.argsort(-(wrong.sum(0) + wrong.sum(1))[:-1], kind="stable")
    return np.append(np.sort(order[:_MOST_DRAWN]), len(wrong) - 1).astype(np.int64)
