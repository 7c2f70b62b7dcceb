"""Counters that the run writes and a decoding worker reads, without a message for each."""

from __future__ import annotations

import mmap
import os

import numpy as np

SOURCES = 4096
SLOTS = 65536

MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED_LIVE = 16, 2
"""Frames sent ahead of their acknowledgement: of a file as many as a batch, of a camera few, so that none is stale."""


class SharedCounters:
    """Memory shared by two processes. Only the run writes; aligned values are never torn.

    A memfd has no name that a killed run could leave behind, and needs no tracker process; both are drawbacks of
    `multiprocessing.shared_memory` before Python 3.13.

    Attributes:
        acknowledged: (SOURCES,) uint64, by source number: how many of its frames were acknowledged.
        returned: (SLOTS,) uint32, by surface slot: the last generation that was returned.
    """

    def __init__(self, descriptor: int) -> None:
        """Maps the memory that `create` made, in either process."""
        self._memory = mmap.mmap(descriptor, SOURCES * 8 + SLOTS * 4)
        self.acknowledged = np.frombuffer(self._memory, np.uint64, SOURCES)
        self.returned = np.frombuffer(self._memory, np.uint32, SLOTS, SOURCES * 8)

    @staticmethod
    def create() -> int:
        """Returns the descriptor of new memory, all zero; the caller closes it."""
        descriptor = os.memfd_create("nanodet-streamer")
        os.ftruncate(descriptor, SOURCES * 8 + SLOTS * 4)
        return descriptor
