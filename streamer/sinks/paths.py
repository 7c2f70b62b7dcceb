"""The registry of a run's output paths: none is opened twice, none is an input, none is another run's."""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, SinkError
from streamer.sinks.files import (
    behind_link,
    check_folder,
    check_writable,
    is_device,
    is_special,
    reason,
    same_file,
    split_ending,
)
from streamer.sinks.options import Retention
from streamer.sinks.retention import SegmentRetention, segment_names
from streamer.sinks.spec import OutputSpec
from streamer.sources.base import SourceInfo
from streamer.sources.spec import PICTURE_SUFFIXES, is_taken

log = logging.getLogger(__name__)


class Claim(Closeable):
    """A path that one output may write. Closing it releases it to other runs; this run never opens it again.

    Attributes:
        path: what to write. Where the run has written the wanted path before, its name has a number.
        replaces: whether what is at `path` may be replaced; a path with a number must be new.
    """

    def __init__(self, path: Path, release: Callable[[], None] | None = None, *, replaces: bool = True) -> None:
        self.path = path
        self.replaces = replaces
        self._release = release

    def close(self) -> None:
        """Releases the path to other runs. Safe to call twice."""
        if self._release is not None:
            self._release()


class OutputPaths:
    """Every path that a run has opened for output, resolved. Its methods may be called on any thread.

    A file or a folder is claimed once per run. A later claim of the same path, or of a link or hard link to it, gets
    the next free number: ``out-2.mp4`` for ``out.mp4``. A numbered path never replaces an existing file.
    """

    def __init__(self, inputs: Mapping[Path, str] | None = None) -> None:
        """Has opened no path yet; `inputs` are files that the run reads beside its sources, and what each is."""
        self._inputs = inputs or {}
        self._sources: dict[tuple[str, Path | None], SourceInfo] = {}
        self._lock = threading.Lock()
        self._had: list[Path] = []
        self._open_series: set[Path] = set()
        self._retention: SegmentRetention | None = None

    def add_source(self, source: SourceInfo) -> None:
        """Notes that the run reads a source: no output may write there from now on, also once the source is removed."""
        self._sources[source.uri, source.path] = source

    def check(
        self,
        outputs: Iterable[tuple[OutputSpec, str]],
        sources: Iterable[SourceInfo] = (),
        *,
        report: Path | None = None,
        retain: Retention | None = None,
    ) -> None:
        """Makes sure that no two outputs are one file or folder, and that none is anything that the run reads.

        Nothing is opened or claimed; links are followed.

        Args:
            outputs: each output that is wanted, and the name of the source that it is for.
            sources: that the run is about to read, beside those added.
            report: the report's file: it may be none of all these either.
            retain: which segments are kept: where old ones are deleted, no source may be one.

        Raises:
            ConfigError: if one is.
        """
        read = [*sources, *self._sources.values()]
        taken: list[Path] = []
        for spec, name in outputs:
            if not spec.has_path:
                continue
            path = spec.path_for(name)
            shown = f"output {str(path)!r}"
            self._refuse_read(path, shown, read, is_folder=spec.is_folder)
            for source in read if retain is not None and spec.can_be_segmented else ():
                if _is_segment_of(source, path):
                    raise ConfigError(f"source {source.uri!r} is an old segment of the {shown}; choose another output")
            if is_device(path):
                continue
            if any(same_file(path, one) for one in taken):
                raise ConfigError(f"two outputs are {str(path)!r}: leave one out, or name the sources, as in door=URI")
            taken.append(path)
        if report is not None and not is_device(report):
            shown = f"the report {str(report)!r}"
            self._refuse_read(report, shown, read, is_folder=False)
            if any(same_file(report, path) for path in taken):
                raise ConfigError(f"{shown} is also an output; choose another")

    def check_folder_of(self, output: OutputSpec, source: str) -> None:
        """Makes sure that a new file can be made where a source's output is to be; raises SinkError if it can't."""
        if not output.has_path:
            return
        path = output.path_for(source)
        if not is_special(path):
            check_folder(path / "x" if output.is_folder and path.is_dir() else behind_link(path))

    def _refuse_read(self, path: Path, shown: str, read: Sequence[SourceInfo], *, is_folder: bool) -> None:
        for source in read:
            if _holds_source(path, is_folder, source):
                raise ConfigError(f"{shown} is also the source {source.uri!r}; choose another")
        for file, what in self._inputs.items():
            if same_file(path, file):
                raise ConfigError(f"{shown} is also {what} {str(file)!r}; choose another")

    def claim_file(self, path: Path) -> Claim:
        """Claims a file. A pipe or a device that is there already is neither locked nor numbered.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written.
        """
        return Claim(path) if is_special(path) else self._claim(path, _take_file)

    def claim_folder(self, path: Path) -> Claim:
        """Claims a folder for pictures, and makes it if it isn't there.

        Raises:
            ConfigError: if another run is writing pictures there.
            SinkError: if it can't be made or written into.
        """
        return self._claim(path, _take_folder)

    def claim_series(self, path: Path) -> Claim:
        """Claims what segments are named after. Each is a new file, so a later output may continue a series.

        Raises:
            ConfigError: if another run is writing segments of that name.
            SinkError: if there is no such folder, or it can't be written into.
        """
        path = behind_link(path)
        with self._lock:
            place, number = path, 1
            while _real(place) in self._open_series:
                number += 1
                place = numbered(path, number)
            real = _real(place)
            check_folder(place)
            lock = PathLock(place, "segments")
            self._open_series.add(real)
        if place != path:
            log.info("another source is writing %s: writing %s", path, place)

        def release() -> None:
            lock.close()
            with self._lock:
                self._open_series.discard(real)

        return Claim(place, release, replaces=False)

    def retention(self, retain: Retention | None) -> SegmentRetention | None:
        """Returns what keeps the run's segments within a limit, all outputs together; None where there is no limit."""
        with self._lock:
            if retain is not None and self._retention is None:
                self._retention = SegmentRetention(retain)
            return self._retention if retain is not None else None

    def claim_report(self, path: Path) -> Claim:
        """Claims the file of the report, which is put in place whole at the end of the run.

        Raises:
            ConfigError: if it is a folder, holds anything but a report, or another run is to write it.
            SinkError: if it can't be written.
        """
        if is_special(path):
            return Claim(path)
        shown = f"the report {str(path)!r}"
        if path.is_dir():
            raise ConfigError(f"{shown} is a folder; choose another name")
        check_folder(behind_link(path), shown)
        if not _may_become_report(path):
            raise ConfigError(f"{shown} exists and is not a report; choose another name, or remove it first")
        with self._lock:
            lock = PathLock(path)
            self._had.append(_real(path))
        return Claim(path, lock.close)

    def _claim(self, path: Path, take: Callable[[Path, bool], PathLock]) -> Claim:
        with self._lock:
            place, number = path, 1
            while self._has_had(place) or (number > 1 and os.path.lexists(place)):
                number += 1
                place = numbered(path, number)
            replaces = number == 1
            lock = take(place, replaces)
            self._had.append(_real(place))
        if not replaces:
            log.info("this run has written %s before: writing %s", path, place)
        return Claim(place, lock.close, replaces=replaces)

    def _has_had(self, path: Path) -> bool:
        return _real(path) in self._had or any(same_file(path, had) for had in self._had)


class PathLock(Closeable):
    """Keeps a path to one run on this machine until it is closed or the process ends, however that ends.

    The lock is a socket's name in Linux's abstract namespace: it takes no file, whatever the folder allows, and nothing
    can be left behind. Elsewhere, and between containers, a file is locked only while it is open.
    """

    def __init__(self, path: Path, kind: str = "file") -> None:
        """Locks a file, be it there or not, or a folder that is there; locks of different kinds don't conflict.

        Raises:
            ConfigError: if another run has it.
        """
        self._socket: socket.socket | None = None
        if sys.platform != "linux":
            return
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.bind(_lock_name(path, kind))
        except OSError as error:
            taken.close()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"can't write {path}: another run is writing it; choose another output") from None
            log.debug("can't lock %s: %s", path, reason(error))
            return
        self._socket = taken

    def close(self) -> None:
        """Releases the path. Safe to call twice."""
        if self._socket is not None:
            self._socket.close()


def _holds_source(path: Path, is_folder: bool, source: SourceInfo) -> bool:
    """Whether writing to `path` could replace what the source reads; pictures keep their names in a folder."""
    if source.path is None:
        pattern = source.pattern
        matches = map(Path, glob.glob(str(pattern), recursive=True) if pattern else ())  # noqa: PTH207 - any depth
        read = (*source.files, *matches)
        return any(same_file(file.parent if is_folder else file, path) for file in read)
    if same_file(path, source.path):
        return True
    if source.path.is_dir():
        return is_taken(path) and path.is_file() and same_file(path.parent, source.path)
    is_picture = source.path.suffix.lower() in PICTURE_SUFFIXES
    return is_folder and is_picture and same_file(path, source.path.parent)


def _is_segment_of(source: SourceInfo, path: Path) -> bool:
    """Whether the source reads a segment of the output at `path`."""
    file = source.path
    return file is not None and bool(segment_names(path).fullmatch(file.name)) and same_file(file.parent, path.parent)


def numbered(path: Path, number: int) -> Path:
    """Returns a path with a number in its name: ``door-2.mp4`` for ``door.mp4``."""
    stem, ending = split_ending(path)
    return path.with_name(f"{stem}-{number}{ending}")


def _take_file(path: Path, replaces: bool) -> PathLock:
    lock = PathLock(path)
    try:
        check_writable(path)
    except BaseException:
        lock.close()
        raise
    return lock


def _take_folder(path: Path, replaces: bool) -> PathLock:
    try:
        behind_link(path).mkdir(exist_ok=replaces)
    except OSError as error:
        missing = f"there is no folder {str(path.parent)!r}" if not path.parent.is_dir() else reason(error)
        raise SinkError(f"can't make the folder {path}: {missing}; choose another output") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise SinkError(f"can't write into {path}: permission denied; choose another output")
    return PathLock(path)


def _may_become_report(path: Path) -> bool:
    """Whether there is nothing yet, an empty file, or a report of an earlier run."""
    try:
        with path.open("rb") as file:
            return re.match(rb'\s*(\{\s*("version":\s*\d+,\s*)?"engine":\s*\{|\Z)', file.read(200)) is not None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _lock_name(path: Path, kind: str) -> bytes:
    """Returns one canonical name for all paths to the same file."""
    real = _real(path)
    folder, name = (real, "") if real.is_dir() else (real.parent, real.name)
    place = folder.stat()
    key = f"{kind}\n{place.st_dev}\n{place.st_ino}\n{name}"
    return b"\0nanodet-streamer-" + hashlib.sha256(os.fsencode(key)).hexdigest().encode()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
