"""How long segments are kept: of all outputs of a run together, by age or by size, also where the clock is wrong."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from streamer.common.closeable import Closeable
from streamer.sinks.files import is_locked, reason
from streamer.sinks.options import Retention

log = logging.getLogger(__name__)

T = TypeVar("T")

_STAMP = r"([0-9]{8}T[0-9]{6}\.[0-9]{3})Z"
_MOST_NAMED = 3
_CLOCK_STEP = timedelta(milliseconds=1)
_PRUNE_S = 10.0
_CLOCK_S = 3600.0  # a name and a file's time, or two clocks, may be that far apart
_PAUSE_S = 30 * 86400.0  # recordings further apart than that, and the age, may as well mean that the clock is wrong
_EARLIEST_S = datetime(2015, 1, 1, tzinfo=UTC).timestamp()  # before this only clocks that were never set say


@dataclass(frozen=True)
class Segment:
    """A segment on the disk that this run hasn't written.

    Attributes:
        path: the file.
        begun_s: when it was begun, by its name, in seconds since 1970.
        written_s: when it was last written, by the file system.
        size: bytes.
    """

    path: Path
    begun_s: float
    written_s: float
    size: int

    @property
    def order(self) -> tuple[float, str]:
        """What sorts segments by age: the name's time, unless that can't be; then the file's."""
        is_plausible = _EARLIEST_S <= self.begun_s <= self.written_s + _CLOCK_S
        return self.begun_s if is_plausible else self.written_s, self.path.name

    @property
    def latest_s(self) -> float:
        """The latest time that the name and the file tell."""
        return max(self.begun_s, self.written_s)


class SegmentRetention:
    """The segments of all outputs of one run, those of earlier runs included. Its methods may be called on any thread.

    What this run has written is newer than all else, and as old as the time that has passed since, whatever the clock
    says. The age of other segments is that by the clock, as far as it can be true: not by a clock that has jumped
    forward in this run, nor one that is behind the files, nor one that says that nothing was recorded for a month.
    Such segments are kept, which is said, until the run itself has lasted as long as they are to be kept.
    """

    def __init__(
        self,
        retain: Retention,
        *,
        clock: Callable[[], float] = time.time,
        run_clock: Callable[[], float] | None = None,
    ) -> None:
        """Has no output yet.

        Args:
            retain: what is kept.
            clock: seconds since 1970, as the system says.
            run_clock: seconds that go on evenly, also while the machine sleeps; None is the system's.
        """
        self._retain = retain
        self._clock, self._run_clock = clock, run_clock or _since_boot
        self._began = self._clock(), self._run_clock()
        self._series: dict[Path, dict[str, re.Pattern[str]]] = {}
        self._own: dict[Path, float | None] = {}  # of this run, in order: when it was finished by the run's clock
        self._seen_s: dict[Path, float] = {}
        self._pruned_s = -_PRUNE_S
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def add(self, path: Path) -> None:
        """Takes on the segments of one more output, named after `path`."""
        with self._lock:
            self._series.setdefault(_really(path).parent, {})[path.name] = segment_names(path)

    def begin(self, path: Path) -> None:
        """Notes that this run has begun a segment, which stays while it is written."""
        with self._lock:
            self._own[_really(path)] = None

    def end(self, path: Path) -> None:
        """Notes that a segment is finished."""
        with self._lock:
            path = _really(path)
            if path in self._own:
                self._own[path] = self._run_clock()

    def prune(self, *, now_and_then: bool = False) -> None:
        """Deletes the oldest segments as far as they aren't to be kept.

        By age, segments go that were finished too long ago; by size, the oldest of all outputs until the rest, those
        that are written included, is small enough. Links, folders, files with any other name and what another run is
        writing stay. What can't be deleted stays too, and is said once.

        Args:
            now_and_then: whether to do it only where ten seconds have passed since the last time.
        """
        with self._lock:
            if now_and_then and self._run_clock() - self._pruned_s < _PRUNE_S:
                return
            self._pruned_s = self._run_clock()
            others, sizes = self._look()
            if self._retain.size_bytes is not None:
                self._prune_by_size(self._retain.size_bytes, others, sizes)
            elif self._retain.age_s is not None:
                self._prune_by_age(self._retain.age_s, others)

    def _prune_by_size(self, size_bytes: int, others: Sequence[Segment], sizes: dict[Path, int]) -> None:
        total = sum(sizes.values())
        for path in (*(segment.path for segment in others), *self._finished()):
            if total <= size_bytes:
                return
            if self._delete(path):
                total -= sizes[path]

    def _prune_by_age(self, age_s: float, others: Sequence[Segment]) -> None:
        run_s = self._run_clock()
        for path in self._finished():
            ended_s = self._own[path]
            if ended_s is not None and run_s - ended_s > age_s:
                self._delete(path)
        now_s = self._now_s(others)
        later_s, may_be = now_s, now_s is not None
        too_old, doubtful = [], []
        for segment in sorted(others, key=lambda other: other.latest_s, reverse=True):
            may_be = may_be and later_s is not None and later_s - segment.latest_s <= max(_PAUSE_S, age_s)
            later_s = segment.latest_s
            if run_s - self._seen_s[segment.path] > age_s:
                too_old.append(segment)
            elif not may_be or now_s is None:
                doubtful.append(segment)
            elif now_s - segment.latest_s > age_s:
                too_old.append(segment)
        for segment in reversed(too_old):
            self._delete(segment.path)
        if doubtful and "clock" not in self._said:
            self._said.add("clock")
            log.warning(
                "the clock may be wrong: %d segments such as %s are kept until this run has lasted as long as they are "
                "to be kept; it is %s now, they were written until %s",
                len(doubtful), doubtful[0].path, _shown(self._clock()), _shown(doubtful[0].latest_s),
            )  # fmt: skip

    def _now_s(self, others: Sequence[Segment]) -> float | None:
        """Returns the earliest time that it may be now, in seconds since 1970; None where the clock can't be right."""
        newest_s = max((segment.latest_s for segment in others), default=0.0)
        wall_s, run_s = self._began
        as_begun_s = wall_s + self._run_clock() - run_s
        return min((now_s for now_s in (self._clock(), as_begun_s) if now_s >= newest_s - _CLOCK_S), default=None)

    def _finished(self) -> list[Path]:
        """Returns this run's segments that aren't written any more, oldest first."""
        return [path for path, ended_s in self._own.items() if ended_s is not None]

    def _look(self) -> tuple[list[Segment], dict[Path, int]]:
        """Returns what this run hasn't written, oldest first, and the size of each file; forgets what has gone."""
        others, sizes = [], {}
        for folder, series in self._series.items():
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        match = next((m for names in series.values() if (m := names.fullmatch(entry.name))), None)
                        if match is None or not entry.is_file(follow_symlinks=False):
                            continue
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        path = folder / entry.name
                        sizes[path] = status.st_size
                        if path not in self._own:
                            others.append(Segment(path, _time_s(match[1]), status.st_mtime, status.st_size))
            except OSError as error:
                self._say_once("look for old segments in", folder, error)
        run_s = self._run_clock()
        self._seen_s = {segment.path: self._seen_s.get(segment.path, run_s) for segment in others}
        self._own = {path: ended_s for path, ended_s in self._own.items() if path in sizes or ended_s is None}
        return sorted(others, key=lambda segment: segment.order), sizes

    def _delete(self, path: Path) -> bool:
        """Deletes a segment; returns whether it is gone."""
        if path not in self._own and is_locked(path):
            return False
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


class Series(Closeable):
    """The segments of one output: their names, and how many were begun.

    Attributes:
        path: what they are named after.
        newest: the segment begun last, or `path` before the first.
    """

    def __init__(self, path: Path, retention: SegmentRetention | None) -> None:
        """Has no segment yet.

        Args:
            path: the output.
            retention: deletes old segments; None keeps all.
        """
        self.path = self.newest = path
        self._retention = retention
        self._stamp: datetime | None = None
        self._open: Path | None = None
        self._begun = 0
        self._named: list[Path] = []
        if retention is not None:
            retention.add(path)

    def begin(self, begun: datetime, make: Callable[[Path], T]) -> T:
        """Makes the next segment, and deletes old ones; the one before is finished.

        Args:
            begun: when its first frame was captured, in UTC. A later segment has a later name, whatever the clock.
            make: makes the file; raises FileExistsError if it is there.
        """
        self.end()
        if self._retention is not None:
            self._retention.prune()
        stamp = begun if self._stamp is None else max(begun, self._stamp + _CLOCK_STEP)
        while True:
            path = self.newest = segment_path(self.path, stamp)
            try:
                made = make(path)
            except FileExistsError:
                stamp += _CLOCK_STEP
                continue
            self._stamp, self._open = stamp, path
            self._begun += 1
            self._named = [*self._named, path][:_MOST_NAMED]
            if self._retention is not None:
                self._retention.begin(path)
            return made

    def end(self) -> None:
        """Notes that the open segment, if any, is finished."""
        if self._open is not None and self._retention is not None:
            self._retention.end(self._open)
        self._open = None

    def drop(self) -> None:
        """Takes the newest segment back: it couldn't be kept."""
        self._named = [path for path in self._named if path != self.newest]
        self._begun -= 1
        self.end()

    def prune(self) -> None:
        """Deletes old segments now and then."""
        if self._retention is not None:
            self._retention.prune(now_and_then=True)

    def close(self) -> None:
        """Deletes old segments for the last time; the open one stays and is finished. Safe to call twice."""
        if self._retention is not None and self._open is not None:
            self._retention.prune()
        self.end()

    @property
    def written(self) -> tuple[Path, ...]:
        """The segments that are there while no more than three were begun, then one pattern such as ``out-*.mp4``."""
        if self._begun > _MOST_NAMED:
            return (self.path.with_name(f"{self.path.stem}-*{self.path.suffix}"),)
        return tuple(path for path in self._named if path.exists())


def segment_path(path: Path, begun: datetime) -> Path:
    """Returns the segment's file for the output `path` and the time when the segment began, in UTC."""
    stamp = f"{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z"
    return path.with_name(f"{path.stem}-{stamp}{path.suffix}")


def segment_names(path: Path) -> re.Pattern[str]:
    """Returns what matches the names of all segments of the output `path`, and nothing else."""
    return re.compile(re.escape(path.stem) + "-" + _STAMP + re.escape(path.suffix))


def _really(path: Path) -> Path:
    return Path(os.path.realpath(path.parent)) / path.name


def _time_s(stamp: str) -> float:
    """Returns the seconds since 1970 of a stamp in a name; a day that the calendar doesn't have is 1970's first."""
    try:
        return datetime.strptime(f"{stamp}+0000", "%Y%m%dT%H%M%S.%f%z").timestamp()
    except ValueError:
        return 0.0


def _shown(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))


def _since_boot() -> float:
    """Returns seconds that go on evenly, on Linux also while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
