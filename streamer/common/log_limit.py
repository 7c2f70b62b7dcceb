"""Saying something that happens again and again only now and then."""

from __future__ import annotations

import time
from collections.abc import Callable


class LogLimit:
    """Whether it is time to say something: the first time, and then once a minute at most."""

    def __init__(self, every_s: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the shortest time between two occasions, and what tells the time."""
        self._every_s, self._clock = every_s, clock
        self._due_s = float("-inf")

    def is_due(self) -> bool:
        """Whether to say it now; True counts as said."""
        now_s = self._clock()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._every_s
        return True
