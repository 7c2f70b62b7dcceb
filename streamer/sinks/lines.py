"""Lines of text written to a file, a device or a named pipe."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from streamer.common.terminal import stdout_descriptor
from streamer.sinks.files import is_special, open_file
from streamer.sinks.paths import Claim

log = logging.getLogger(__name__)

_STDOUT = 1
_ATOMIC_BYTES = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 512
"""What a pipe with room takes without blocking."""
_POLL_S = 0.05
_GRACE_S = 2.0


def open_lines(claim: Claim) -> LineFile | Pipe:
    """Opens what was claimed, truncating files; a pipe waits for its reader in the first `write`.

    Raises:
        OSError: if it can't be opened; FileExistsError if it exists and may not be replaced.
    """
    path = claim.path
    if not is_special(path) and _is_stdout(path):
        descriptor = os.dup(_STDOUT)  # shares the offset, so that other output isn't overwritten
    elif not is_special(path):
        flags = os.O_CREAT if claim.replaces else os.O_CREAT | os.O_EXCL
        descriptor = open_file(path, os.O_WRONLY | flags)
        os.ftruncate(descriptor, 0)
    elif stat.S_ISFIFO(path.stat().st_mode):
        return Pipe(path)
    else:
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
    return LineFile(descriptor)


class _Interruptible:
    """What waits for a reader until `interrupt`, and 2 s longer for one that is there."""

    def __init__(self) -> None:
        self._interrupted = threading.Event()
        self._interrupted_s = 0.0

    def interrupt(self) -> None:
        """Makes a blocked `write` fail: immediately without a reader, after 2 s if one doesn't read."""
        self._interrupted_s = time.monotonic()
        self._interrupted.set()

    def _is_given_up(self) -> bool:
        return self._interrupted.is_set() and time.monotonic() - self._interrupted_s > _GRACE_S


class StandardOutput(_Interruptible):
    """Standard output, which several outputs may share: each line is written whole. `write` waits for its reader."""

    _lock = threading.Lock()

    def __init__(self) -> None:
        """Takes standard output as it is."""
        super().__init__()
        self._descriptor = stdout_descriptor()

    def write(self, text: str) -> None:
        """Writes a line.

        Raises:
            BrokenPipeError: if the reader has closed the pipe.
            OSError: if it can't be written, or `interrupt` was called and its reader doesn't read.
        """
        data = memoryview(text.encode())
        with self._lock:
            while data:
                _wait_for_room(self._descriptor, self._is_given_up)
                data = data[os.write(self._descriptor, data[:_ATOMIC_BYTES]) :]


def _is_stdout(path: Path) -> bool:
    try:
        return path.samefile(f"/dev/fd/{_STDOUT}")
    except OSError:
        return False


class LineFile:
    """A file or a device; a line that can't be written whole is removed from a file."""

    def __init__(self, descriptor: int) -> None:
        """Takes over an open descriptor."""
        self._descriptor: int | None = descriptor
        self._size = os.fstat(descriptor).st_size

    def write(self, text: str) -> None:
        """Writes a line, newline included; raises OSError if it can't."""
        assert self._descriptor is not None, "the file is closed"
        data = memoryview(text.encode())
        size = len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            with contextlib.suppress(OSError):  # devices can't be truncated
                os.ftruncate(self._descriptor, self._size)
                os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += size

    def close(self) -> None:
        """Closes it. Safe to call twice."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


class Pipe(_Interruptible):
    """A named pipe: `write` blocks until a reader comes, and while it reads slowly, until `interrupt`."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet."""
        super().__init__()
        self._path = path
        self._descriptor: int | None = None

    def write(self, text: str) -> None:
        """Writes a line.

        Raises:
            BrokenPipeError: if the reader has closed the pipe.
            OSError: if `interrupt` was called and there is no reader, or it doesn't read.
        """
        if self._descriptor is None:
            self._descriptor = self._connect()
        data = text.encode()
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                _wait_for_room(self._descriptor, self._is_given_up)

    def close(self) -> None:
        """Closes it; the reader gets the rest. Safe to call twice."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _connect(self) -> int:
        has_warned = False
        while True:
            try:
                return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            if not has_warned:
                has_warned = True
                log.info("waiting for a reader of the pipe %s", self._path)
            if self._interrupted.wait(_POLL_S):
                raise OSError(errno.ENXIO, "nothing reads the pipe")


def _wait_for_room(descriptor: int, is_given_up: Callable[[], bool]) -> None:
    """Waits until `_ATOMIC_BYTES` can be written; raises OSError once that is given up."""
    if not hasattr(select, "poll"):  # Windows
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while not poll.poll(_POLL_S * 1000):
        if is_given_up():
            raise OSError(errno.ETIMEDOUT, "its reader has stopped reading")
