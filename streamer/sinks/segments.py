"""Recordings in segments: a new video file every so often, and the oldest deleted."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from streamer.detections import Detections
from streamer.errors import SinkError
from streamer.frame import Frame
from streamer.sinks.audio import AudioReader, open_audio
from streamer.sinks.base import Sink
from streamer.sinks.files import captured_utc, reason
from streamer.sinks.options import DEFAULT_CRF, Retention
from streamer.sinks.paths import OutputPaths
from streamer.sinks.recording import Recording
from streamer.sources.base import SourceInfo

log = logging.getLogger(__name__)

_TIDY_S = 10.0
_MOST_NAMED = 3
_STAMP = r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z"
_CLOCK_STEP = timedelta(milliseconds=1)
_SAME_TIME_S = 1e-6  # times that are sums of frame times miss a boundary by less
_OUTAGE_S, _OUTAGE_INTERVALS = 10.0, 10.0
_RETRY_S = 10.0


class SegmentsSink(Sink):
    """Writes video files of equal length with the frames' own times and, for file sources, the source's sound.

    A segment begins with the first frame at or after each multiple of the length, counted from the output's first
    frame, and lasts until the next begins: their lengths add up to the whole. After an outage, when frames are more
    than 10 s apart and ten times as far as the two before, a new segment begins, and the one before it ends with its
    last picture.

    A segment that can't be written to its end is followed by another one: with the frame that failed if it held
    something, else 10 s later. Closing then raises the first of these errors.

    ``out.mp4`` becomes ``out-20261123T123305.123Z.mp4``, after the time in UTC when the segment's first frame was
    captured. Later segments of a run have later names, also when the clock is set back; no file is replaced.
    """

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        length_s: float,
        retain: Retention | None = None,
        *,
        crf: int = DEFAULT_CRF,
        paths: OutputPaths | None = None,
    ) -> None:
        """Checks that segments can be written.

        Args:
            path: what segments are named after; its ending is one of .mp4, .mov, .mkv, .avi.
            source: what is recorded: its frame rate, and the file whose sound is written.
            length_s: a segment's length in seconds.
            retain: which segments are kept; None keeps all.
            crf: x264's constant rate factor.
            paths: those of the run; None is a run of its own.

        Raises:
            ConfigError: if another run is writing segments of that name.
            SinkError: if they can't be written.
        """
        self._claim = (paths or OutputPaths()).claim_series(path)
        self._path = path = self._claim.path
        self._source = source
        self._length_s = length_s
        self._shelf = Shelf(path, retain) if retain is not None else None
        self._tidied_s = 0.0
        self._crf = crf
        self._first_s: float | None = None
        self._last_s = 0.0
        self._interval_s = 1 / source.fps if source.fps else math.inf
        self._retry_at_s = -math.inf
        self._failed: SinkError | None = None
        self._sound: AudioReader | None = None
        self._recording: Recording | None = None
        self._number = 0
        self._stamp: datetime | None = None
        self._begun = 0
        self._named: list[Path] = []

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame, which must have the boxes drawn on it already, and deletes old segments now and then."""
        if self._first_s is None:
            self._first_s = self._last_s = frame.pts_s
            self._sound = open_audio(self._source)
        self._finish_before(frame)
        if self._recording is None and frame.pts_s < self._retry_at_s:
            return
        try:
            self._add(frame)
        except SinkError as error:
            if self._note_failure(error):
                try:
                    self._add(frame)
                except SinkError as again:
                    self._note_failure(again)
            self._retry_at_s = frame.pts_s + _RETRY_S
        if time.perf_counter() - self._tidied_s >= _TIDY_S:
            self._tidy(self._recording.path if self._recording is not None else None)

    def close(self) -> None:
        """Finishes the last segment.

        Raises:
            SinkError: if a segment couldn't be written to its end. What was written before can be played.
        """
        last = self._recording
        try:
            if last is not None:
                last.finish()
                self._recording = None
        except SinkError as error:
            self._note_failure(error)
        finally:
            if self._sound is not None:
                self._sound.close()
            if self._first_s is not None:
                self._tidy(last.path if last is not None else None)
            self._claim.close()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    @property
    def written(self) -> tuple[Path, ...]:
        """The segments that are there while no more than three were begun, then one pattern such as ``out-*.mp4``."""
        if self._begun > _MOST_NAMED:
            return (self._path.with_name(f"{self._path.stem}-*{self._path.suffix}"),)
        return tuple(self._named)

    def _finish_before(self, frame: Frame) -> None:
        """Finishes the open segment if a new one is to begin with a frame."""
        assert self._first_s is not None
        gap_s, usual_s = frame.pts_s - self._last_s, self._interval_s
        if gap_s > 0:
            self._last_s, self._interval_s = frame.pts_s, gap_s
        is_outage = gap_s > _OUTAGE_S and usual_s < gap_s / _OUTAGE_INTERVALS
        number = int((frame.pts_s - self._first_s + _SAME_TIME_S) // self._length_s)
        is_due = number > self._number
        self._number = max(number, self._number)
        recording = self._recording
        if recording is None or not (is_due or is_outage):
            return
        self._recording = None
        try:
            recording.finish(None if is_outage and self._sound is None else frame.pts_s)
        except SinkError as error:
            self._note_failure(error, recording)

    def _add(self, frame: Frame) -> None:
        if self._recording is None:
            self._recording = self._begin(frame)
        self._recording.add(frame)

    def _note_failure(self, error: SinkError, recording: Recording | None = None) -> bool:
        """Lets a segment that failed go; returns whether it held anything."""
        recording, self._recording = recording or self._recording, None
        log.warning("%s", error)
        self._failed = self._failed or error
        is_kept = recording is not None and recording.is_kept
        if recording is not None and not is_kept:
            self._named = [path for path in self._named if path != recording.path]
            self._begun -= 1
        return is_kept

    def _begin(self, frame: Frame) -> Recording:
        self._tidy(None)
        stamp = captured_utc(frame)
        if self._stamp is not None:
            stamp = max(stamp, self._stamp + _CLOCK_STEP)
        while True:
            path = segment_path(self._path, stamp)
            try:
                recording = Recording(path, frame, self._source.fps, self._sound, crf=self._crf, replace=False)
            except FileExistsError:
                stamp += _CLOCK_STEP
                continue
            self._stamp = stamp
            self._begun += 1
            self._named = [*self._named, path][:_MOST_NAMED]
            return recording

    def _tidy(self, open_path: Path | None) -> None:
        self._tidied_s = time.perf_counter()
        if self._shelf is not None:
            gone = self._shelf.tidy(open_path)
            self._named = [path for path in self._named if path not in gone]


@dataclass(frozen=True)
class Segment:
    """A segment on the disk, open or finished: when it was written to last (seconds since 1970), its size in bytes."""

    path: Path
    ended_s: float
    size: int


class Shelf:
    """The segments of one output, those of earlier runs included, and how many of them are kept."""

    def __init__(self, path: Path, retain: Retention) -> None:
        """Looks at nothing yet.

        Args:
            path: the output that segments are named after.
            retain: which are kept.
        """
        self._folder = path.parent
        self._names = segment_names(path)
        self._retain = retain
        self._said: set[str] = set()

    def tidy(self, open_path: Path | None = None) -> list[Path]:
        """Deletes the oldest segments as far as they aren't to be kept; returns those that are gone.

        By age, segments go that were finished too long ago; by size, the oldest by name until the rest, the open one
        included, is small enough. Links, folders and files with any other name stay. What can't be deleted stays too,
        and is said once.

        Args:
            open_path: the segment that is being written, or None: it stays.
        """
        segments = self._segments()
        total = sum(segment.size for segment in segments)
        now_s = time.time()
        gone = []
        for segment in segments:
            if self._retain.size_bytes is not None:
                goes = total > self._retain.size_bytes
            else:
                assert self._retain.age_s is not None
                goes = now_s - segment.ended_s > self._retain.age_s
            if goes and segment.path != open_path and self._delete(segment.path):
                total -= segment.size
                gone.append(segment.path)
        return gone

    def _segments(self) -> list[Segment]:
        """Returns what is there, oldest first."""
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if self._names.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        found.append(Segment(self._folder / entry.name, status.st_mtime, status.st_size))
        except OSError as error:
            self._say_once("look for old segments in", self._folder, error)
        return sorted(found, key=lambda segment: segment.path.name)

    def _delete(self, path: Path) -> bool:
        """Deletes a segment; returns whether it is gone."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._say_once("delete", path, error)
            return False
        log.info("deleted %s", path)
        return True

    def _say_once(self, what: str, path: Path, error: OSError) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("can't %s %s: %s; old segments stay there", what, path, reason(error))


def segment_path(path: Path, begun: datetime) -> Path:
    """Returns the segment's file for the output `path` and the time when the segment began, in UTC."""
    stamp = f"{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z"
    return path.with_name(f"{path.stem}-{stamp}{path.suffix}")


def segment_names(path: Path) -> re.Pattern[str]:
    """Returns what matches the names of all segments of the output `path`, and nothing else."""
    return re.compile(re.escape(path.stem) + "-" + _STAMP + re.escape(path.suffix))
