"""Draws histograms of classes and box sizes as one picture."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

import numpy as np

from calibration.data.checks import TINY_PX
from calibration.data.report import CheckReport
from streamer.common.errors import ConfigError, counted

_STRIDES = (8, 16, 32, 64)
"""Of the networks' outputs; 64 is of NanoDet-Plus alone."""
_COLOURS = {"train": "#4c72b0", "val": "#dd8452", "test": "#55a868"}
_MOST_BARS = 100
_LONGEST_NAME = 24
_ROW_INCHES = 0.16
_PANEL_INCHES = 4.0
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei",
    "PingFang SC", "SimHei", "Arial Unicode MS",
)  # fmt: skip


def require_matplotlib() -> None:
    """Raises ConfigError if Matplotlib isn't installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError("drawing needs: pip install 'nanodet-streamer[calibration]'")


def draw_histograms(report: CheckReport, ending: str) -> bytes:
    """Returns a picture: objects by class, and the sizes of their boxes, relative and at the training size.

    Args:
        report: what to draw.
        ending: of the format: ``.jpg``, ``.png``, ``.pdf`` or ``.svg``.

    Raises:
        ConfigError: Matplotlib isn't installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    shown = _shown_classes(report)
    height = max(7.0, _ROW_INCHES * len(shown) + 1.6)
    known = set(font_manager.get_font_names())
    with matplotlib.rc_context({"font.family": [font for font in _FONTS if font in known] or ["sans-serif"]}):
        figure = Figure(figsize=(13, height), layout="constrained")
        rows = (1, 1) if height < 2 * _PANEL_INCHES + 1 else (1, 1, (height - 2 * _PANEL_INCHES) / _PANEL_INCHES)
        grid = figure.add_gridspec(len(rows), 2, width_ratios=(1.1, 1), height_ratios=rows)
        _draw_classes(figure.add_subplot(grid[:, 0]), report, shown)
        _draw_relative(figure.add_subplot(grid[0, 1]), report)
        _draw_pixels(figure.add_subplot(grid[1, 1]), report)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
        content = io.BytesIO()
        figure.savefig(content, format=ending.removeprefix("."), dpi=110)
    return content.getvalue()


def _shown_classes(report: CheckReport) -> list[int | None]:
    """Returns class ids by falling number of objects; of very many the commonest and the rarest, None between."""
    totals = sum((each.class_counts for each in report.summaries.values()), np.zeros(len(report.names), np.int64))
    order = [int(number) for number in np.argsort(-totals, kind="stable")]
    if len(order) <= _MOST_BARS:
        return list(order)
    half = _MOST_BARS // 2
    return [*order[:half], None, *order[-half:]]


def _draw_classes(axes: Any, report: CheckReport, shown: list[int | None]) -> None:
    splits = list(report.summaries)
    thickness = 0.8 / max(1, len(splits))
    places = np.arange(len(shown))
    for number, split in enumerate(splits):
        counts = report.summaries[split].class_counts
        values = np.array([0 if class_id is None else counts[class_id] for class_id in shown], np.float64)
        offsets = places - 0.4 + thickness * (number + 0.5)
        pictures = report.summaries[split].pictures
        label = f"{split}: {int(counts.sum()):,} in {pictures:,} {'picture' if pictures == 1 else 'pictures'}"
        bars = axes.barh(offsets, values, thickness, color=_COLOURS[split], label=label)
        if len(shown) <= 20:
            axes.bar_label(bars, [f"{int(value):,}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(places, [_tick(report, class_id) for class_id in shown], fontsize=10 if len(shown) <= 30 else 7)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    if len(shown) == 1:
        axes.set_ylim(1.5, -1.5)
    largest = max((int(each.class_counts.max(initial=0)) for each in report.summaries.values()), default=0)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, max(10, 4 * largest))
    axes.xaxis.set_major_formatter(_plainly)
    axes.set_xlabel("objects (logarithmic)")
    axes.set_title(counted(len(report.names), "class"), fontsize=11)
    axes.grid(True, axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _tick(report: CheckReport, class_id: int | None) -> str:
    if class_id is None:
        return f"({len(report.names) - _MOST_BARS} more)"
    name = "".join(letter if letter.isprintable() else "?" for letter in report.names[class_id])
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
    return name.replace("$", r"\$")


def _plainly(value: float, _place: int) -> str:
    return f"{value:,.0f}"


def _draw_relative(axes: Any, report: CheckReport) -> None:
    from matplotlib.colors import LogNorm

    sizes = np.concatenate([np.zeros((0, 2)), *(each.box_sizes for each in report.summaries.values())])
    edges = np.linspace(0, 1, 51)
    counts, _, _ = np.histogram2d(sizes[:, 0], sizes[:, 1], bins=(edges, edges))
    if counts.any():
        norm = LogNorm(1, max(2.0, float(counts.max())))
        mesh = axes.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), norm=norm, cmap="viridis")
        axes.figure.colorbar(mesh, ax=axes, label="objects (logarithmic)", format=_plainly)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="width / picture's width")
    axes.set_ylabel("height / picture's height")
    axes.set_title("box sizes relative to the picture", fontsize=11)
    axes.grid(True, alpha=0.25)


def _draw_pixels(axes: Any, report: CheckReport) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    width, height = report.input_wh
    largest = max(width, height)
    edges = np.geomspace(1, largest, 41)
    for split, summary in report.summaries.items():
        shorter = np.clip(summary.box_sizes_px.min(1, initial=np.inf), 1, largest)
        if len(shorter):
            axes.hist(shorter, edges, histtype="step", color=_COLOURS[split], linewidth=1.8)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 1.5 * max(2.0, axes.dataLim.y1))
    axes.yaxis.set_major_formatter(_plainly)
    top = axes.get_xaxis_transform()
    axes.axvspan(1, TINY_PX, color="#c44e52", alpha=0.12)
    axes.axvline(TINY_PX, color="#c44e52")
    axes.text(TINY_PX, 1.01, f"{TINY_PX:g} px", transform=top, ha="center", fontsize=8, color="#c44e52")
    for stride in _STRIDES:
        axes.axvline(stride, color="0.45", linestyle=":")
        text = f"stride {stride}" if stride == _STRIDES[0] else str(stride)
        axes.text(stride, 1.01, text, transform=top, ha="center", fontsize=8, color="0.35")
    axes.set_xlim(1, largest)
    axes.set_xticks([each for each in (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512, 1024) if each <= largest])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"shorter side in pixels at the training size {width}x{height}")
    axes.set_ylabel("objects (logarithmic)")
    axes.set_title("box sizes at the training size", fontsize=11, pad=18)
    axes.grid(True, axis="y", alpha=0.25)
