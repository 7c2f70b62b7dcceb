"""A source that reads its first frame on opening, and can be closed from any thread."""

from __future__ import annotations

import abc
import dataclasses
import threading
import time
from collections.abc import Iterator

from streamer.frames.frame import Frame
from streamer.sources.base import Source


class PrefetchedSource(Source):
    """A source whose constructor opens it and reads its first frame.

    Iterate on one thread at a time. `close` may be called from any: it waits for the frame being read, and iteration
    then ends. A subclass calls `_prefetch` at the end of its constructor.
    """

    _first: Frame | None = None
    _closed = False

    def _prefetch(self) -> None:
        """Reads the first frame; releases the device when that fails."""
        self._lock = threading.Lock()
        try:
            self._first = self._read_first()
        except BaseException:
            self._release()
            raise

    @abc.abstractmethod
    def _read_first(self) -> Frame:
        """Returns the first frame, or raises `SourceError`; sets `info`."""

    @abc.abstractmethod
    def _read(self) -> Frame | None:
        """Returns the next frame, or None at the end; raises `SourceError`."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Releases the device or file; called more than once."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        with self._lock:
            if self._closed:
                return None
            first, self._first = self._first, None
            if first is None:
                return self._read()
            if self.info.live:
                return first
            # A file's frame counts as captured when it is read by iteration.
            return dataclasses.replace(first, captured_at_s=time.perf_counter())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._first = None
            self._release()
