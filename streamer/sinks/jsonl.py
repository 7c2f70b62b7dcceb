"""Detections as JSON lines, one a frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.rows import clipped_rows, iso_utc
from streamer.sinks.text import TextFormat, TextSegmentsSink, TextSink
from streamer.sources.base import SourceInfo

LINE_VERSION: Final = 1
"""Of the format of a line: a key that is removed, renamed or means something else increases it, a new key doesn't."""


class JsonlSink(TextSink):
    """Writes a ``.jsonl`` file: one object a line as `LineFormat` describes."""

    def __init__(
        self,
        path: Path,
        labels: Sequence[str],
        *,
        live: bool = False,
        rounded: bool = True,
        paths: OutputPaths | None = None,
    ) -> None:
        """Takes what `TextSink` and `LineFormat` do."""
        super().__init__(path, LineFormat(labels, live=live, rounded=rounded), paths=paths)


class JsonlSegmentsSink(TextSegmentsSink):
    """Writes ``.jsonl`` files in segments; see `SegmentedSink`."""

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        labels: Sequence[str],
        length_s: float,
        retention: SegmentRetention | None = None,
        *,
        rounded: bool = True,
        paths: OutputPaths | None = None,
    ) -> None:
        """Takes what `TextSegmentsSink` and `LineFormat` do."""
        line_format = LineFormat(labels, live=source.live, rounded=rounded)
        super().__init__(path, source, line_format, length_s, retention, paths=paths)


class LineFormat(TextFormat):
    """Formats the line of a frame; ``streamer/data/schemas/jsonl.schema.json`` and docs/json.md describe each key.

    It is ``{"version", "source", "index", "pts_s", "width", "height", "name", "detections"}``; a detection is
    ``{"label", "class_id", "score", "box_xyxy"}`` with the box in pixels of the frame, clipped to it, and ``track_id``
    where it has one.
    A line with ``"held": true`` repeats the detections of an earlier frame: the detector skipped this one.
    Lines of live sources also have ``captured_at``, the capture time, ``2026-11-23T12:33:05.123Z`` (UTC).

    Each line has the version, rather than a first line that only tells it: every line then stands alone in segments,
    pipes and ``tail -f``, and all lines are alike for pandas and jq.
    """

    def __init__(self, labels: Sequence[str], *, live: bool, rounded: bool = True) -> None:
        """Takes class names by class id, whether lines have ``captured_at``, and whether numbers are rounded.

        Rounded are scores to 4 decimals and boxes to 2.
        """
        self._labels = tuple(labels)
        self._live = live
        self._rounded = rounded

    def text(self, frame: Frame, detections: Detections) -> str:
        content = self.content(frame, detections)
        try:
            return encoded(content)
        except ValueError as error:
            raise SinkError(
                f"frame {frame.index} of {frame.source} has a number that is NaN or Inf: {content}"
            ) from error

    def content(self, frame: Frame, detections: Detections, size_wh: tuple[int, int] | None = None) -> dict[str, Any]:
        """Returns a line's object; `size_wh` is that of another picture of the same view, if the line is for that."""
        width, height = size_wh or frame.size_wh
        rows = clipped_rows(frame, detections, size_wh=size_wh, rounded=self._rounded)
        return {
            "version": LINE_VERSION,
            "source": frame.source,
            "index": frame.index,
            "pts_s": frame.pts_s,
            **({"captured_at": iso_utc(frame)} if self._live else {}),
            "width": width,
            "height": height,
            "name": frame.name,
            **({"held": True} if detections.is_reused else {}),
            "detections": [
                {"label": self._labels[class_id], "class_id": class_id, "score": score, "box_xyxy": box}
                | ({} if track_id is None else {"track_id": track_id})
                for (class_id, score, box), track_id in zip(rows, detections.ids_or_none(), strict=True)
            ],
        }


def encoded(content: Mapping[str, Any]) -> str:
    """Returns an object as a line; raises ValueError for NaN and Inf, which JSON doesn't have."""
    return _encode(content) + "\n"


_encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make one for each line
