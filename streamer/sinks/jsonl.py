"""Detections as JSON lines, one a frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink, WriteError
from streamer.sinks.files import captured_utc, reason
from streamer.sinks.lines import Pipe, open_lines
from streamer.sinks.paths import Claim, OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import SegmentedSink
from streamer.sources.base import SourceInfo


class JsonlSink(Sink):
    """Writes a ``.jsonl`` file: UTF-8, one object a line as `LineFormat` describes, unbuffered."""

    needs_pixels = False

    def __init__(
        self, path: Path, labels: Sequence[str], *, live: bool = False, paths: OutputPaths | None = None
    ) -> None:
        """Opens `path`, replacing what it holds; a named pipe is opened once it has a reader.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written.
        """
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        try:
            self._writer = JsonlWriter(self._claim, LineFormat(labels, live=live))
        except OSError as error:
            self._claim.close()
            raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error

    def write(self, frame: Frame, detections: Detections) -> None:
        self._writer.write(frame, detections)

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._claim.close()

    def interrupt(self) -> None:
        self._writer.interrupt()

    @property
    def written(self) -> tuple[Path, ...]:
        return (self._path,)


class JsonlSegmentsSink(SegmentedSink["JsonlWriter"]):
    """Writes ``.jsonl`` files in segments; see `SegmentedSink`."""

    needs_pixels = False

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        labels: Sequence[str],
        length_s: float,
        retention: SegmentRetention | None = None,
        *,
        paths: OutputPaths | None = None,
    ) -> None:
        """Takes what `SegmentedSink` does, the source, and class names by class id."""
        super().__init__(path, length_s, source.fps, retention, paths=paths)
        self._format = LineFormat(labels, live=source.live)

    def _open(self, path: Path, first: Frame) -> JsonlWriter:
        try:
            return JsonlWriter(Claim(path, replaces=False), self._format)
        except FileExistsError:
            raise
        except OSError as error:
            raise WriteError(f"can't write {path}: {reason(error)}; nothing was kept") from error


class JsonlWriter:
    """One file of lines while it is written.

    Attributes:
        is_kept: whether there is a line in it.
    """

    def __init__(self, claim: Claim, line_format: LineFormat) -> None:
        """Opens the file, pipe or device; raises OSError if that fails."""
        self._path = claim.path
        self._format = line_format
        self._lines = open_lines(claim)
        self.is_kept = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame's line; raises WriteError if the file can't take it, and as `LineFormat.line`."""
        line = self._format.line(frame, detections)
        try:
            self._lines.write(line)
        except OSError as error:
            raise self._broken(error) from error
        self.is_kept = True

    def close(self, next_s: float | None = None) -> None:
        """Closes the file; raises WriteError if that fails. Safe to call twice."""
        try:
            self._lines.close()
        except OSError as error:
            raise self._broken(error) from error

    def interrupt(self) -> None:
        """Makes a `write` that waits for the reader of a pipe fail soon."""
        if isinstance(self._lines, Pipe):
            self._lines.interrupt()

    def _broken(self, error: OSError) -> WriteError:
        return WriteError(f"{self._path} broke off: {reason(error)}; the lines before are complete")


class LineFormat:
    """Formats the line of a frame.

    It is ``{"source", "index", "pts_s", "width", "height", "name", "detections"}``; a detection is
    ``{"label", "class_id", "score", "box_xyxy"}`` with the box in pixels of the frame, clipped to it, not rounded.
    A line with ``"held": true`` repeats the detections of an earlier frame: the detector skipped this one.
    Lines of live sources also have ``captured_at``, the capture time, ``2026-11-23T12:33:05.123Z`` (UTC).
    """

    def __init__(self, labels: Sequence[str], *, live: bool) -> None:
        """Takes class names by class id, and whether lines have ``captured_at``."""
        self._labels = tuple(labels)
        self._live = live

    def line(self, frame: Frame, detections: Detections) -> str:
        """Returns a frame's line, newline included.

        Raises:
            SinkError: if a detection holds NaN or Inf.
        """
        width, height = frame.size_wh
        boxes = np.minimum(np.maximum(detections.boxes_xyxy, 0), (width, height, width, height))
        rows = zip(detections.class_ids.tolist(), detections.scores.tolist(), boxes.tolist(), strict=True)
        content = {
            "source": frame.source,
            "index": frame.index,
            "pts_s": frame.pts_s,
            **({"captured_at": _iso(captured_utc(frame))} if self._live else {}),
            "width": width,
            "height": height,
            "name": frame.name,
            **({"held": True} if detections.is_reused else {}),
            "detections": [
                {"label": self._labels[class_id], "class_id": class_id, "score": score, "box_xyxy": box}
                for class_id, score, box in rows
            ],
        }
        try:
            return _encode(content) + "\n"
        except ValueError as error:
            raise SinkError(
                f"frame {frame.index} of {frame.source} has a number that is NaN or Inf: {content}"
            ) from error


_encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make one for each line


def _iso(utc: datetime) -> str:
    return utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
