"""Detections as comma-separated values, one row a detection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.rows import clipped_rows, iso_utc
from streamer.sinks.text import TextFormat

COLUMNS: Final = (
    "source", "index", "pts_s", "captured_at", "width", "height", "name", "held",
    "label", "class_id", "score", "left", "top", "right", "bottom", "track_id",
)  # fmt: skip
"""Of every file, whatever the source. A later version may add columns behind these."""


class CsvFormat(TextFormat):
    """Formats the rows of a frame: one a detection, so a frame without detections has none.

    The columns mean what the keys of JSON lines do; ``left`` to ``bottom`` are the box. What a source hasn't is empty:
    ``captured_at`` of files, ``name`` of videos, ``track_id`` of objects without one. RFC 4180
    but for the line's end, ``\\n``.
    """

    header = ",".join(COLUMNS) + "\n"

    def __init__(self, labels: Sequence[str], *, live: bool, rounded: bool = True) -> None:
        """Takes class names by class id, whether rows have ``captured_at``, and whether numbers are rounded."""
        self._labels = tuple(labels)
        self._live = live
        self._rounded = rounded

    def text(self, frame: Frame, detections: Detections) -> str:
        width, height = frame.size_wh
        about = (
            _quoted(frame.source),
            frame.index,
            frame.pts_s,
            iso_utc(frame) if self._live else "",
            width,
            height,
            _quoted(frame.name or ""),
            "true" if detections.is_reused else "false",
        )
        lines = []
        rows = clipped_rows(frame, detections, rounded=self._rounded)
        for (class_id, score, box), track_id in zip(rows, detections.ids_or_none(), strict=True):
            if not all(map(math.isfinite, (score, *box))):
                raise SinkError(f"frame {frame.index} of {frame.source} has a number that is NaN or Inf: {score} {box}")
            values = (
                *about,
                _quoted(self._labels[class_id]),
                class_id,
                score,
                *box,
                "" if track_id is None else track_id,
            )
            lines.append(",".join(map(str, values)) + "\n")
        return "".join(lines)


def _quoted(text: str) -> str:
    """Returns a text as CSV; what isn't Unicode in a file's name is escaped.

    Python's writer leaves a carriage return unquoted where lines end otherwise, which readers take for a line's end.
    """
    text = text.encode(errors="backslashreplace").decode()
    return '"' + text.replace('"', '""') + '"' if any(each in text for each in ',"\r\n') else text
