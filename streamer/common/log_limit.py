"""Rate-limited log messages."""

from __future__ import annotations

import time
from collections.abc import Callable


class LogLimit:
    """Decides whether a repeated message is due: the first time, then at most once a minute."""

    def __init__(self, every_s: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Sets the least time between two messages, and the clock in seconds."""
        self._every_s, self._clock = every_s, clock
        self._due_s = float("-inf")

    def is_due(self) -> bool:
        """Returns whether to log now; True starts the next interval."""
        now_s = self._clock()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._every_s
        return True
