"""Rate limits and real-time playback."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from streamer.common.logs import LogLimit
from streamer.frames.frame import Frame

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 10.0
_SAME_TIME_S = 1e-6


class RateLimiter:
    """Keeps frames to a rate, on average, by their own times."""

    def __init__(self, max_fps: float) -> None:
        """`max_fps` is above 0."""
        self._period_s = 1.0 / max_fps
        self._due_s = float("-inf")

    def allows(self, pts_s: float) -> bool:
        """Whether the frame at `pts_s` is within the rate; to be called for each frame, in order."""
        if pts_s < self._due_s - _SAME_TIME_S:
            return False
        is_late = pts_s - self._due_s > self._period_s  # after a pause, or it is the first
        self._due_s = (pts_s if is_late else self._due_s) + self._period_s
        return True


class Pacer:
    """Delays frames until their own time, counted from the first.

    A gap of more than 10 s between two frames, or a stray time stamp, takes 10 s; later frames follow from there.
    """

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._log_limit = LogLimit()

    def wait(self, frame: Frame, stop: threading.Event) -> Frame:
        """Returns the frame, captured now, once its time has come or `stop` is set."""
        now_s = time.perf_counter()
        if self._began_s is None:
            self._began_s = now_s - frame.pts_s
        early_s = self._began_s + frame.pts_s - now_s
        if early_s > LONGEST_WAIT_S:
            if self._log_limit.is_due():
                log.warning(
                    "source %r: its next frame is %.0f s later, by its time stamp; it is shown after %g s",
                    frame.source,
                    early_s,
                    LONGEST_WAIT_S,
                )
            self._began_s -= early_s - LONGEST_WAIT_S
            early_s = LONGEST_WAIT_S
        stop.wait(max(0.0, early_s))
        return replace(frame, captured_at_s=time.perf_counter())
