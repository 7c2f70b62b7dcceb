"""A process that lends pictures on a GPU and one that borrows them, both played by this one; see `tests.fake_gpu`."""

from __future__ import annotations

import functools
import gc
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from streamer.cuda import ipc as lending
from streamer.cuda.gpu import Gpu
from streamer.cuda.ipc import ImportedSurface, IpcExporter, IpcImporter, Slots
from streamer.cuda.memory import Surface
from streamer.cuda.staging import BufferLease, BufferPool
from tests.fake_gpu import FakeGpu

SMALL, LARGE = 1024, 2048


def is_all_back(fake: FakeGpu) -> bool:
    """Whether no memory is left, nothing is mapped, and no context is retained."""
    gc.collect()
    return not (fake.memory or fake.mapped.total() or fake.retained)


class Origin:
    """A source in the process that lends."""

    def __init__(self, slots: Slots, say: Callable[..., None], limit: int) -> None:
        gpu = Gpu(0)
        self.pool: BufferPool[Surface] = BufferPool(lambda nbytes: Surface(gpu, nbytes), limit, emptied=gpu.close)
        self.lending = IpcExporter(slots, functools.partial(say, "lent"), functools.partial(say, "freed"))


class Processes:
    """One that lends and one that borrows.

    Attributes:
        line: what the first has said and the other hasn't heard.
        held: pictures that the other has, by number.
        is_deaf: see `deafen`; else it hears at once of what is freed, which waits for that.
    """

    def __init__(self, *, slots: int = 4, limit: int = 3, boards: tuple[Any, Any] | None = None) -> None:
        theirs, ours = boards or (np.zeros(slots, np.uint32),) * 2
        self.slots, self.borrower = Slots(theirs), IpcImporter(ours)
        self.line: deque[tuple[Any, ...]] = deque()
        self.held: dict[int, BufferLease[ImportedSurface]] = {}
        self.limit, self.is_deaf = limit, False
        self.origin = Origin(self.slots, self.say, limit)

    def say(self, *what: Any) -> None:
        assert what[0] != "freed" or what[1] not in self.slots._free, "another may have the slot already"
        self.line.append(what)
        if what[0] == "freed" and not self.is_deaf:
            self.hear_all()

    def deafen(self, patch: pytest.MonkeyPatch) -> None:
        """Has the other hear of nothing that is freed, as one that is gone; it isn't waited for."""
        self.is_deaf = True
        patch.setattr(lending, "_PATIENCE_S", 0.0)

    def decode(self, number: int, nbytes: int = SMALL) -> bool:
        """Writes a picture and lends it; returns False where there is no room."""
        surface = self.origin.pool.take(nbytes)
        if surface is None:
            return False
        surface.write(np.full(surface.nbytes // 8, number, np.uint64))
        self.say("given", *self.origin.lending.lend(surface, BufferLease(self.origin.pool, surface)), number)
        return True

    def decode_again(self, number: int) -> bool:
        """Does the same once it has looked at what was given back."""
        self.origin.lending.take_back()
        return self.decode(number)

    def hear(self) -> None:
        """Has the other process take the next word."""
        kind, slot, *rest = self.line.popleft()
        if kind == "lent":
            self.borrower.add(slot, *rest)
        elif kind == "freed":
            self.borrower.drop(slot, *rest)
        else:
            turn, number = rest
            self.held[number] = self.borrower.borrow(slot, turn)

    def hear_all(self) -> None:
        while self.line:
            self.hear()

    def give_back(self, number: int) -> None:
        self.held.pop(number).end()

    def reopen(self) -> None:
        """Ends the source, which frees what isn't lent, and begins another."""
        self.origin.pool.close()
        self.origin = Origin(self.slots, self.say, self.limit)

    def end(self) -> None:
        """Ends the source, once all was given back, and then the borrower."""
        self.hear_all()
        for number in list(self.held):
            self.give_back(number)
        self.origin.lending.take_back()
        self.origin.pool.close()
        self.hear_all()
        self.borrower.close()


def shown(loan: BufferLease[ImportedSurface]) -> set[int]:
    """Returns the number of the picture that lies in a surface: more than one where it is torn."""
    words = np.zeros(loan.buffer.nbytes // 8, np.uint64)
    loan.buffer.read(words)
    return set(words.tolist())
