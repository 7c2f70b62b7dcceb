"""Decoded pictures that one process writes on a GPU and another reads there, through CUDA's inter-process handles."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamer.common.errors import EngineError
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceMemory, Surface
from streamer.cuda.staging import BufferLease
from streamer.cuda.status import checking

log = logging.getLogger(__name__)

_SCAN_ABOVE = 32
_UNMAP_TIMEOUT_S, _POLL_S = 1.0, 0.001


class IpcHandle(NamedTuple):
    """What another process needs to map a surface: CUDA's handle of its allocation, and its place there in bytes."""

    handle: bytes
    offset: int
    nbytes: int
    gpu_index: int


def ipc_handle(surface: Surface) -> IpcHandle:
    """Returns the handle with which another process maps a surface."""
    import pycuda.driver as drv

    gpu = surface.gpu
    with gpu.active(), checking("share a picture with another process"):
        base, _ = drv.mem_get_address_range(surface.address)
        return IpcHandle(bytes(drv.mem_get_ipc_handle(base)), surface.address - int(base), surface.nbytes, gpu.index)


class ImportedSurface(DeviceMemory):
    """Another process's surface, mapped here. Its picture is complete before it is leased.

    Attributes:
        slot: its number.
        generation: number of the picture that it holds now.
        final_generation: reported once the surface is unmapped, so that the exporter can free it; 0 for none.
        is_leased: whether a lease is open.
        ready_event: None, as the picture is complete.
    """

    ready_event = None

    def __init__(self, gpu: Gpu, slot: int, handle: IpcHandle) -> None:
        """Maps the surface."""
        import pycuda.driver as drv

        with gpu.active(), checking("map a picture of another process"):
            self._mapping = drv.IPCMemoryHandle(bytearray(handle.handle))
        super().__init__(gpu, int(self._mapping) + handle.offset, handle.nbytes)
        self.slot = slot
        self.generation = self.final_generation = 0
        self.is_leased = False

    def unmap(self) -> None:
        """Ends the mapping; the memory stays with its owner. On a GPU that has failed there is none to end."""
        try:
            with self.gpu.active(), checking("unmap a picture of another process"):
                self._mapping.close()
        except EngineError as error:
            log.debug("%s", error)


class IpcImporter:
    """The surfaces of one other process that are mapped here.

    One thread maps, unmaps and leases; any thread may release. A surface in use is unmapped when it is released.
    """

    def __init__(self, returned: npt.NDArray[np.uint32]) -> None:
        """Takes the array, shared with the other process, of the last generation that was released in each slot."""
        self._returned = returned
        self._mapped: dict[int, ImportedSurface] = {}
        self._retired: set[ImportedSurface] = set()
        self._gpus: dict[int, Gpu] = {}
        self._lock = threading.RLock()  # reentrant: a finaliser may release while this thread holds it
        self._closed = False

    @property
    def mapped(self) -> int:
        """How many surfaces are mapped."""
        return len(self._mapped) + len(self._retired)

    def map(self, slot: int, handle: IpcHandle) -> None:
        """Maps a surface, unless its GPU has failed here: then nothing in it can be leased."""
        if handle.gpu_index not in self._gpus:
            self._gpus[handle.gpu_index] = Gpu(handle.gpu_index)
        gpu = self._gpus[handle.gpu_index]
        try:
            self._mapped[slot] = ImportedSurface(gpu, slot, handle)
        except EngineError as error:
            try:
                gpu.synchronize()
            except EngineError:
                log.debug("%s", error)
                return
            raise

    def unmap(self, slot: int, generation: int) -> None:
        """Unmaps a surface, now or when it is released, and then reports `generation` as returned."""
        with self._lock:
            surface = self._mapped.pop(slot, None)
            if surface is None:
                self._returned[slot] = generation
                return
            surface.final_generation = generation
            self._unmap_when_free(surface)

    def lease(self, slot: int, generation: int) -> BufferLease[ImportedSurface] | None:
        """Returns a surface to read; the other process doesn't write to it before the lease ends.

        None, and it is released at once, where it couldn't be mapped, as its GPU has failed here.
        """
        surface = self._mapped.get(slot)
        if surface is None:
            self._returned[slot] = generation
            return None
        surface.generation, surface.is_leased = generation, True
        return BufferLease(surface, self._release)

    def _release(self, buffer: ImportedSurface) -> None:
        with self._lock:
            buffer.is_leased = False
            self._returned[buffer.slot] = buffer.generation
            if buffer in self._retired:
                self._retired.remove(buffer)
                self._unmap_when_free(buffer)

    def close(self) -> None:
        """Unmaps what isn't in use, the rest when it is released. Safe to call twice."""
        with self._lock:
            self._closed = True
            while self._mapped:
                self._unmap_when_free(self._mapped.popitem()[1])
            self._close_gpus()

    def _unmap_when_free(self, surface: ImportedSurface) -> None:
        if surface.is_leased:
            self._retired.add(surface)
            return
        surface.unmap()
        if surface.final_generation:
            self._returned[surface.slot] = surface.final_generation
        self._close_gpus()

    def _close_gpus(self) -> None:
        if self._closed and not self.mapped:
            for gpu in self._gpus.values():
                gpu.close()


class SurfaceSlots:
    """Numbers of the surfaces that a process exports, reused, with a generation for each picture in a slot."""

    def __init__(self, returned: npt.NDArray[np.uint32]) -> None:
        """Takes the array in which the importer reports, for each slot, the last generation it has released."""
        self._returned = returned
        self._generations = np.zeros(len(returned), np.uint32)
        self._free = deque(range(len(returned)))  # thread-safe: a finaliser may release a slot anywhere

    @property
    def free(self) -> tuple[int, ...]:
        """Slots that aren't in use."""
        return tuple(self._free)

    def acquire(self) -> int:
        """Returns a slot that isn't in use."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Makes a slot available again."""
        self._free.append(slot)

    def next_generation(self, slot: int) -> int:
        """Returns the number of the slot's next picture."""
        self._generations[slot] += 1
        return int(self._generations[slot])

    def is_returned(self, slot: int, generation: int) -> bool:
        """Returns whether the importer has released that generation."""
        return bool(self._returned[slot] == generation)


class IpcExporter:
    """The surfaces of one source that another process may read. Used by one thread at a time.

    Attributes:
        unmap_timeout_s: how long to wait for the importer to unmap a surface.
    """

    def __init__(
        self,
        slots: SurfaceSlots,
        on_exported: Callable[[int, IpcHandle], None],
        on_retired: Callable[[int, int], None],
    ) -> None:
        """Exports nothing yet.

        `on_exported` is called with a surface's slot and handle before its first picture is exported, `on_retired`
        before it is freed, on any thread, with its slot and the generation that the importer reports after unmapping.
        """
        self._slots, self._on_exported, self._on_retired = slots, on_exported, on_retired
        self.unmap_timeout_s = _UNMAP_TIMEOUT_S
        self._slot_of: dict[Surface, int] = {}
        self._in_flight: deque[tuple[int, int, object]] = deque()

    @property
    def in_flight(self) -> int:
        """Pictures exported and not yet known to be released."""
        return len(self._in_flight)

    def export(self, surface: Surface, picture: object) -> tuple[int, int]:
        """Exports a picture and keeps it until the importer releases it.

        Returns:
            The surface's slot, and the generation.
        """
        self.reclaim()
        slot = self._slot_of.get(surface)
        if slot is None:
            slot = self.announce(surface)
        generation = self._slots.next_generation(slot)
        self._in_flight.append((slot, generation, picture))
        return slot, generation

    def announce(self, surface: Surface) -> int:
        """Makes the importer map a surface, which stalls it for a moment; returns the slot."""
        handle = ipc_handle(surface)
        slot = self._slot_of[surface] = self._slots.acquire()
        surface.on_free = lambda: self._retire(surface)
        self._on_exported(slot, handle)
        return slot

    def reclaim(self) -> None:
        """Drops the pictures that the importer has released, mostly in the order of export."""
        is_returned, in_flight = self._slots.is_returned, self._in_flight
        while in_flight and is_returned(*in_flight[0][:2]):
            in_flight.popleft()
        if len(in_flight) > _SCAN_ABOVE:
            self._in_flight = deque(each for each in in_flight if not is_returned(*each[:2]))

    def _retire(self, surface: Surface) -> None:
        """Waits until the importer has unmapped a surface, as CUDA requires before it is freed.

        After the time-out the slot stays unused.
        """
        slot = self._slot_of.pop(surface)
        generation = self._slots.next_generation(slot)
        self._on_retired(slot, generation)
        deadline_s = time.monotonic() + self.unmap_timeout_s
        while not self._slots.is_returned(slot, generation):
            if time.monotonic() > deadline_s:
                return
            time.sleep(_POLL_S)
        self._slots.release(slot)
