"""A file that is read again after each change, by polling `stat`."""

from __future__ import annotations

import logging
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from streamer.common.errors import ConfigError, StreamerError

T = TypeVar("T")

log = logging.getLogger(__name__)

_IS_PIPE = "is a pipe or device now, not a file"

_State = tuple[int, ...]


class WatchedFile(Generic[T]):
    """Debounces a file: `poll` reads it once two polls in a row find the same inode, size and times.

    One thread calls `poll`, which may hang with the file system; another may call `warn_if_it_hangs`.

    Attributes:
        path: the file.
        hangs_s: how long a poll may take without a warning.
    """

    def __init__(self, path: Path, read: Callable[[], T]) -> None:
        """Doesn't touch the file yet.

        `read` reads it; it raises `StreamerError`, caused by an `OSError` where another try may succeed.
        """
        self.path, self.hangs_s, self._read = path, 10.0, read
        self._seen: _State | str | None = None
        self._done: _State | str | None = None
        self._failed = ""
        self._polling_since_s: float | None = None
        self._is_slow = False

    @property
    def is_current(self) -> bool:
        """Whether the file as it was last seen has been read, or refused."""
        return self._done is not None and self._done == self._seen

    def poll(self) -> T | None:
        """Returns what the file holds, or None if it hasn't changed.

        Raises:
            StreamerError: if it is gone, isn't a file, or can't be read; once per cause.
        """
        self._polling_since_s = time.monotonic()
        try:
            return self._poll()
        finally:
            self._polling_since_s = None

    def warn_if_it_hangs(self) -> None:
        """Warns once when a poll hangs."""
        since_s = self._polling_since_s
        is_slow = since_s is not None and time.monotonic() - since_s > self.hangs_s
        if is_slow and not self._is_slow:
            log.warning("%s can't be read for %g s: the run continues unchanged", self.path, self.hangs_s)
        self._is_slow = is_slow

    def _poll(self) -> T | None:
        before, self._seen = self._seen, _state(self.path)
        if self._seen != before or self._seen == self._done:
            return None
        if isinstance(self._seen, str):
            was, self._done = self._done, self._seen
            if was is None and self._seen == _IS_PIPE:
                return None  # a pipe from the start: it has been read, and can't be read again
            raise ConfigError(f"it {self._seen}")
        try:
            found = self._read()
        except StreamerError as error:
            if not isinstance(error.__cause__, OSError):
                self._done = self._seen
            if str(error) == self._failed and self._done != self._seen:
                return None
            self._failed = str(error)
            raise
        if _state(self.path) != self._seen:
            return None  # it is being written
        self._done, self._failed = self._seen, ""
        return found


def _state(path: Path) -> _State | str:
    """Returns a file's identity, size and times, or why it has none."""
    try:
        found = path.stat()
    except OSError as error:
        return "is gone" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror or error}"
    if not stat.S_ISREG(found.st_mode):
        return "is a folder" if stat.S_ISDIR(found.st_mode) else _IS_PIPE
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
