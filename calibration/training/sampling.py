"""Which pictures a step trains on, as a function of the seed and the step alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt


class EpochSampler:
    """Draws pictures without replacement, epoch by epoch, in batches that run on from one epoch into the next.

    Attributes:
        count: pictures in an epoch.
        batch: pictures in a step, which may be more than `count`.
        seed: of the permutations.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        """Raises ValueError unless `count` and `batch` are positive."""
        if min(count, batch) < 1:
            raise ValueError(f"wanted positive numbers, got {count} pictures in batches of {batch}")
        self.count = count
        self.batch = batch
        self.seed = seed
        self._permutation = lru_cache(maxsize=8)(self._drawn_permutation)

    def epoch_of(self, step: int) -> int:
        """Returns the epoch of a step's first picture, from 0."""
        return step * self.batch // self.count

    def first_step_of(self, epoch: int) -> int:
        """Returns the first step that begins in or after an epoch."""
        return -(-epoch * self.count // self.batch)

    @property
    def steps_an_epoch(self) -> int:
        """Returns the steps in which each picture has been seen at least once."""
        return self.first_step_of(1)

    def index_at(self, position: int, replacement: int = 0) -> int:
        """Returns the picture at a position in the endless sequence; step k begins at ``k * batch``.

        Args:
            position: from 0.
            replacement: 0, or 1 ... for the next pictures of the same epoch, which replace unreadable ones.
        """
        epoch, place = divmod(position, self.count)
        return int(self._permutation(epoch)[(place + replacement) % self.count])

    def _drawn_permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(self.count)
