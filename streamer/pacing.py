"""When frames may go on: within a budget, or at their own time."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from streamer.frame import Frame

_SAME_TIME_S = 1e-6


class Budget:
    """Lets so many frames a second through, by their own times."""

    def __init__(self, max_fps: float) -> None:
        self._period_s = 1.0 / max_fps
        self._due_s = float("-inf")

    def allows(self, pts_s: float) -> bool:
        """Whether the frame at `pts_s` is within the budget; frames come in order of time."""
        if pts_s < self._due_s - _SAME_TIME_S:
            return False
        is_late = pts_s - self._due_s > self._period_s  # after a pause, or it is the first
        self._due_s = (pts_s if is_late else self._due_s) + self._period_s
        return True


class Pacer:
    """Holds frames back until their own time, counted from the first."""

    def __init__(self) -> None:
        self._began_s: float | None = None

    def wait(self, frame: Frame, stop: threading.Event) -> Frame:
        """Returns the frame, captured now, once its time has come or `stop` is set."""
        if self._began_s is None:
            self._began_s = time.perf_counter() - frame.pts_s
        stop.wait(max(0.0, self._began_s + frame.pts_s - time.perf_counter()))
        return replace(frame, captured_at_s=time.perf_counter())
