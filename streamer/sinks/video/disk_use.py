"""How much disk the recording of a live source needs: measured, logged, and kept for the report."""

from __future__ import annotations

import logging
import math

from streamer.common.units import bytes_text
from streamer.sinks.base import DiskUse

log = logging.getLogger(__name__)

_DAY_S = 86_400.0
_FIRST_S, _SECOND_S = 60.0, 3600.0
_SHORTEST_S = 1.0


class DiskUseMeter:
    """Measures one output of a live source, by the times of its frames; logs after a minute, an hour, and every day.

    Attributes:
        is_live: whether its source is; of any other, nothing is logged or reported.
    """

    def __init__(self, name: str, *, is_live: bool) -> None:
        """Takes what the output is called in the log."""
        self._name, self.is_live = name, is_live
        self._first_s: float | None = None
        self._last_s = 0.0
        self._bytes = 0
        self._due_s = _FIRST_S

    def add(self, pts_s: float, written_bytes: int) -> None:
        """Takes a written frame's time, and how much there is on the disk by now."""
        self._first_s = pts_s if self._first_s is None else self._first_s
        self._last_s, self._bytes = pts_s, written_bytes
        if self._seconds >= self._due_s:
            self._due_s = _SECOND_S if self._due_s < _SECOND_S else (self._seconds // _DAY_S + 1) * _DAY_S
            self._log()

    def finish(self, written_bytes: int) -> None:
        """Takes the final size, and logs a last time."""
        if self._first_s is not None and math.isfinite(self._due_s):
            self._bytes, self._due_s = written_bytes, math.inf
            self._log()

    @property
    def use(self) -> DiskUse | None:
        """What was measured; None for a source that isn't live, or before it has given a second."""
        if not self.is_live or self._seconds < _SHORTEST_S:
            return None
        return DiskUse(self._bytes, self._bytes / self._seconds * _DAY_S)

    @property
    def _seconds(self) -> float:
        return self._last_s - (self._last_s if self._first_s is None else self._first_s)

    def _log(self) -> None:
        use = self.use
        if use is not None:
            rate = use.written_bytes * 8 / self._seconds / 1e6
            day, written = bytes_text(use.bytes_a_day), bytes_text(use.written_bytes)
            log.info("%s needs %s a day (%s in %.0f s, %.2f Mb/s)", self._name, day, written, self._seconds, rate)
