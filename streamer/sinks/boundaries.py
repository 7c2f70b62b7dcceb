"""Where one segment of an output ends and the next begins."""

from __future__ import annotations

import enum
import math

_SAME_TIME_S = 1e-6  # times that are sums of frame times miss a boundary by less
_OUTAGE_S, _OUTAGE_INTERVALS = 10.0, 10.0


class Boundary(enum.Enum):
    """Why a new segment begins."""

    LENGTH = enum.auto()
    OUTAGE = enum.auto()


class Boundaries:
    """Says before which frames a new segment begins.

    It does at or after each multiple of the length, counted from the output's first frame, and after an outage: when
    frames are more than 10 s apart and ten times as far as the two before.
    """

    def __init__(self, length_s: float, fps: float | None) -> None:
        """Begins with no frame.

        Args:
            length_s: a segment's length in seconds.
            fps: nominal frame rate, or None if it isn't known.
        """
        self._length_s = length_s
        self._interval_s = 1 / fps if fps else math.inf
        self._first_s: float | None = None
        self._last_s = 0.0
        self._number = 0

    def before(self, pts_s: float) -> Boundary | None:
        """Takes the next frame's time; returns why a segment ends before it, None if none does."""
        if self._first_s is None:
            self._first_s = self._last_s = pts_s
        gap_s, usual_s = pts_s - self._last_s, self._interval_s
        if gap_s > 0:
            self._last_s, self._interval_s = pts_s, gap_s
        number = int((pts_s - self._first_s + _SAME_TIME_S) // self._length_s)
        is_due = number > self._number
        self._number = max(number, self._number)
        if gap_s > _OUTAGE_S and usual_s < gap_s / _OUTAGE_INTERVALS:
            return Boundary.OUTAGE
        return Boundary.LENGTH if is_due else None
