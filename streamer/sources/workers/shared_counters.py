"""Counters that one process writes and another reads, without a call between them."""

from __future__ import annotations

import mmap
import os

import numpy as np

SOURCES = 4096
SLOTS = 65536

AHEAD, AHEAD_LIVE = 16, 2
"""Frames that may be decoded, and not yet taken by the run: of a file as many as a batch, of a camera no old ones."""


class SharedCounters:
    """Memory that two processes share. Each counter is written by the parent only, and one value is never torn.

    Attributes:
        taken: (SOURCES,) uint64, by the source's number, how many of its frames were taken.
        returned: (SLOTS,) uint32, by the slot of a surface, the last turn that was given back.
    """

    def __init__(self, descriptor: int) -> None:
        """Maps what `new` made, in whichever process."""
        self._memory = mmap.mmap(descriptor, SOURCES * 8 + SLOTS * 4)
        self.taken = np.frombuffer(self._memory, np.uint64, SOURCES)
        self.returned = np.frombuffer(self._memory, np.uint32, SLOTS, SOURCES * 8)

    @staticmethod
    def new() -> int:
        """Returns the descriptor of new memory, all zero; the caller closes it."""
        descriptor = os.memfd_create("nanodet-streamer")
        os.ftruncate(descriptor, SOURCES * 8 + SLOTS * 4)
        return descriptor
