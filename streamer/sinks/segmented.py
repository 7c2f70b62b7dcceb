"""Outputs in segments: when the next one begins, what it is named, and what follows one that fails."""

from __future__ import annotations

import abc
import contextlib
import enum
import logging
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink, WriteError
from streamer.sinks.files import captured_utc
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention, segment_path

log = logging.getLogger(__name__)

T = TypeVar("T")

_SAME_TIME_S = 1e-6  # rounding error of summed frame times
_OUTAGE_S, _OUTAGE_INTERVALS = 10.0, 10.0
_RETRY_S = 10.0
_MAX_LISTED = 3
_NAME_STEP = timedelta(milliseconds=1)


class SegmentWriter(Protocol):
    """One segment while it is written; the constructor that `SegmentedSink` is given opens it."""

    @property
    def is_kept(self) -> bool:
        """False when there is nothing in the file worth keeping."""

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends a frame; raises WriteError if the file can't take it."""

    def close(self, next_s: float | None = None) -> None:
        """Finishes the file, which lasts until `next_s`, the `pts_s` of the next segment's first frame, if one follows.

        Safe to call twice, and after an error; raises WriteError if that fails.
        """


W = TypeVar("W", bound=SegmentWriter)


class SegmentedSink(Sink, Generic[W]):
    """Writes files of equal length: a segment begins as `Boundaries` says and lasts until the next begins.

    ``out.mp4`` becomes ``out-20261123T123305.123Z.mp4``, the capture time (UTC) of the segment's first frame. Later
    segments of a run have later names, also when the clock is set back; no file is replaced.

    A segment that fails is followed by another 10 s later. `close` then raises the first of these errors.

    Attributes:
        retries_at_once: whether the frame that failed begins another segment if the failed one held something.
    """

    retries_at_once = False

    def __init__(
        self,
        path: Path,
        length_s: float,
        fps: float | None,
        retention: SegmentRetention | None = None,
        *,
        paths: OutputPaths | None = None,
    ) -> None:
        """Checks that segments can be written.

        Args:
            path: what segments are named after.
            length_s: a segment's length.
            fps: nominal frame rate, None if unknown.
            retention: deletes old segments; None keeps all.
            paths: the paths of the run; None for a run of its own.

        Raises:
            ConfigError: if another run is writing segments of that name.
            SinkError: if they can't be written.
        """
        self._claim = (paths or OutputPaths()).claim_series(path)
        self._series = Series(self._claim.path, retention)
        self._boundaries = Boundaries(length_s, fps)
        self._writer: W | None = None
        self._retry_at_s = -math.inf
        self._first_error: WriteError | None = None

    @abc.abstractmethod
    def _open(self, path: Path, first: Frame) -> W:
        """Opens a new segment; raises FileExistsError if `path` exists, WriteError if it can't be written."""

    def _end_s(self, boundary: Boundary, following: Frame) -> float | None:
        """Returns when the open segment ends, None for the end of its last frame."""
        return following.pts_s

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame, and every ten seconds deletes old segments."""
        boundary = self._boundaries.before(frame.pts_s)
        if boundary is not None:
            self._close_segment(self._end_s(boundary, frame))
        if self._writer is None and frame.pts_s < self._retry_at_s:
            return
        if not self._append(frame, detections):
            self._retry_at_s = frame.pts_s + _RETRY_S
        self._series.prune()

    def close(self) -> None:
        """Finishes the last segment; raises the first error of any."""
        try:
            self._close_segment(None)
            self._series.close()
        finally:
            self._claim.close()
        error, self._first_error = self._first_error, None
        if error is not None:
            raise error

    @property
    def written(self) -> tuple[Path, ...]:
        return self._series.written

    def _append(self, frame: Frame, detections: Detections) -> bool:
        """Writes a frame, if need be to another segment; returns False after a failure."""
        failed = False
        for _ in range(2):
            try:
                if self._writer is None:
                    self._writer = self._series.begin(captured_utc(frame), lambda path: self._open(path, frame))
                self._writer.write(frame, detections)
                break
            except WriteError as error:
                failed = True
                if not (self._fail(error) and self.retries_at_once):
                    break
        return not failed

    def _close_segment(self, next_s: float | None) -> None:
        try:
            if self._writer is not None:
                self._writer.close(next_s)
        except WriteError as error:
            self._fail(error)
        self._writer = None

    def _fail(self, error: WriteError) -> bool:
        """Gives up the open segment, if any; returns whether it holds something."""
        log.warning("%s", error)
        self._first_error = self._first_error or error
        writer, self._writer = self._writer, None
        if writer is None:
            return False
        with contextlib.suppress(SinkError):
            writer.close()
        if not writer.is_kept:
            self._series.discard()
        return writer.is_kept


class Boundary(enum.Enum):
    """Why a new segment begins."""

    LENGTH = enum.auto()
    OUTAGE = enum.auto()


class Boundaries:
    """Decides before which frames a new segment begins.

    One begins at or after each multiple of the length, counted from the output's first frame, and after an outage: when
    frames are more than 10 s apart and ten times as far apart as the two before.
    """

    def __init__(self, length_s: float, fps: float | None) -> None:
        """Takes a segment's length in seconds and the nominal frame rate, None if unknown."""
        self._length_s = length_s
        self._interval_s = 1 / fps if fps else math.inf
        self._first_s: float | None = None
        self._last_s = 0.0
        self._number = 0

    def before(self, pts_s: float) -> Boundary | None:
        """Returns why a segment ends before the frame at `pts_s`, None if it continues."""
        if self._first_s is None:
            self._first_s = self._last_s = pts_s
        gap_s, usual_s = pts_s - self._last_s, self._interval_s
        if gap_s > 0:
            self._last_s, self._interval_s = pts_s, gap_s
        number = int((pts_s - self._first_s + _SAME_TIME_S) // self._length_s)
        is_due = number > self._number
        self._number = max(number, self._number)
        if gap_s > _OUTAGE_S and usual_s < gap_s / _OUTAGE_INTERVALS:
            return Boundary.OUTAGE
        return Boundary.LENGTH if is_due else None


class Series:
    """The segments of one output: their names, which are kept, and how many there are."""

    def __init__(
        self, path: Path, retention: SegmentRetention | None, *, beside: Sequence[str] = (), rises: bool = True
    ) -> None:
        """Begins without segments.

        Args:
            path: what segments are named after.
            retention: deletes old ones; None keeps all.
            beside: endings of files that belong to a segment and are deleted with it.
            rises: whether a later segment has a later name whatever the clock does.
        """
        self.path = path
        self._rises = rises
        self._retention, self._beside = retention, tuple(beside)
        self._stamp: datetime | None = None
        self._newest = path
        self._is_open = False
        self._count = 0
        self._listed: list[Path] = []
        if retention is not None:
            for each in self._with_beside(path):
                retention.add(each)

    def begin(self, begun: datetime, make: Callable[[Path], T]) -> T:
        """Finishes the open segment, deletes old ones and makes the next, named by when it began (UTC).

        `make` raises FileExistsError if there is such a file.
        """
        self.end()
        if self._retention is not None:
            self._retention.prune()
        stamp = begun if self._stamp is None or not self._rises else max(begun, self._stamp + _NAME_STEP)
        while True:
            path = segment_path(self.path, stamp)
            try:
                made = make(path)
            except FileExistsError:
                stamp += _NAME_STEP
                continue
            self._stamp, self._newest, self._is_open = stamp, path, True
            self._count += 1
            self._listed = [*self._listed, path][:_MAX_LISTED]
            if self._retention is not None:
                for each in self._with_beside(path):
                    self._retention.begin(each)
            return made

    def end(self) -> None:
        """Marks the open segment, if any, as finished."""
        if self._is_open and self._retention is not None:
            for each in self._with_beside(self._newest):
                self._retention.end(each)
        self._is_open = False

    def _with_beside(self, path: Path) -> list[Path]:
        return [path, *(path.with_suffix(ending) for ending in self._beside)]

    def discard(self) -> None:
        """Deletes the newest segment, which holds nothing."""
        for each in self._with_beside(self._newest):
            each.unlink(missing_ok=True)
        self._listed = [path for path in self._listed if path != self._newest]
        self._count -= 1
        self.end()

    def prune(self) -> None:
        """Deletes old segments, every ten seconds at most."""
        if self._retention is not None:
            self._retention.prune(rate_limited=True)

    def close(self) -> None:
        """Deletes old segments a last time, keeping the open one, and finishes that. Safe to call twice."""
        if self._retention is not None and self._is_open:
            self._retention.prune()
        self.end()

    @property
    def written(self) -> tuple[Path, ...]:
        """The existing segments while there were three at most, then one pattern such as ``out-*.mp4``."""
        if self._count > _MAX_LISTED:
            return (self.path.with_name(f"{self.path.stem}-*{self.path.suffix}"),)
        return tuple(path for path in self._listed if path.exists())
