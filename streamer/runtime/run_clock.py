"""When a run of a given length ends: counted from its first frame, not from when it was started."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_GRACE_S = 5.0
_SAME_TIME_S = 1e-6  # rounding error of summed frame times


class RunClock:
    """Measures a run's length. Real-time sources end by the times of their frames, which recordings have too.

    Such a source gets up to 5 s more to bring the frames that are due: a playlist has them in bursts. Any other ends by
    the clock. While no source has given a frame, the run counts from its start.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Takes the clock of `Frame.captured_at_s`; the run has no limit until `start`."""
        self._clock = clock
        self._duration_s: float | None = None
        self._began_s = clock()
        self._first_s: float | None = None
        self._lock = threading.Lock()

    def start(self, duration_s: float | None) -> None:
        """Begins a run of that many seconds, None for no limit; counts from now until the first frame comes."""
        self._duration_s, self._began_s = duration_s, self._clock()

    def end_pts_s(self, pts_s: float, captured_at_s: float) -> float | None:
        """Returns the `pts_s` at which a real-time source ends, None for never.

        `pts_s` and `captured_at_s` are those of its first frame; the first call of all sources begins the run.
        """
        with self._lock:
            first_s = self._first_s = captured_at_s if self._first_s is None else self._first_s
        if self._duration_s is None:
            return None
        return pts_s + self._duration_s - max(0.0, captured_at_s - first_s) - _SAME_TIME_S

    def is_over(self, *, has_more: bool) -> bool:
        """Whether the run's length has passed; `has_more` is whether a real-time source still brings due frames."""
        if self._duration_s is None:
            return False
        began_s = self._began_s if self._first_s is None else self._first_s
        return self._clock() - began_s >= self._duration_s + (_GRACE_S if has_more else 0.0)
