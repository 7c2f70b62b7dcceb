"""A file that is read again whenever it has changed."""

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

_HANGS_S = 10.0
_IS_PIPE = "is a pipe or device now, not a file"

_State = tuple[int, ...]


class WatchedFile(Generic[T]):
    """Looks at a file when it is told to, and reads it once it has stayed the same from one look to the next.

    One thread calls `look`, which takes as long as the file system does; another may call `warn_if_it_hangs`.
    """

    def __init__(self, path: Path, read: Callable[[], T]) -> None:
        """Has read nothing yet.

        Args:
            path: the file.
            read: reads it; raises `StreamerError`, with an `OSError` as its cause where that may pass.
        """
        self.path, self._read = path, read
        self._seen: _State | str | None = None
        self._done: _State | str | None = None
        self._failed = ""
        self._looking_since_s: float | None = None
        self._is_slow = False

    def look(self) -> T | None:
        """Returns what the file holds, or None where nothing is new.

        Raises:
            StreamerError: if it is gone, is no file, or can't be read; once for each cause.
        """
        self._looking_since_s = time.monotonic()
        try:
            return self._look()
        finally:
            self._looking_since_s = None

    def warn_if_it_hangs(self) -> None:
        """Logs that a look takes long, and that it doesn't any more, once each."""
        since_s = self._looking_since_s
        is_slow = since_s is not None and time.monotonic() - since_s > _HANGS_S
        if is_slow and not self._is_slow:
            log.warning("%s can't be read for %g s: the run goes on as it is", self.path, _HANGS_S)
        self._is_slow = is_slow

    def _look(self) -> T | None:
        before, self._seen = self._seen, _state(self.path)
        if self._seen != before or self._seen == self._done:
            return None
        if isinstance(self._seen, str):
            was, self._done = self._done, self._seen
            if was is None and self._seen == _IS_PIPE:
                return None  # a pipe from the beginning: it was read, and won't be again
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
    """Returns what tells one state of a file from another, or in words why it has none."""
    try:
        found = path.stat()
    except OSError as error:
        return "is gone" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror or error}"
    if not stat.S_ISREG(found.st_mode):
        return "is a folder" if stat.S_ISDIR(found.st_mode) else _IS_PIPE
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
