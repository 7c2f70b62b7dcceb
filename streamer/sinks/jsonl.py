"""Detections as JSON lines, one a frame."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.boundaries import Boundaries
from streamer.sinks.files import captured_utc, reason
from streamer.sinks.lines import Lines, Pipe, open_lines
from streamer.sinks.options import Retention
from streamer.sinks.paths import Claim, OutputPaths
from streamer.sinks.retention import Series
from streamer.sources.base import SourceInfo

log = logging.getLogger(__name__)

_RETRY_S = 10.0


class JsonlSink(Sink):
    """Writes a ``.jsonl`` file: UTF-8, one object a line as `LineFormat` says, in the file as soon as it is written."""

    needs_pixels = False

    def __init__(
        self, path: Path, labels: Sequence[str], *, live: bool = False, paths: OutputPaths | None = None
    ) -> None:
        """Opens `path`, replacing what it holds; a pipe that is there gets the lines once it has a reader.

        Args:
            path: the file.
            labels: the model's class names, by class id.
            live: whether the source is live, so that the time of day means something.
            paths: those of the run; None is a run of its own.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written.
        """
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._format = LineFormat(labels, live=live)
        try:
            self._lines = open_lines(self._claim)
        except OSError as error:
            self._claim.close()
            raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame's line.

        Raises:
            SinkError: if the file can't take it, or a number of the detections isn't finite.
        """
        line = self._format.line(frame, detections)
        try:
            self._lines.write(line)
        except OSError as error:
            raise broken_off(self._path, error) from error

    def close(self) -> None:
        """Closes the file.

        Raises:
            SinkError: if its last line can't be written.
        """
        try:
            self._lines.close()
        except OSError as error:
            raise broken_off(self._path, error) from error
        finally:
            self._claim.close()

    def interrupt(self) -> None:
        """Has a `write` that waits for the reader of a pipe give up soon."""
        if isinstance(self._lines, Pipe):
            self._lines.interrupt()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file."""
        return (self._path,)


class JsonlSegmentsSink(Sink):
    """Writes ``.jsonl`` files that begin and are named as those of `SegmentsSink`; no line is in two of them.

    A file that can't be written to its end is followed by another, 10 s later; closing then raises the first error.
    """

    needs_pixels = False

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        labels: Sequence[str],
        length_s: float,
        retain: Retention | None = None,
        *,
        paths: OutputPaths | None = None,
    ) -> None:
        """Checks that segments can be written.

        Args:
            path: what segments are named after.
            source: whose frames they are: its rate, and whether it is live.
            labels: the model's class names, by class id.
            length_s: a segment's length in seconds.
            retain: which segments are kept; None keeps all.
            paths: those of the run; None is a run of its own.

        Raises:
            ConfigError: if another run is writing segments of that name.
            SinkError: if they can't be written.
        """
        paths = paths or OutputPaths()
        self._claim = paths.claim_series(path)
        self._series = Series(self._claim.path, paths.retention(retain))
        self._boundaries = Boundaries(length_s, source.fps)
        self._format = LineFormat(labels, live=source.live)
        self._lines: Lines | None = None
        self._retry_at_s = -math.inf
        self._failed: SinkError | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame's line, and deletes old segments now and then.

        Raises:
            SinkError: if a number of the detections isn't finite.
        """
        line = self._format.line(frame, detections)
        if self._boundaries.before(frame.pts_s) is not None:
            self._finish()
        if self._lines is None and frame.pts_s < self._retry_at_s:
            return
        try:
            if self._lines is None:
                self._lines = self._series.begin(captured_utc(frame), _open_new)
            self._lines.write(line)
        except OSError as error:
            self._fail(error)
            self._finish()
            self._retry_at_s = frame.pts_s + _RETRY_S
        self._series.prune()

    def close(self) -> None:
        """Finishes the last segment.

        Raises:
            SinkError: if a segment couldn't be written to its end; the lines before are complete.
        """
        try:
            self._finish()
            self._series.close()
        finally:
            self._claim.close()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    @property
    def written(self) -> tuple[Path, ...]:
        """The segments that are there while no more than three were begun, then one pattern such as ``out-*.jsonl``."""
        return self._series.written

    def _finish(self) -> None:
        lines, self._lines = self._lines, None
        try:
            if lines is not None:
                lines.close()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        failed = broken_off(self._series.newest, error)
        log.warning("%s", failed)
        self._failed = self._failed or failed


class LineFormat:
    """What a line says.

    It is ``{"source", "index", "pts_s", "width", "height", "name", "detections"}``; a detection is
    ``{"label", "class_id", "score", "box_xyxy"}`` with the box in pixels of the frame, clipped to it, not rounded.
    A line with ``"held": true`` repeats the detections of an earlier frame, since the detector hasn't seen this one.
    Lines of live sources also have ``captured_at``: when the frame was captured, ``2026-11-23T12:33:05.123Z`` (UTC).
    """

    def __init__(self, labels: Sequence[str], *, live: bool) -> None:
        """Takes the model's class names, by class id, and whether the time of day means something."""
        self._labels = tuple(labels)
        self._live = live

    def line(self, frame: Frame, detections: Detections) -> str:
        """Returns a frame's line with its end.

        Raises:
            SinkError: if a number of the detections isn't finite.
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
                f"frame {frame.index} of {frame.source} has a number that isn't finite: {content}"
            ) from error


def broken_off(path: Path, error: OSError) -> SinkError:
    """Returns what to raise where lines can't be written."""
    return SinkError(f"{path} broke off: {reason(error)}; the lines before are complete")


def _open_new(path: Path) -> Lines:
    return open_lines(Claim(path, replaces=False))


_encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make one for each line


def _iso(utc: datetime) -> str:
    return utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
