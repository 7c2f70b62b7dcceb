"""Deletes old segments, of all outputs of a run together, by age or by size, also where the clock is wrong."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from streamer.common.errors import counted
from streamer.sinks.files import is_locked, reason
from streamer.sinks.options import Retention

log = logging.getLogger(__name__)

STAMP = r"([0-9]{8}T[0-9]{6}\.[0-9]{3})Z"
"""Of the time in a segment's name, as a regular expression with one group."""

_PRUNE_S = 10.0
_CLOCK_TOLERANCE_S = 3600.0  # a name and a file's time, or two clocks, may be that far apart
_MAX_PAUSE_S = 30 * 86400.0  # recordings further apart than that, and the age, may as well mean that the clock is wrong
_EARLIEST_S = datetime(2015, 1, 1, tzinfo=UTC).timestamp()  # before this only clocks that were never set say


@dataclass(frozen=True)
class Segment:
    """A segment of an earlier run, or of another one.

    Attributes:
        path: the file.
        begun_s: when it began by its name, seconds since 1970.
        written_s: when it was last written by the file system, seconds since 1970.
    """

    path: Path
    begun_s: float
    written_s: float

    @property
    def order(self) -> tuple[float, str]:
        """Sort key by age: the time in the name, or that of the file if the name's is implausible."""
        is_plausible = _EARLIEST_S <= self.begun_s <= self.written_s + _CLOCK_TOLERANCE_S
        return self.begun_s if is_plausible else self.written_s, self.path.name

    @property
    def latest_s(self) -> float:
        """The later of the name's and the file's time."""
        return max(self.begun_s, self.written_s)


class SegmentRetention:
    """Deletes old segments of all outputs of a run, those of earlier runs included. Thread-safe.

    This run's own segments are the newest, and their age is measured by a monotonic clock. The age of others is taken
    from the system's clock, unless that jumped forward during the run, is behind the files, or would mean that nothing
    was recorded for a month. Segments of doubtful age are kept, with a warning, until the run has lasted as long as
    segments are kept.
    """

    def __init__(
        self,
        retain: Retention,
        *,
        clock: Callable[[], float] = time.time,
        run_clock: Callable[[], float] | None = None,
    ) -> None:
        """Starts without outputs.

        `clock` returns seconds since 1970; `run_clock` monotonic seconds that include suspend, by default the system's.
        """
        self._retain = retain
        self._clock, self._run_clock = clock, run_clock or _since_boot
        self._began = self._clock(), self._run_clock()
        self._series: dict[Path, dict[str, re.Pattern[str]]] = {}
        self._own: dict[Path, float | None] = {}  # of this run, oldest first: when it ended by the run clock
        self._seen_s: dict[Path, float] = {}
        self._pruned_s = -_PRUNE_S
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def add(self, path: Path) -> None:
        """Includes the segments of the output `path`."""
        with self._lock:
            self._series.setdefault(_canonical(path).parent, {})[path.name] = segment_names(path)

    def begin(self, path: Path) -> None:
        """Registers a segment that this run writes; it is kept until `end`."""
        with self._lock:
            self._own[_canonical(path)] = None

    def end(self, path: Path) -> None:
        """Marks a segment as finished."""
        with self._lock:
            path = _canonical(path)
            if path in self._own:
                self._own[path] = self._run_clock()

    def prune(self, *, rate_limited: bool = False) -> None:
        """Deletes the segments that exceed the limit; if `rate_limited`, not within ten seconds of the last time.

        By age: those that ended too long ago. By size: the oldest, until the rest, open ones included, is small
        enough. Links, folders, files with other names and files that another run is writing are never deleted. A
        failure to delete is logged once.
        """
        with self._lock:
            if rate_limited and self._run_clock() - self._pruned_s < _PRUNE_S:
                return
            self._pruned_s = self._run_clock()
            others, sizes = self._scan()
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
        later_s, is_certain = now_s, now_s is not None
        too_old, doubtful = [], []
        for segment in sorted(others, key=lambda other: other.latest_s, reverse=True):
            is_certain = is_certain and later_s is not None and later_s - segment.latest_s <= max(_MAX_PAUSE_S, age_s)
            later_s = segment.latest_s
            if run_s - self._seen_s[segment.path] > age_s:
                too_old.append(segment)
            elif not is_certain or now_s is None:
                doubtful.append(segment)
            elif now_s - segment.latest_s > age_s:
                too_old.append(segment)
        for segment in reversed(too_old):
            self._delete(segment.path)
        if doubtful and "clock" not in self._warned:
            self._warned.add("clock")
            count = len(doubtful)
            log.warning(
                "the clock may be wrong: %s such as %s %s kept until this run has lasted as long as they are "
                "to be kept; it is %s now, they were written until %s",
                counted(count, "segment"),
                doubtful[0].path,
                "is" if count == 1 else "are",
                _shown(self._clock()),
                _shown(doubtful[0].latest_s),
            )

    def _now_s(self, others: Sequence[Segment]) -> float | None:
        """Returns the earliest time that it may be now, seconds since 1970; None if the clock is wrong."""
        newest_s = max((segment.latest_s for segment in others), default=0.0)
        wall_s, run_s = self._began
        as_begun_s = wall_s + self._run_clock() - run_s
        return min(
            (now_s for now_s in (self._clock(), as_begun_s) if now_s >= newest_s - _CLOCK_TOLERANCE_S), default=None
        )

    def _finished(self) -> list[Path]:
        """Returns this run's finished segments, oldest first."""
        return [path for path, ended_s in self._own.items() if ended_s is not None]

    def _scan(self) -> tuple[list[Segment], dict[Path, int]]:
        """Returns the segments of other runs, oldest first, and all sizes in bytes; forgets deleted ones."""
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
                            others.append(Segment(path, segment_time_s(match[1]), status.st_mtime))
            except OSError as error:
                self._warn_once("look for old segments in", folder, error)
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
            self._warn_once("delete", path, error)
            return False
        log.info("deleted %s", path)
        return True

    def _warn_once(self, what: str, path: Path, error: OSError) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("can't %s %s: %s; old segments stay there", what, path, reason(error))


def segment_path(path: Path, begun: datetime) -> Path:
    """Returns the file of the segment of the output `path` that began at a time, UTC."""
    stamp = f"{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z"
    return path.with_name(f"{path.stem}-{stamp}{path.suffix}")


def segment_names(path: Path) -> re.Pattern[str]:
    """Returns a pattern for the names of all segments of the output `path`, to be used with `fullmatch`."""
    return re.compile(re.escape(path.stem) + "-" + STAMP + re.escape(path.suffix))


def _canonical(path: Path) -> Path:
    return Path(os.path.realpath(path.parent)) / path.name


def segment_time_s(stamp: str) -> float:
    """Returns the time in a segment's name in seconds since 1970; 0 for an impossible date."""
    try:
        return datetime.strptime(f"{stamp}+0000", "%Y%m%dT%H%M%S.%f%z").timestamp()
    except ValueError:
        return 0.0


def _shown(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))


def _since_boot() -> float:
    """Returns monotonic seconds, on Linux including suspend."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
