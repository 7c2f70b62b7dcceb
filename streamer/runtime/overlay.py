"""What is written onto a stream's frames: live figures, a clock, and why no frame comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from streamer.common.clock_zone import ClockZone
from streamer.frames.frame import Frame
from streamer.sinks.files import captured_utc

REFRESH_S = 0.25
_PREEMPTED_S = 2.0  # how long the overlay says so after the last preempted frame


@dataclass(frozen=True)
class StreamStatus:
    """A stream at one moment.

    Attributes:
        lost_s: seconds since a live source was lost; None while it isn't.
        captured, processed, dropped, preempted: frames so far.
        fps: unique frames a second that reached every sink, of the last seconds.
        latency_ms: p50 and p95 from capture to the last sink; None before the first frame.
    """

    lost_s: float | None
    captured: int
    processed: int
    dropped: int
    preempted: int
    fps: float
    latency_ms: tuple[float, ...] | None


class Overlay:
    """Refreshes its lines four times a second, so that they can be read. Used by one thread."""

    def __init__(self, head: str, status: Callable[[], StreamStatus]) -> None:
        """`head` names engine and precision."""
        self._head, self._status = head, status
        self._lines: tuple[str, ...] = ()
        self._refreshed_s, self._was_lost = float("-inf"), False
        self._preempted, self._preempted_at_s = 0, float("-inf")

    def lines(self, *, is_lost: bool) -> tuple[str, ...]:
        """Returns two lines: rate and latency, or what is wrong with the source; drops and engine."""
        now_s = time.perf_counter()
        if now_s - self._refreshed_s < REFRESH_S and is_lost == self._was_lost:
            return self._lines
        self._refreshed_s, self._was_lost = now_s, is_lost
        status = self._status()
        preempted = "  preempted" if self._is_preempted(status.preempted, now_s) else ""
        self._lines = (_figures(status) + preempted, f"{status.dropped} dropped  {self._head}")
        return self._lines

    def news(self) -> str | None:
        """Returns why no frame comes, if a viewer should be told: the source is lost, or preempted."""
        status = self._status()
        if status.lost_s is not None:
            return _figures(status)
        return "preempted" if self._is_preempted(status.preempted, time.perf_counter()) else None

    def has_news(self) -> bool:
        """Whether there is a reason why no frame comes; see `news`."""
        return self.news() is not None

    def _is_preempted(self, preempted: int, now_s: float) -> bool:
        if preempted > self._preempted:
            self._preempted, self._preempted_at_s = preempted, now_s
        return now_s - self._preempted_at_s < _PREEMPTED_S


def stamp(frame: Frame, zone: ClockZone, *, live: bool, name: str | None) -> str:
    """Returns when a frame was captured, of a file its position (``0:01:23.4``), and a name."""
    if live:
        shown = zone.clock(captured_utc(frame))
    else:
        tenths = int(frame.pts_s * 10 + 1e-6)
        minutes, seconds = divmod(tenths // 10, 60)
        shown = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}.{tenths % 10}"
    return shown if name is None else f"{shown}  {name}"


def _figures(status: StreamStatus) -> str:
    if status.lost_s is not None:
        return f"{'reconnecting' if status.captured else 'connecting'} ({status.lost_s:.0f} s)"
    figures = f"{status.fps:.1f} FPS" if status.fps else "waiting" if status.processed else "starting"
    if status.latency_ms is None:
        return figures
    p50, p95 = status.latency_ms
    return f"{figures}  {p50:.0f} / {p95:.0f} ms p50 / p95"
