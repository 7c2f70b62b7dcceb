"""Draws results, curves and confusion matrices as PNG files.

Matplotlib is imported on first use, through its object interface with the Agg canvas, so that no global state changes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from calibration.files import write_whole
from streamer.common.errors import ConfigError

INK, GREY, LIGHT, GRID = "#222222", "#8a8a8a", "#c9c9c9", "#ebebeb"
COLOURS = (
    *("#1f6fb4", "#d9541e", "#2a9d4a", "#8e5bb5", "#c42b3a", "#7a5230", "#d65fa8", "#6b6b6b", "#9c9a12", "#17a2b8"),
    *("#0b3c66", "#f0a05a", "#86c98f", "#b99ad6", "#f08a8f", "#b58a68", "#f2b3d6", "#1b7f79", "#5c5b0a", "#8fd3e8"),
)
"""Colours of up to 20 lines that are told apart on white."""
_DPI = 110
_MOST_MARKERS = 40
# Families with the letters that Matplotlib's own font lacks; those installed are used behind it.
_MORE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Noto Sans",
    "Arial Unicode MS",
)


def new_figure(size_inches: tuple[float, float]) -> Any:
    """Returns an empty Matplotlib figure with an Agg canvas.

    Raises:
        ConfigError: Matplotlib isn't installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing plots needs Matplotlib: pip install 'nanodet-streamer[calibration]'") from error
    figure = Figure(figsize=size_inches, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        ConfigError: the file can't be written.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily(_font_families())
    picture = io.BytesIO()
    with _without_glyph_warnings():
        figure.savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def plain_axes(axes: Any, title: str, x_label: str = "", y_label: str = "") -> None:
    """Sets titles, a light grid, and no frame above and on the right."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def line(axes: Any, x: Sequence[float], y: Sequence[float | None], label: str, colour: str, style: str = "-") -> bool:
    """Draws the points that were measured, with markers where they are few; returns whether there are any."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    if not points:
        return False
    marker = "o" if len(points) <= _MOST_MARKERS else None
    axes.plot(
        *zip(*points, strict=True), style, color=colour, label=label, marker=marker, markersize=3.5, linewidth=1.5
    )
    return True


def say_empty(axes: Any, text: str) -> None:
    """Writes a text into an empty plot."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def legend(axes: Any, **options: Any) -> None:
    """Adds a legend without a frame, if there is something to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**{"fontsize": 8, "frameon": True, "framealpha": 0.85, "edgecolor": "none", **options})


def cut(name: str, most: int = 24) -> str:
    """Returns a class name of at most `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Lets letters that no installed font has be drawn as boxes in silence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@lru_cache(maxsize=1)
def _font_families() -> tuple[str, ...]:
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in _MORE_FONTS if name in installed))
