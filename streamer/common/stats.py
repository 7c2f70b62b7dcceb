"""Counters and times of a run, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

_WINDOW = 4096
_RATE_WINDOW_S = 2.0


class Window:
    """The last values of one quantity, and the maximum of all. Thread-safe."""

    def __init__(self, size: int = _WINDOW) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._max = float("-inf")

    def add(self, value: float) -> None:
        """Adds a value, in place of the oldest where the window is full."""
        self._values.append(value)
        if value > self._max:
            self._max = value

    def percentiles(self, *wanted: float, last: int | None = None) -> tuple[float, ...] | None:
        """Returns percentiles (0 to 100) of the last values, or of the `last` of these; None without any."""
        values = self._values.copy()  # in one step, while others may add
        if last is not None:
            values = deque(islice(values, max(0, len(values) - last), None))
        return _percentiles(values, wanted) if values else None

    def summary(self) -> dict[str, float] | None:
        """Returns ``{"mean", "p50", "p95", "p99", "max"}``, or None; only the maximum covers the whole run."""
        return self.summary_of([self])

    @staticmethod
    def summary_of(windows: Iterable[Window]) -> dict[str, float] | None:
        """Returns the `summary` of several windows together."""
        windows = list(windows)
        values = np.array([value for window in windows for value in window._values.copy()], np.float64)
        if not values.size:
            return None
        p50, p95, p99 = _percentiles(values, (50, 95, 99))
        most = max(window._max for window in windows)
        return {"mean": float(values.mean()), "p50": p50, "p95": p95, "p99": p99, "max": most}


def _percentiles(
    values: Sequence[float] | deque[float] | npt.NDArray[np.float64], wanted: Sequence[float]
) -> tuple[float, ...]:
    """Returns percentiles as `numpy.percentile`, whose first call imports `numpy.ma`, 15 ms on a start."""
    ordered = np.sort(np.asarray(values, np.float64))
    places = np.asarray(wanted, np.float64) / 100 * (len(ordered) - 1)
    return tuple(map(float, np.interp(places, np.arange(len(ordered)), ordered)))


class Rate:
    """Events a second over the last two seconds. Thread-safe."""

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
    """One source's counters. Each is written by one thread at a time.

    Attributes:
        captured: frames from the source.
        processed: frames that reached every sink.
        dropped_early: frames beyond the rate limit.
        dropped_late: frames dropped after detection because a sink was too slow.
        rate: of processed frames.
        latency_ms: of processed frames, from capture to the last sink.
    """

    def __init__(self) -> None:
        self.captured = self.processed = self.dropped_early = self.dropped_late = 0
        self.rate, self.latency_ms = Rate(), Window()
        self._first_captured_s = self._last_captured_s = 0.0

    def count_captured(self, at_s: float) -> None:
        """Counts a frame captured at `at_s` (`time.perf_counter`)."""
        if not self.captured:
            self._first_captured_s = at_s
        self._last_captured_s = at_s
        self.captured += 1

    def count_processed(self, captured_at_s: float) -> None:
        """Counts a frame that has reached every sink just now."""
        self.processed += 1
        self.rate.tick()
        self.latency_ms.add((time.perf_counter() - captured_at_s) * 1e3)

    def fps_of(self, frames: int) -> float:
        """Returns `frames` over the time from the first to the last captured frame; 0 where that is none."""
        span_s = self._last_captured_s - self._first_captured_s
        return (frames - 1) / span_s if frames > 1 and span_s > 0 else 0.0


class StageTimes:
    """Time of each stage for a frame, by stage name. Thread-safe."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}

    def add(self, stage: str, ms: float) -> None:
        """Adds one frame's time in `stage`, in milliseconds."""
        window = self._windows.get(stage) or self._windows.setdefault(stage, Window())  # another thread may add it too
        window.add(ms)

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns ``{stage: {"mean", "p50", "p95", "p99"}}`` in milliseconds."""
        summaries = {stage: window.summary() for stage, window in list(self._windows.items())}
        return {s: {k: v for k, v in found.items() if k != "max"} for s, found in summaries.items() if found}
