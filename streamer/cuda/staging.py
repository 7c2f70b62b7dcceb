"""Buffers that are filled by whichever thread has the frame, used by the GPU, and used again."""

from __future__ import annotations

import abc
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from streamer.cuda.gpu import Gpu
from streamer.cuda.input_layout import Layout
from streamer.cuda.memory import DeviceBuffer, DeviceMemory, PinnedBuffer
from streamer.frames.frame import Frame
from streamer.models.letterbox import Letterbox

Buffer = TypeVar("Buffer", bound=DeviceBuffer | PinnedBuffer)
Memory = TypeVar("Memory", bound=DeviceMemory | PinnedBuffer)


class Lender(abc.ABC, Generic[Memory]):
    """What memory comes from and goes back to."""

    @abc.abstractmethod
    def give_back(self, buffer: Memory) -> None:
        """Takes a buffer back; on any thread."""

    @abc.abstractmethod
    def spare(self) -> tuple[Memory, ...]:
        """Returns the buffers that aren't in use now."""


class BufferPool(Lender[Buffer]):
    """Buffers of one kind, at most `limit`, made when first needed and kept. Any thread may use it."""

    def __init__(self, make: Callable[[int], Buffer], limit: int, *, emptied: Callable[[], None] | None = None) -> None:
        """Takes what makes a buffer of so many bytes.

        Args:
            make: makes one.
            limit: how many there may be.
            emptied: called once, when the pool is closed and its last buffer is freed; on any thread.
        """
        self._make: Callable[[int], Buffer] = make
        self._limit = limit
        self._emptied = emptied
        self._made = 0
        self._free: deque[Buffer] = deque()
        self._lock = threading.RLock()  # a buffer may come back while one is taken: finalisers run anywhere
        self._closed = False

    def take(self, nbytes: int, *, leave: int = 0) -> Buffer | None:
        """Returns a buffer of `nbytes` or more, or None when all but `leave` are in use.

        Raises:
            EngineError: if there isn't memory for another.
        """
        with self._lock:
            if len(self._free) + self._limit - self._made <= leave:
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

    def fill(self, nbytes: int, count: int) -> None:
        """Makes `count` buffers ahead, so that the first frames needn't wait for memory.

        Raises:
            EngineError: if there isn't memory for them.
        """
        made = [self.take(nbytes) for _ in range(count)]
        for buffer in made:
            if buffer is not None:
                self.give_back(buffer)

    def give_back(self, buffer: Buffer) -> None:
        """Takes a buffer back; after `close` it is freed."""
        with self._lock:
            self._free.append(buffer)
            if self._closed:
                self._drain()

    def spare(self) -> tuple[Buffer, ...]:
        """Returns the buffers that aren't in use now."""
        with self._lock:
            return tuple(self._free)

    def close(self) -> None:
        """Frees all buffers that aren't in use; the others go when they are given back. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._drain()

    def _drain(self) -> None:
        while self._free:
            self._free.pop().free()
            self._made -= 1
        if not self._made and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied()


class BufferLease(Generic[Memory]):
    """A buffer taken from a pool, given back by `end`, or at the latest with the last reference to this.

    Attributes:
        buffer: the pool's; not to be used after `end`.
    """

    def __init__(self, pool: Lender[Memory], buffer: Memory) -> None:
        self.buffer: Memory = buffer
        self._pool: Lender[Memory] | None = pool

    def spare(self) -> tuple[Memory, ...]:
        """Returns the other buffers of the pool, as far as they aren't in use."""
        return () if self._pool is None else self._pool.spare()

    def end(self) -> None:
        """Gives the buffer back. Safe to call twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give_back(self.buffer)

    def __del__(self) -> None:
        if not sys.is_finalizing():  # the driver takes all of it back then
            self.end()


class Staged(BufferLease[PinnedBuffer]):
    """A frame's pixels in page-locked memory.

    Attributes:
        layout: what lies where in `buffer`.
    """

    def __init__(self, pool: BufferPool[PinnedBuffer], buffer: PinnedBuffer, layout: Layout) -> None:
        super().__init__(pool, buffer)
        self.layout = layout


class StagingPool:
    """Page-locked buffers, at most `limit`. Any thread may use it."""

    def __init__(self, gpu: Gpu, limit: int) -> None:
        self._pool = BufferPool(lambda nbytes: PinnedBuffer(gpu, nbytes), limit)

    def stage(self, frame: Frame, letterbox: Letterbox, *, packable: bool = True, leave: int = 0) -> Staged | None:
        """Copies what is needed of a frame into a buffer; returns None when all buffers but `leave` are in use.

        Args:
            frame: the frame.
            letterbox: its way into the network's input.
            packable: whether to leave out rows that aren't needed.
            leave: buffers to leave for others.

        Raises:
            EngineError: if the system won't lock more memory.
        """
        layout = Layout.of(frame, letterbox, packable=packable)
        buffer = self._pool.take(layout.nbytes, leave=leave)
        if buffer is None:
            return None
        staged = Staged(self._pool, buffer, layout)
        layout.fill(frame, np.asarray(buffer.array))
        return staged

    def close(self) -> None:
        """Frees all buffers that aren't in use; the others go when they are given back. Safe to call twice."""
        self._pool.close()
