"""The live figures of one stream, as drawn onto its frames."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.runtime.stream import Stream

REFRESH_S = 0.25
_GIVES_WAY_S = 2.0  # how long it is said after the last frame that gave way


class Overlay:
    """Works the figures out a few times a second, so that they can be read. Used by one thread."""

    def __init__(self, stream: Stream, head: str | None) -> None:
        """Says nothing where there is no `head`: the engine and its precision."""
        self._stream, self._head = stream, head
        self._lines: tuple[str, ...] = ()
        self._made_s, self._was_lost = float("-inf"), False
        self._gave_way, self._gave_way_s = 0, float("-inf")

    def lines(self) -> tuple[str, ...]:
        """Returns two lines: rate and latency, or what is wrong with the source; drops and engine."""
        now_s, is_lost = time.perf_counter(), self._stream.source.lost_s is not None
        if self._head is None or (now_s - self._made_s < REFRESH_S and is_lost == self._was_lost):
            return self._lines
        self._made_s, self._was_lost = now_s, is_lost
        gives_way = "  gives way to others" if self._gives_way(now_s) else ""
        self._lines = (self._figures() + gives_way, f"{self._stream.dropped} dropped  {self._head}")
        return self._lines

    def has_news(self) -> bool:
        """Whether something is to be said though no frame comes: the source is lost, or gets no turn at all."""
        if self._head is None:
            return False
        return self._stream.source.lost_s is not None or self._gives_way(time.perf_counter())

    def _figures(self) -> str:
        stats, lost_s = self._stream.stats, self._stream.source.lost_s
        if lost_s is not None:
            return f"{'reconnecting' if stats.captured else 'connecting'} ({lost_s:.0f} s)"
        rate = stats.rate.per_second()
        latency = stats.latency_ms.percentiles(50, 95)
        figures = f"{rate:.1f} FPS" if rate else "waiting" if stats.processed else "starting"
        return figures + (f"  {latency[0]:.0f} / {latency[1]:.0f} ms p50 / p95" if latency else "")

    def _gives_way(self, now_s: float) -> bool:
        gave_way = self._stream.gave_way
        if gave_way > self._gave_way:
            self._gave_way, self._gave_way_s = gave_way, now_s
        return now_s - self._gave_way_s < _GIVES_WAY_S
