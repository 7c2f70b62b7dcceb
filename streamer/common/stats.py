"""Counting and timing a run without keeping it: every window is bounded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_WINDOW = 4096
_RATE_WINDOW_S = 2.0


class Window:
    """The last values of one quantity, with their mean and percentiles. Safe to use from several threads."""

    def __init__(self, size: int = _WINDOW) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._max = float("-inf")

    def add(self, value: float) -> None:
        """Adds one value; the oldest leaves when the window is full."""
        self._values.append(value)
        if value > self._max:
            self._max = value

    @classmethod
    def merged(cls, windows: Iterable[Window]) -> Window:
        """Returns one window that holds what all of `windows` hold."""
        windows = list(windows)
        whole = cls(sum(window._values.maxlen or 0 for window in windows) or 1)
        for window in windows:
            whole._values.extend(window._values.copy())
            whole._max = max(whole._max, window._max)
        return whole

    def percentiles(self, *wanted: float) -> tuple[float, ...] | None:
        """Returns the wanted percentiles (0 to 100), or None when nothing was added yet."""
        values = self._now()
        return tuple(float(p) for p in np.percentile(values, wanted)) if values.size else None

    def summary(self) -> dict[str, float] | None:
        """Returns ``{"mean", "p50", "p95", "p99", "max"}``, or None when nothing was added yet.

        The maximum is of all values ever added, the rest of those still in the window.
        """
        values = self._now()
        if not values.size:
            return None
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return {
            "mean": float(values.mean()),
            "p50": float(p50),
            "p95": float(p95),
            "p99": float(p99),
            "max": self._max,
        }

    def _now(self) -> npt.NDArray[np.float64]:
        return np.array(self._values.copy(), np.float64)  # copied in one step, while others may add


class Rate:
    """Events a second over the last two seconds. Safe to use from several threads."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()

    def tick(self) -> None:
        """Counts one event now."""
        with self._lock:
            self._times.append(time.perf_counter())

    def per_second(self) -> float:
        """Returns the rate now; 0 before the second event."""
        now = time.perf_counter()
        with self._lock:
            while self._times and now - self._times[0] > _RATE_WINDOW_S:
                self._times.popleft()
            times = len(self._times)
            span = now - self._times[0] if times else 0.0
        return (times - 1) / span if times > 1 and span > 0 else 0.0


class StreamStats:
    """One source's counts. Each counter is written by one thread at a time.

    Attributes:
        captured: frames that the source gave.
        processed: frames that reached every sink.
        dropped_early: frames that were beyond the source's budget.
        dropped_late: frames that were detected, but that a sink had no time for.
    """

    def __init__(self) -> None:
        self.captured = 0
        self.processed = 0
        self.dropped_early = 0
        self.dropped_late = 0
        self._first_captured_s = self._last_captured_s = 0.0
        self.rate = Rate()
        self.latency_ms = Window()

    def count_captured(self, at_s: float) -> None:
        """Counts a frame that the source gave at `at_s` (`time.perf_counter`)."""
        if not self.captured:
            self._first_captured_s = at_s
        self._last_captured_s = at_s
        self.captured += 1

    def fps_of(self, frames: int) -> float:
        """Returns `frames` over the time from the first to the last captured frame; 0 where that is none."""
        span_s = self._last_captured_s - self._first_captured_s
        return (frames - 1) / span_s if frames > 1 and span_s > 0 else 0.0

    def count_processed(self, captured_at_s: float) -> None:
        """Counts a frame that has reached every sink just now."""
        self.processed += 1
        self.rate.tick()
        self.latency_ms.add((time.perf_counter() - captured_at_s) * 1e3)


class StageTimes:
    """How long each stage takes a frame, by the stage's name."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}

    def add(self, stage: str, ms: float) -> None:
        """Adds one frame's time in `stage`, in milliseconds."""
        window = self._windows.get(stage)
        if window is None:
            window = self._windows.setdefault(stage, Window())
        window.add(ms)

    def get(self, stage: str) -> Window | None:
        """Returns the window of `stage`, or None when it never ran."""
        return self._windows.get(stage)

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns ``{stage: {"mean", "p50", "p95", "p99"}}`` in milliseconds."""
        summaries = {stage: window.summary() for stage, window in list(self._windows.items())}
        return {s: {k: v for k, v in found.items() if k != "max"} for s, found in summaries.items() if found}


def latency_summary(windows: list[Window]) -> dict[str, float] | None:
    """Returns percentiles and maximum of several windows together, as the report has them; None without values."""
    summary = Window.merged(windows).summary()
    if summary is None:
        return None
    del summary["mean"]
    return summary
