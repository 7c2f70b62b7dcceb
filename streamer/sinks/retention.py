"""Deletes old segments by age, size or the space that is left, also where the clock is wrong."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from streamer.common.errors import counted
from streamer.common.units import bytes_text
from streamer.sinks.files import is_locked, reason
from streamer.sinks.options import Retention

log = logging.getLogger(__name__)

STAMP = r"([0-9]{8}T[0-9]{6}\.[0-9]{3})Z"
"""Of the time in a segment's name, as a regular expression with one group."""

_ANY_SEGMENT = re.compile(r"[^.\n][^\n]*-" + STAMP + r"\.(?:mp4|mkv|mov|avi|webm|ts|jsonl|csv|vtt)")
_PRUNE_S = 10.0
_CLOCK_TOLERANCE_S = 3600.0  # a name and a file's time, or two clocks, may be that far apart
_MAX_PAUSE_S = 30 * 86400.0  # recordings further apart than that, and the age, may as well mean that the clock is wrong
_EARLIEST_S = datetime(2015, 1, 1, tzinfo=UTC).timestamp()  # before this only clocks that were never set say


class Space(Protocol):
    """What a file system has, in bytes."""

    def __iter__(self) -> Iterator[int]:
        """Yields all of it, what is used, and what is free."""


@dataclass(frozen=True)
class Segment:
    """The files of one name: a video, and what is beside it.

    Attributes:
        stem: its path without the ending.
        files: each with its size in bytes.
        begun_s: when it began by its name, seconds since 1970.
        written_s: when one of its files was last written by the file system, seconds since 1970.
        is_own: whether this run has written it.
    """

    stem: Path
    files: Mapping[Path, int]
    begun_s: float
    written_s: float
    is_own: bool

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(self.files.values())

    @property
    def order(self) -> tuple[float, str]:
        """Sort key by age: the time in the name, or that of the file if the name's is implausible."""
        is_plausible = _EARLIEST_S <= self.begun_s <= self.written_s + _CLOCK_TOLERANCE_S
        return self.begun_s if is_plausible else self.written_s, self.stem.name

    @property
    def latest_s(self) -> float:
        """The later of the name's and the file's time."""
        return max(self.begun_s, self.written_s)


class SegmentRetention:
    """Deletes old segments, each with what is beside it: those of a run's outputs, or all in their folders.

    Those of earlier runs are included. Segments that came during this run are newer than those before, in the order in
    which they came by a monotonic clock, which also measures the age of this run's own. The age of others is taken from
    the system's clock, unless that jumped forward during the run, is behind the files, or would mean that nothing was
    recorded for a month. Segments of doubtful age are kept, with a warning, until the run has lasted as long as
    segments are kept. Thread-safe.
    """

    def __init__(
        self,
        retain: Retention,
        *,
        clock: Callable[[], float] = time.time,
        run_clock: Callable[[], float] | None = None,
        space: Callable[[Path], Space] = shutil.disk_usage,
    ) -> None:
        """Starts without outputs.

        `clock` returns seconds since 1970; `run_clock` monotonic seconds that include suspend, by default the system's;
        `space` what the file system of a folder has.
        """
        self._retain, self._space = retain, space
        self._clock, self._run_clock = clock, run_clock or _since_boot
        self._began = self._clock(), self._run_clock()
        self._series: dict[Path, dict[str, re.Pattern[str]]] = {}
        self._own: dict[Path, float | None] = {}  # files of this run: when they ended by the run clock
        self._since_s: dict[Path, float] = {}  # by the run clock, when a stem was begun or first seen
        self._begun: dict[Path, int] = {}  # this run's stems, numbered
        self._numbers = itertools.count()
        self._found: set[Path] = set()  # stems that were there before the run
        self._scanned: set[tuple[Path, str]] = set()
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
            path = _canonical(path)
            self._own[path] = None
            self._since_s[path.with_suffix("")] = self._run_clock()
            self._begun[path.with_suffix("")] = next(self._numbers)

    def end(self, path: Path) -> None:
        """Marks a segment as finished."""
        with self._lock:
            path = _canonical(path)
            if path in self._own:
                self._own[path] = self._run_clock()

    def prune(self, *, rate_limited: bool = False) -> None:
        """Deletes the segments that exceed a limit; if `rate_limited`, not within ten seconds of the last time.

        By age: those that ended too long ago. By size: the oldest, until the rest, open ones included, is small
        enough. By space left: the oldest on that file system, until what was deleted makes up for what is missing.
        Links, folders, files with other names and files that another run is writing are never deleted. A failure to
        delete, and that nothing is left to delete, are logged once.
        """
        with self._lock:
            if rate_limited and self._run_clock() - self._pruned_s < _PRUNE_S:
                return
            self._pruned_s = self._run_clock()
            retain, segments = self._retain, self._scan()
            if retain.age_s is not None:
                segments = self._prune_by_age(retain.age_s, segments)
            if retain.size_bytes is not None:
                excess = sum(segment.size_bytes for segment in segments) - retain.size_bytes
                segments = self._make_room(segments, excess, f"within {bytes_text(retain.size_bytes)}")
            if retain.free_bytes is not None or retain.free_share is not None:
                self._prune_by_space(segments)

    def _make_room(self, segments: Sequence[Segment], excess: float, limit: str) -> list[Segment]:
        """Deletes the oldest until `excess` bytes are gone; returns what is left."""
        left = []
        for segment in segments:
            if excess > 0:
                deleted = self._delete(segment)
                excess -= deleted
                if deleted == segment.size_bytes:
                    continue
            left.append(segment)
        if excess <= 0:
            self._warned.discard(limit)
        elif limit not in self._warned:
            self._warned.add(limit)
            log.warning("recordings can't be kept %s: nothing is left that may be deleted", limit)
        return left

    def _prune_by_space(self, segments: Sequence[Segment]) -> None:
        retain = self._retain
        devices: dict[int, list[Path]] = {}
        for folder in self._series:
            with contextlib.suppress(OSError):  # it was said that there is none
                devices.setdefault(folder.stat().st_dev, []).append(folder)
        for folders in devices.values():
            try:
                total, _, free = self._space(folders[0])
            except OSError as error:
                self._warn_once("find out what is free in", folders[0], error)
                continue
            wanted = max(retain.free_bytes or 0, (retain.free_share or 0.0) * total)
            there = [segment for segment in segments if segment.stem.parent in folders]
            self._make_room(there, wanted - free, f"so that {bytes_text(wanted)} of {folders[0]} stay free")

    def _prune_by_age(self, age_s: float, segments: Sequence[Segment]) -> list[Segment]:
        run_s = self._run_clock()
        too_old = [segment for segment in segments if segment.is_own and self._ended_before(segment, run_s - age_s)]
        others = [segment for segment in segments if not segment.is_own]
        now_s = self._now_s(others)
        later_s, is_certain = now_s, now_s is not None
        found_too_old, doubtful = [], []
        for segment in sorted(others, key=lambda other: other.latest_s, reverse=True):
            is_certain = is_certain and later_s is not None and later_s - segment.latest_s <= max(_MAX_PAUSE_S, age_s)
            later_s = segment.latest_s
            if run_s - self._since_s[segment.stem] > age_s:
                found_too_old.append(segment)
            elif not is_certain or now_s is None:
                doubtful.append(segment)
            elif now_s - segment.latest_s > age_s:
                found_too_old.append(segment)
        gone = [segment for segment in (*reversed(found_too_old), *too_old) if self._delete(segment)]
        if doubtful and "clock" not in self._warned:
            self._warned.add("clock")
            count = len(doubtful)
            log.warning(
                "the clock may be wrong: %s such as %s %s kept until this run has lasted as long as they are "
                "to be kept; it is %s now, they were written until %s",
                counted(count, "segment"),
                next(iter(doubtful[0].files)),
                "is" if count == 1 else "are",
                _shown(self._clock()),
                _shown(doubtful[0].latest_s),
            )
        return [segment for segment in segments if segment not in gone]

    def _ended_before(self, segment: Segment, run_s: float) -> bool:
        """Whether all files of an own segment ended before a time of the run clock."""
        return all((ended_s := self._own.get(path)) is not None and ended_s < run_s for path in segment.files)

    def _now_s(self, others: Sequence[Segment]) -> float | None:
        """Returns the earliest time that it may be now, seconds since 1970; None if the clock is wrong."""
        newest_s = max((segment.latest_s for segment in others), default=0.0)
        wall_s, run_s = self._began
        as_begun_s = wall_s + self._run_clock() - run_s
        return min(
            (now_s for now_s in (self._clock(), as_begun_s) if now_s >= newest_s - _CLOCK_TOLERANCE_S), default=None
        )

    def _scan(self) -> list[Segment]:
        """Returns all segments, oldest first; forgets deleted ones."""
        found: dict[Path, list[tuple[Path, os.stat_result, float]]] = {}
        at_start: set[Path] = set()
        for folder, series in self._series.items():
            patterns = {"": _ANY_SEGMENT} if self._retain.whole_folder else series
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        named = ((name, m) for name, each in patterns.items() if (m := each.fullmatch(entry.name)))
                        name, match = next(named, ("", None))
                        if match is None or not entry.is_file(follow_symlinks=False):
                            continue
                        with contextlib.suppress(FileNotFoundError):
                            path, status = folder / entry.name, entry.stat(follow_symlinks=False)
                            found.setdefault(path.with_suffix(""), []).append((path, status, segment_time_s(match[1])))
                            if (folder, name) not in self._scanned:
                                at_start.add(path.with_suffix(""))
            except OSError as error:
                self._warn_once("look for old segments in", folder, error)
                continue
            self._scanned |= {(folder, name) for name in patterns}
        files = {path for each in found.values() for path, _, _ in each}
        self._own = {path: ended_s for path, ended_s in self._own.items() if path in files or ended_s is None}
        self._note_since(found, at_start)
        segments = [
            Segment(
                stem,
                {path: status.st_size for path, status, _ in each},
                each[0][2],
                max(status.st_mtime for _, status, _ in each),
                any(path in self._own for path, _, _ in each),
            )
            for stem, each in found.items()
        ]
        return sorted(segments, key=self._age_key)

    def _note_since(self, found: Iterable[Path], at_start: set[Path]) -> None:
        """Notes since when segments are known; those that were there before the run are older than all others."""
        run_s, since_s = self._run_clock(), self._since_s
        self._found = {stem for stem in found if stem in self._found or (stem in at_start and stem not in since_s)}
        own = {path.with_suffix("") for path in self._own}
        self._since_s = {stem: since_s.get(stem, run_s) for stem in {*found, *own}}
        self._begun = {stem: number for stem, number in self._begun.items() if stem in own}

    def _age_key(self, segment: Segment) -> tuple[float, int, tuple[float, str]]:
        stem = segment.stem
        since_s = -math.inf if stem in self._found else self._since_s[stem]
        return since_s, self._begun.get(stem, -1), segment.order

    def _delete(self, segment: Segment) -> int:
        """Deletes a segment's files unless one is being written; returns how many bytes are gone."""
        paths = sorted(segment.files, key=lambda path: -segment.files[path])
        if any(self._own[path] is None if path in self._own else is_locked(path) for path in paths):
            return 0
        deleted = 0
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._warn_once("delete", path, error)
                break
            log.info("deleted %s", path)
            deleted += segment.files[path]
        return deleted

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
