"""Decoded pictures that one process writes on a GPU and another reads there, through CUDA's inter-process handles."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceMemory, Surface
from streamer.cuda.staging import BufferLease, Lender
from streamer.cuda.status import checking

_MANY = 32
_PATIENCE_S, _LOOK_S = 1.0, 0.001


class Handle(NamedTuple):
    """What another process needs to map a piece of device memory.

    Attributes:
        handle: CUDA's, of the allocation that holds it.
        offset: of its first byte in that allocation.
        nbytes: its size.
        gpu_index: number of the GPU.
    """

    handle: bytes
    offset: int
    nbytes: int
    gpu_index: int


def handle_of(surface: Surface) -> Handle:
    """Returns what another process maps a surface with.

    Raises:
        EngineError: if CUDA can't share it.
    """
    import pycuda.driver as drv

    gpu = surface.gpu
    with gpu.active(), checking("share a picture with another process"):
        base, _ = drv.mem_get_address_range(surface.address)
        return Handle(bytes(drv.mem_get_ipc_handle(base)), surface.address - int(base), surface.nbytes, gpu.index)


class ImportedSurface(DeviceMemory):
    """Another process's surface, mapped here. What is borrowed has been written.

    Attributes:
        slot: its number.
        turn: which of the pictures that lay in it is borrowed now.
        last_turn: given back when it is unmapped, so that the other process may free it; 0 where nobody waits for that.
        written: None: nobody has to wait.
    """

    written = None

    def __init__(self, gpu: Gpu, slot: int, handle: Handle) -> None:
        """Maps it.

        Raises:
            EngineError: if CUDA can't.
        """
        import pycuda.driver as drv

        with gpu.active(), checking("map a picture of another process"):
            self._mapped = drv.IPCMemoryHandle(bytearray(handle.handle))
        super().__init__(gpu, int(self._mapped) + handle.offset, handle.nbytes)
        self.slot = slot
        self.turn = self.last_turn = 0
        self.is_lent = False

    def unmap(self) -> None:
        """Ends the mapping; the memory stays the other's."""
        with self.gpu.active(), checking("let go a picture of another process"):
            self._mapped.close()


class IpcImporter(Lender[ImportedSurface]):
    """What is mapped of one other process. One thread adds, drops and borrows; any may give back.

    A surface that is dropped, and all of them once this is closed, are unmapped when nobody uses them any more.
    """

    def __init__(self, returned: npt.NDArray[np.uint32]) -> None:
        """Maps nothing yet.

        Args:
            returned: by slot, the last turn that was given back; read by the other process.
        """
        self._returned = returned
        self._mapped: dict[int, ImportedSurface] = {}
        self._leaving: set[ImportedSurface] = set()
        self._gpus: dict[int, Gpu] = {}
        self._lock = threading.RLock()  # a picture may come back while another is taken: finalisers run anywhere
        self._closed = False

    def add(self, slot: int, handle: Handle) -> None:
        """Maps a surface.

        Raises:
            EngineError: if CUDA can't.
        """
        gpu = self._gpus.get(handle.gpu_index)
        if gpu is None:
            gpu = self._gpus[handle.gpu_index] = Gpu(handle.gpu_index)
        self._mapped[slot] = ImportedSurface(gpu, slot, handle)

    def drop(self, slot: int, turn: int) -> None:
        """Unmaps a surface, now or when it comes back, and gives back its last turn then."""
        with self._lock:
            memory = self._mapped.pop(slot)
            memory.last_turn = turn
            self._let_go(memory)

    def borrow(self, slot: int, turn: int) -> BufferLease[ImportedSurface]:
        """Returns a surface to read; the other process leaves it alone until it comes back."""
        memory = self._mapped[slot]
        memory.turn, memory.is_lent = turn, True
        return BufferLease(self, memory)

    def give_back(self, buffer: ImportedSurface) -> None:
        with self._lock:
            buffer.is_lent = False
            self._returned[buffer.slot] = buffer.turn
            if buffer in self._leaving:
                self._leaving.remove(buffer)
                self._let_go(buffer)

    def spare(self) -> tuple[ImportedSurface, ...]:
        with self._lock:
            return tuple(memory for memory in self._mapped.values() if not memory.is_lent)

    def close(self) -> None:
        """Unmaps what isn't in use. Safe to call twice."""
        with self._lock:
            self._closed = True
            while self._mapped:
                self._let_go(self._mapped.popitem()[1])
            self._end()

    def _let_go(self, memory: ImportedSurface) -> None:
        if memory.is_lent:
            self._leaving.add(memory)
            return
        memory.unmap()
        if memory.last_turn:
            self._returned[memory.slot] = memory.last_turn
        self._end()

    def _end(self) -> None:
        if self._closed and not self._mapped and not self._leaving:
            for gpu in self._gpus.values():
                gpu.close()


class Slots:
    """Numbers for the surfaces that a process lends, used again."""

    def __init__(self, returned: npt.NDArray[np.uint32]) -> None:
        """Takes where the other process says what it has given back, by slot."""
        self.returned = returned
        self._turns = np.zeros(len(returned), np.uint32)
        self._free = list(range(len(returned)))
        self._lock = threading.RLock()  # a number may come back while one is taken: finalisers run anywhere

    def take(self) -> int:
        """Returns a number that isn't in use."""
        with self._lock:
            return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Takes a number back."""
        with self._lock:
            self._free.append(slot)

    def next_turn(self, slot: int) -> int:
        """Returns the number of the picture that is lent next in a slot."""
        self._turns[slot] += 1
        return int(self._turns[slot])

    def is_back(self, slot: int, turn: int) -> bool:
        """Whether that turn was given back."""
        return bool(self.returned[slot] == turn)


class IpcExporter:
    """The surfaces of one source that another process may read. Used by one thread at a time."""

    def __init__(
        self, slots: Slots, on_lent: Callable[[int, Handle], None], on_freed: Callable[[int, int], None]
    ) -> None:
        """Lends nothing yet.

        Args:
            slots: numbers for surfaces.
            on_lent: told of each surface, by its slot, before pictures in it are lent.
            on_freed: told of each that is about to be freed, by its slot and the turn that the other process gives back
                once it has unmapped it; called on any thread.
        """
        self._slots, self._on_lent, self._on_freed = slots, on_lent, on_freed
        self._slot_of: dict[Surface, int] = {}
        self._out: deque[tuple[int, int, object]] = deque()

    @property
    def out(self) -> int:
        """Pictures lent, and not yet known to be given back."""
        return len(self._out)

    def lend(self, surface: Surface, picture: object) -> tuple[int, int]:
        """Lends a picture: it is kept until it is given back.

        Returns:
            Its surface's slot, and the turn.

        Raises:
            EngineError: if CUDA can't share it.
        """
        self.take_back()
        slot = self._slot_of.get(surface)
        if slot is None:
            slot = self.offer(surface)
        turn = self._slots.next_turn(slot)
        self._out.append((slot, turn, picture))
        return slot, turn

    def offer(self, surface: Surface) -> int:
        """Has the other process map a surface, which holds things up for a moment; returns its slot.

        Raises:
            EngineError: if CUDA can't share it.
        """
        handle = handle_of(surface)
        slot = self._slot_of[surface] = self._slots.take()
        surface.on_free = lambda: self._forget(surface)
        self._on_lent(slot, handle)
        return slot

    def take_back(self) -> None:
        """Lets go of the pictures that were given back, nearly always in the order in which they were lent."""
        is_back, out = self._slots.is_back, self._out
        while out and is_back(*out[0][:2]):
            out.popleft()
        if len(out) > _MANY:
            self._out = deque(each for each in out if not is_back(*each[:2]))

    def _forget(self, surface: Surface) -> None:
        """Has the other process unmap a surface, and waits for it: CUDA says that it must before it is freed.

        One that doesn't answer is not waited for, and the slot isn't used again.
        """
        slot = self._slot_of.pop(surface)
        turn = self._slots.next_turn(slot)
        self._on_freed(slot, turn)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self._slots.is_back(slot, turn):
            if time.monotonic() > deadline_s:
                return
            time.sleep(_LOOK_S)
        self._slots.give_back(slot)
