"""Names, checks, locks and capture times for outputs that write files."""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import re
import stat
import tempfile
import threading
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from streamer.frames.frame import Frame

log = logging.getLogger(__name__)

_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_MOST_COMPARISONS, _CLOSE_S = 20, 50e-6
_utc_lock = threading.Lock()


def safe_name(name: str) -> str:
    """Returns `name` as part of a file name: letters, digits, ``_``, ``-`` and ``.``, at most 100 bytes.

    Names that Windows reserves for devices get a leading ``_``.
    """
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._")
    name = name.encode()[:100].decode(errors="ignore").rstrip("._") or "source"
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def split_ending(path: Path) -> tuple[str, str]:
    """Returns a file name without and with only what says its form: ``.mp4``, of COCO files ``.coco.json``."""
    coco = "".join(path.suffixes[-2:])
    ending = coco if coco.lower() == ".coco.json" else path.suffix
    return path.name.removesuffix(ending), ending


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are the same file or folder, links followed; missing ones are compared by path."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)  # Path.resolve raises on circular links


def is_special(path: Path) -> bool:
    """Whether `path` is a pipe, a device or a socket, links followed."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_device(path: Path) -> bool:
    """Whether `path` is a device such as ``/dev/null``, links followed; several outputs may share it."""
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def behind_link(path: Path) -> Path:
    """Returns the target of a link, existing or not; other paths unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_folder(path: Path, shown: str | None = None) -> None:
    """Checks that a file can be created at `path`; raises SinkError, which calls it `shown`, if it can't."""
    shown = shown or str(path)
    if not path.parent.is_dir():
        raise SinkError(
            f"can't write {shown}: there is no folder {str(path.parent)!r}; make it first, or choose another"
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise SinkError(f"can't write {shown}: {reason(error)}; choose another") from error


def check_writable(path: Path) -> None:
    """Checks that `path` can be written, links followed, and warns if it will be replaced; changes nothing.

    Raises:
        ConfigError: if another run is writing it.
        SinkError: if it can't be written.
    """
    if path.is_dir():
        raise SinkError(f"can't write {path}: it is a folder; choose another name, or end it with '/' for pictures")
    if not path.exists():
        check_folder(behind_link(path))
        return
    try:
        os.close(open_file(path, os.O_WRONLY))
    except BlockingIOError as error:
        raise ConfigError(f"can't write {path}: {reason(error)}; choose another output") from None
    except OSError as error:
        raise SinkError(f"can't write {path}: {reason(error)}; choose another output") from error
    log.info("replacing %s", path)


def open_file(path: Path, flags: int) -> int:
    """Opens a file with flags of `os.open` and locks it until it is closed; child processes don't inherit it.

    Raises:
        BlockingIOError: if another run has locked the file.
        OSError: if it can't be opened.
    """
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _lock(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    """Locks an open file if its file system supports that; closing the descriptor unlocks it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EWOULDBLOCK, "another run is writing it") from None
    except OSError as error:
        _say_unlocked(path.parent, reason(error))


def is_locked(path: Path) -> bool:
    """Whether another run is writing a file, if its file system supports locks; links aren't followed."""
    try:
        os.close(open_file(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def locked_inodes() -> frozenset[int]:
    """Returns the inodes of files that are being written by this or another run, without touching any; Linux alone.

    Device numbers aren't compared: of overlays and subvolumes the kernel shows others than `stat`.
    """
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return frozenset()
    places = (line.split() for line in lines)
    return frozenset(int(words[5].rpartition(":")[2]) for words in places if len(words) > 5 and words[1] == "FLOCK")


@functools.lru_cache(maxsize=64)  # warn once a folder
def _say_unlocked(folder: Path, why: str) -> None:
    log.warning("files in %s can't be locked (%s): make sure that no other run writes them", folder, why)


def captured_utc(frame: Frame) -> datetime:
    """Returns when the source had the frame; every output gets the same answer, whatever the system's clock does."""
    with _utc_lock:
        return _utc_at(frame.captured_at_s)


@functools.lru_cache(maxsize=4096)  # of the frames that the outputs of all streams may be behind by
def _utc_at(at_s: float) -> datetime:
    """Returns the UTC time at `at_s` (`time.perf_counter`), by the system's clock as it goes now.

    A busy machine may suspend the thread between reading one clock and the other: of several readings the quickest
    counts.
    """
    quickest_s, found = math.inf, datetime.now(UTC)
    for _ in range(_MOST_COMPARISONS):
        before_s = time.perf_counter()
        now = datetime.now(UTC)
        took_s = time.perf_counter() - before_s
        if took_s < quickest_s:
            quickest_s, found = took_s, now - timedelta(seconds=before_s + took_s / 2 - at_s)
        if quickest_s < _CLOSE_S:
            break
    return found


def utc_text(at: datetime) -> str:
    """Returns an aware time as ``2026-11-23T12:33:05.123Z``."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def reason(error: BaseException) -> str:
    """Returns an error's text without errno and file name."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).replace("\n", " ").strip().rstrip(".")
