"""Pools of buffers that one thread fills and the GPU reads."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from streamer.cuda.gpu import Gpu
from streamer.cuda.input_layout import Colours, FrameLayout, colours_of
from streamer.cuda.memory import DeviceBuffer, DeviceMemory, PinnedBuffer
from streamer.frames.frame import Frame
from streamer.models.letterbox import Letterbox

Buffer = TypeVar("Buffer", bound=DeviceBuffer | PinnedBuffer)
Memory = TypeVar("Memory", bound=DeviceMemory | PinnedBuffer)


class BufferPool(Generic[Buffer]):
    """At most `limit` buffers, allocated on demand and reused. Any thread may use it."""

    def __init__(
        self, make: Callable[[int], Buffer], limit: int, *, on_empty: Callable[[], None] | None = None
    ) -> None:
        """Starts without buffers; `make` allocates one of a number of bytes.

        `on_empty` is called once, after `close`, when the last buffer is freed; on any thread.
        """
        self._make: Callable[[int], Buffer] = make
        self._limit = limit
        self._on_empty = on_empty
        self._made = 0
        self._free: deque[Buffer] = deque()
        self._lock = threading.RLock()  # reentrant: a finaliser may release while this thread holds it
        self._closed = False

    def acquire(self, nbytes: int, *, reserve: int = 0) -> Buffer | None:
        """Returns a buffer of at least `nbytes`, or None when all but `reserve` are in use."""
        with self._lock:
            if len(self._free) + self._limit - self._made <= reserve:
                return None
            while self._free:
                buffer = self._free.pop()
                if buffer.nbytes >= nbytes:
                    return buffer
                buffer.free()  # frames have become larger
                self._made -= 1
            if self._closed:
                return None
            made = self._make(nbytes)
            self._made += 1
            return made

    def preallocate(self, nbytes: int, count: int) -> None:
        """Allocates `count` buffers, so that the first frames don't wait for memory."""
        for buffer in [self.acquire(nbytes) for _ in range(count)]:
            if buffer is not None:
                self.release(buffer)

    def release(self, buffer: Buffer) -> None:
        """Takes a buffer back; after `close` it is freed."""
        with self._lock:
            self._free.append(buffer)
            if self._closed:
                self._free_all()

    def idle(self) -> tuple[Buffer, ...]:
        """Returns the buffers that aren't in use."""
        with self._lock:
            return tuple(self._free)

    def close(self) -> None:
        """Frees the buffers that aren't in use, and the others when they are released. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._free_all()

    def _free_all(self) -> None:
        while self._free:
            self._free.pop().free()
            self._made -= 1
        if not self._made and self._on_empty is not None:
            on_empty, self._on_empty = self._on_empty, None
            on_empty()


class BufferLease(Generic[Memory]):
    """A buffer in use, returned by `release` or with the last reference to the lease; not to be used afterwards."""

    def __init__(self, buffer: Memory, give_back: Callable[[Memory], None]) -> None:
        """Takes a buffer, and what returns it, on any thread."""
        self.buffer: Memory = buffer
        self._give_back: Callable[[Memory], None] | None = give_back

    def release(self) -> None:
        """Returns the buffer. Safe to call twice."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self.buffer)

    def __del__(self) -> None:
        if not sys.is_finalizing():  # at exit the driver frees everything
            self.release()


class StagedFrame(BufferLease[PinnedBuffer]):
    """A frame's pixels in page-locked memory, laid out in `buffer` as `layout` says; `colours` are None for BGR."""

    def __init__(self, pool: StagingPool, buffer: PinnedBuffer, layout: FrameLayout, colours: Colours | None) -> None:
        super().__init__(buffer, pool.release)
        self.layout, self.colours = layout, colours


class StagingPool(BufferPool[PinnedBuffer]):
    """At most `limit` page-locked buffers. Any thread may use it."""

    def __init__(self, gpu: Gpu, limit: int) -> None:
        super().__init__(lambda nbytes: PinnedBuffer(gpu, nbytes), limit)

    def stage(
        self, frame: Frame, letterbox: Letterbox, *, packable: bool = True, reserve: int = 0
    ) -> StagedFrame | None:
        """Copies a frame into a buffer, or returns None when all buffers but `reserve` are in use.

        Where `packable`, rows that the letterbox doesn't read are left out.
        """
        layout = FrameLayout.of(frame, letterbox, packable=packable)
        buffer = self.acquire(layout.nbytes, reserve=reserve)
        if buffer is None:
            return None
        staged = StagedFrame(self, buffer, layout, colours_of(frame))
        layout.fill(frame, np.asarray(buffer.array))
        return staged
