"""How far the timelines of two streams of one camera are apart."""

from __future__ import annotations

import math

_WINDOW_S = 15.0
_SLEW, _JUMP_S, _LEAST_STEP_S = 0.05, 1.0, 1e-3


class ArrivalLead:
    """How far a stream's times are ahead of `time.perf_counter`, by the picture that was delayed the least.

    A picture arrives late, never early, so the largest lead of the last 15 to 30 s is the best. What a server sends at
    once on joining, from its last key frame on, is late as well, apart from its end.
    """

    def __init__(self) -> None:
        self._began_s = -math.inf
        self._best_s = self._before_s = -math.inf

    def add(self, time_s: float, arrived_s: float) -> None:
        """Takes a picture's time on the stream, and when it arrived by `time.perf_counter`."""
        if arrived_s - self._began_s > _WINDOW_S:
            self._before_s, self._best_s, self._began_s = self._best_s, -math.inf, arrived_s
        self._best_s = max(self._best_s, time_s - arrived_s)

    def restart(self) -> None:
        """Forgets what it has: the stream has another timeline from now on."""
        self._best_s = self._before_s = self._began_s = -math.inf

    @property
    def lead_s(self) -> float | None:
        """Seconds, None before the first picture."""
        best_s = max(self._best_s, self._before_s)
        return best_s if math.isfinite(best_s) else None


class PairedClock:
    """Says what turns times of one stream into those of another, without steps back.

    A new estimate is approached by at most 5 % of the time that passes. One that is more than a second off, and the
    first of a connection, is taken at once.
    """

    def __init__(self) -> None:
        self._shift_s: float | None = None
        self._last_s = self._last_paired_s = -math.inf

    def at(self, decode_time_s: float, estimate_s: float) -> float:
        """Returns what is to be added to a packet's times.

        Args:
            decode_time_s: of the packet, on its own timeline; rises from packet to packet.
            estimate_s: what should be added, as far as is known now.
        """
        shift_s = self._shift_s
        if shift_s is None or abs(estimate_s - shift_s) > _JUMP_S:
            shift_s = estimate_s
        else:
            most_s = _SLEW * max(0.0, decode_time_s - self._last_s)
            shift_s += max(-most_s, min(most_s, estimate_s - shift_s))
        if decode_time_s + shift_s <= self._last_paired_s:
            shift_s = self._last_paired_s + _LEAST_STEP_S - decode_time_s
        self._shift_s, self._last_s, self._last_paired_s = shift_s, decode_time_s, decode_time_s + shift_s
        return shift_s

    def restart(self) -> None:
        """Takes the next estimate at once: a new connection may be delayed otherwise."""
        self._shift_s = None
