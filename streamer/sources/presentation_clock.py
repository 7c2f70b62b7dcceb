"""A source's time axis: seconds from its first frame that never run backwards."""

from __future__ import annotations

_LEAP_S = 10.0


class PresentationClock:
    """Turns the time stamps of a stream, as they come, into a frame's `pts_s`.

    The first frame is at 0. A missing stamp is one frame after the frame before. A stamp that goes back is held at
    the frame before when it is alone, as damage leaves it; when the next one goes back too, the stream has started
    its clock again, and the axis goes on from where it was.

    Args:
        frame_s: the nominal length of a frame in seconds.
    """

    def __init__(self, frame_s: float) -> None:
        self._frame_s = frame_s
        self._zero_s: float | None = None  # the stream's stamp that is 0 here
        self._last_s: float | None = None
        self._went_back = False

    def leaps(self, stamp_s: float) -> bool:
        """Whether a stamp is so far ahead of the frame before that it may be damage."""
        return self._zero_s is not None and self._last_s is not None and stamp_s - self._zero_s > self._last_s + _LEAP_S

    def at(self, stamp_s: float | None) -> float:
        """Returns the frame's time for the stream's own time stamp in seconds, or None where it has none."""
        if self._last_s is None:
            expected_s, floor_s = 0.0, 0.0
        else:
            expected_s, floor_s = self._last_s + self._frame_s, self._last_s
        if stamp_s is None:
            self._last_s = expected_s
            return expected_s
        if self._zero_s is None:
            self._zero_s = stamp_s - expected_s
        back = stamp_s - self._zero_s < floor_s
        if back and self._went_back:
            self._zero_s = stamp_s - expected_s
            back = False
        self._went_back = back
        self._last_s = floor_s if back else stamp_s - self._zero_s
        return self._last_s
