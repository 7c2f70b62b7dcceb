"""Draws the table of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.run_folder.plots import COLOURS, legend, line, new_figure, plain_axes, save, say_empty
from calibration.run_folder.results_table import EpochResult

_BLUE, _ORANGE, _GREEN = COLOURS[:3]
_TERMS = (("qfl", _BLUE), ("bbox", _ORANGE), ("dfl", _GREEN))


def draw_results(results: Sequence[EpochResult], path: Path, title: str = "") -> None:
    """Draws losses, accuracy, learning rate and throughput by epoch as PNG.

    Args:
        results: rows of the table, epochs ascending.
        path: the PNG file.
        title: above the plots, such as the run's name.

    Raises:
        ConfigError: the file can't be written, or Matplotlib isn't installed.
    """
    figure = new_figure((13, 7))
    if title:
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    loss, terms, ap, rate, ap50, speed = figure.subplots(2, 3).T.ravel()
    epochs = [result.epoch for result in results]
    plot = _Plots(results, epochs)

    plot.draw(loss, "Training loss, all terms", [("loss", "loss", _BLUE, "-")])
    has_auxiliary = any(result.aux_qfl is not None for result in results)
    main = " (head)" if has_auxiliary else ""
    lines = [(name, f"{name}{main}", colour, "-") for name, colour in _TERMS]
    lines += [(f"aux_{name}", f"{name} (auxiliary head)", colour, "--") for name, colour in _TERMS]
    plot.draw(terms, "Training loss by term", lines)
    plot.draw(ap, "Validation AP (IoU 0.5 to 0.95)", [("AP", "float", _BLUE, "-"), ("int8_AP", "INT8", _ORANGE, "--")])
    plot.draw(ap50, "Validation AP50", [("AP50", "float", _BLUE, "-"), ("int8_AP50", "INT8", _ORANGE, "--")])
    plot.draw(rate, "Learning rate", [("lr", "learning rate", _BLUE, "-")])
    plot.draw(speed, "Training throughput", [("images_per_s", "images/s", _BLUE, "-")])
    _mark_best(ap, results)
    _add_waiting(speed, plot)
    save(figure, path)


class _Plots:
    """Draws columns of the table."""

    def __init__(self, results: Sequence[EpochResult], epochs: Sequence[int]) -> None:
        self.results = results
        self.epochs = epochs

    def column(self, name: str) -> list[float | None]:
        return [result.figures().get(name) for result in self.results]

    def draw(self, axes: Any, title: str, lines: Sequence[tuple[str, str, str, str]]) -> None:
        """Draws lines, each a column, its label, colour and style."""
        plain_axes(axes, title, "epoch")
        drawn = [
            line(axes, self.epochs, self.column(name), label, colour, style) for name, label, colour, style in lines
        ]
        if not any(drawn):
            say_empty(axes, "not measured")
            return
        _whole_epochs(axes, self.epochs)
        axes.set_ylim(0, 1.06 * axes.dataLim.ymax or 1)
        if len(lines) > 1:
            legend(axes)


def _whole_epochs(axes: Any, epochs: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    margin = max(0.5, 0.02 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    if len(epochs) <= 8:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _mark_best(axes: Any, results: Sequence[EpochResult]) -> None:
    """Writes the greatest float AP and the last INT8 AP into the plot's title."""
    measured = [result for result in results if "AP" in result.figures()]
    if not measured:
        return
    best = max(measured, key=lambda result: result.figures()["AP"])
    text = f"best {best.AP:.1f} in epoch {best.epoch}"
    quantised = [result for result in results if "int8_AP" in result.figures()]
    if quantised:
        text += f", INT8 {max(result.figures()['int8_AP'] for result in quantised):.1f}"
    axes.set_title(f"Validation AP: {text}", fontsize=10, loc="left")


def _add_waiting(axes: Any, plot: _Plots) -> None:
    """Adds the share of time that the device waited for pictures, on an axis of its own."""
    shares = [None if share is None else 100 * share for share in plot.column("data_wait_share")]
    if all(share is None for share in shares) or not axes.has_data():
        return
    right = axes.twinx()
    line(right, plot.epochs, shares, "waiting for pictures, %", _ORANGE, "--")
    right.set_ylim(0, 100)
    right.tick_params(labelsize=8, colors=_ORANGE)
    right.spines["top"].set_visible(False)
    right.set_ylabel("waiting for pictures, % of the time", fontsize=8, color=_ORANGE)
    axes.set_ylabel("images/s", fontsize=8, color=_BLUE)
