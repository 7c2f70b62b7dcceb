"""A file's timeline: seconds from its first frame that never run backwards."""

from __future__ import annotations

_LEAP_S = 10.0


class PresentationClock:
    """Turns a file's time stamps, in order of presentation, into `pts_s`.

    The first frame is at 0. A frame without a stamp follows the one before by a frame's length. A single stamp that
    goes back, as damage leaves it, gets the time of the frame before; when the next one goes back too, the file's clock
    was restarted, and the timeline continues.

    Args:
        frame_s: the nominal length of a frame in seconds.
    """

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._zero_s: float | None = None  # the stamp that is 0 on the timeline
        self._last_s: float | None = None
        self._went_back = False

    def leaps(self, stamp_s: float) -> bool:
        """Whether a stamp is so far ahead of the frame before that it may be damage."""
        return self._zero_s is not None and self._last_s is not None and stamp_s - self._zero_s > self._last_s + _LEAP_S

    def at(self, stamp_s: float | None) -> float:
        """Returns the next frame's `pts_s` for its stamp in seconds, None where it has none."""
        floor_s = self._last_s or 0.0
        expected_s = 0.0 if self._last_s is None else self._last_s + self._frame_s
        if stamp_s is None:
            self._last_s = expected_s
            return expected_s
        if self._zero_s is None:
            self._zero_s = stamp_s - expected_s
        goes_back = stamp_s - self._zero_s < floor_s
        if goes_back and self._went_back:
            self._zero_s = stamp_s - expected_s
            goes_back = False
        self._went_back = goes_back
        self._last_s = floor_s if goes_back else stamp_s - self._zero_s
        return self._last_s
