"""A video on standard input: whatever FFmpeg reads without seeking, such as MPEG-TS, Matroska, MJPEG and Y4M."""

from __future__ import annotations

import io
import logging
import os
import select
import stat
import threading
import time

from streamer.common.errors import SourceError
from streamer.sources.diagnosis import why_stream_unplayable
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.video import VideoSource

log = logging.getLogger(__name__)

_STDIN = 0
_POLL_MS = 100
_SILENT_S = 3.0
_HEAD_BYTES = 4096


class StandardInput:
    """Standard input as a file for FFmpeg. A regular file (``< clip.mp4``) can be sought in, a pipe can't."""

    def __init__(self) -> None:
        """Reads nothing yet.

        Raises:
            SourceError: if it is a terminal.
        """
        if os.isatty(_STDIN):
            raise SourceError("source '-' is a terminal: pipe a video into it, as in ffmpeg -i ... -f mpegts - | ...")
        self._closed = threading.Event()
        self._head = b""
        self._opened_s = time.monotonic()
        self._has_warned = False
        if stat.S_ISREG(os.fstat(_STDIN).st_mode):
            self.seek, self.tell = self._seek, self._tell  # FFmpeg seeks where there are both

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes as soon as there are any; none at the end, and once `close` was called.

        Raises:
            SourceError: if it can't be read.
        """
        try:
            data = os.read(_STDIN, size) if self._wait() else b""
        except OSError as error:
            raise SourceError(f"source '-' can't be read: {error.strerror}") from None
        if len(self._head) < _HEAD_BYTES:
            self._head += data
        return data

    def extend(self, timeout_s: float) -> None:
        """Does nothing: whatever writes to a pipe may pause."""

    def close(self) -> None:
        """Ends a `read` that waits, on any thread. Safe to call twice; the descriptor stays open."""
        self._closed.set()

    def why_unplayable(self) -> str | None:
        """Returns what is wrong with it, as the end of "source '-' ...", or None if unknown."""
        return why_stream_unplayable(self._head)

    def _seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return os.lseek(_STDIN, offset, whence)

    def _tell(self) -> int:
        return os.lseek(_STDIN, 0, io.SEEK_CUR)

    def _wait(self) -> bool:
        """Waits until there is something to read; returns False once it is closed."""
        if not hasattr(select, "poll"):  # Windows
            return not self._closed.is_set()
        poll = select.poll()
        poll.register(_STDIN, select.POLLIN)
        while not self._closed.is_set():
            if poll.poll(_POLL_MS):
                return True
            if not (self._head or self._has_warned) and time.monotonic() - self._opened_s > _SILENT_S:
                self._has_warned = True
                log.info("waiting for a video on standard input")
        return False


class StandardInputSource(VideoSource):
    """Frames of the video on standard input, every one, as of a file: whatever writes it waits."""

    def __init__(self, spec: SourceSpec, options: SourceOptions = DEFAULT_OPTIONS) -> None:
        """Opens it and decodes its first picture.

        Raises:
            SourceError: if it holds no video, or is a terminal.
        """
        self._input = StandardInput()
        try:
            super().__init__(spec, options, body=self._input)
        except SourceError:
            cause = self._input.why_unplayable()
            if cause is None:
                raise
            raise SourceError(f"source '-' {cause}") from None

    def interrupt(self) -> None:
        self._input.close()
