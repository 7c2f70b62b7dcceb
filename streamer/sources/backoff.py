"""How long to wait between attempts to reconnect, and how long an attempt may take."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MAX_DOUBLINGS = 16


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with jitter: frames are back within 2 s of a short outage's end, 10 s of a long one's.

    Attributes:
        first_delay_s: before the first attempt; doubled before each further one.
        max_delay_s: longest delay.
        long_outage_s: an outage that lasts longer than this has `max_long_delay_s` in place of `max_delay_s`, so that
            thousands of clients don't overload a server.
        max_long_delay_s: longest delay in a long outage.
        jitter: by how much of itself a delay is shortened at random.
        stable_s: a connection that lasted longer starts the delays from the first again.
        timeout_factor: an attempt may take this many times as long as the last successful one, so that a server that
            hangs doesn't delay the next attempt by the whole `SourceOptions.open_timeout_s`.
        min_timeout_s: but at least this long.
    """

    first_delay_s: float = 0.25
    max_delay_s: float = 1.0
    long_outage_s: float = 60.0
    max_long_delay_s: float = 6.0
    jitter: float = 0.25
    stable_s: float = 10.0
    timeout_factor: float = 3.0
    min_timeout_s: float = 1.5

    def delay_s(self, attempt: int, outage_s: float) -> float:
        """Returns the delay before an attempt, 0 being the first, of an outage that has lasted `outage_s`."""
        longest_s = self.max_long_delay_s if outage_s > self.long_outage_s else self.max_delay_s
        delay_s = min(longest_s, self.first_delay_s * 2.0 ** min(attempt, _MAX_DOUBLINGS))
        return delay_s * random.uniform(1 - self.jitter, 1)

    def open_timeout_s(self, limit_s: float, last_open_s: float | None, timeouts: int) -> float:
        """Returns the time-out of an attempt, `limit_s` at most.

        `last_open_s` is how long the last successful attempt took, None if there was none. Each attempt that timed out
        since then doubles it, as the source may have become slow.
        """
        if last_open_s is None:
            return limit_s
        timeout_s = max(self.min_timeout_s, self.timeout_factor * last_open_s)
        return min(limit_s, timeout_s * 2.0 ** min(timeouts, _MAX_DOUBLINGS))


DEFAULT_BACKOFF = Backoff()
