"""What all sources share: a first frame read on opening, and a close that is safe from any thread."""

from __future__ import annotations

import abc
import dataclasses
import threading
import time
from collections.abc import Iterator

from streamer.frames.frame import Frame
from streamer.sources.base import Source


class PrefetchedSource(Source):
    """A source that opens, and reads its first frame, on construction.

    Iterate on one thread at a time. `close` may be called from any: it waits for the frame being read, and iterating
    then ends. A subclass calls `_begin` at the end of its constructor.
    """

    _first: Frame | None = None
    _closed = False

    def _begin(self) -> None:
        """Reads the first frame; lets the device go when that fails."""
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
        """Lets the device or file go; called more than once."""

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames not yet taken, in order.

        Raises:
            SourceError: when the source breaks off.
        """
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
            # A file's frame is captured when it is asked for; on opening it was only looked at.
            return dataclasses.replace(first, captured_at_s=time.perf_counter())

    def close(self) -> None:
        """Lets the device or file go. Safe to call twice, and from another thread."""
        with self._lock:
            self._closed = True
            self._first = None
            self._release()
