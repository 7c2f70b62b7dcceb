"""The way of a frame to all sinks of its stream."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from streamer.common.errors import SinkError
from streamer.common.queues import BoundedQueue
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink


@dataclass(eq=False)
class FrameDelivery:
    """One frame with its detections on its way to all sinks of a stream.

    Attributes:
        waiting: how many sinks don't have it yet.
        is_new: False for a frame that is shown again, with the word that its source is lost.
    """

    frame: Frame
    drawn: Frame
    detections: Detections
    waiting: int
    is_new: bool = True
    _reached: int = 0
    _is_late: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, *, reached: bool) -> bool:
        """Says that one more sink has it, or failed; returns True when every sink that works has it now."""
        with self._lock:
            self.waiting -= 1
            self._reached += reached
            return self.waiting == 0 and self._reached > 0 and self.is_new and not self._is_late

    def mark_dropped(self) -> bool:
        """Says that a sink had no time for it; returns True for the first that hadn't."""
        with self._lock:
            self.waiting -= 1
            first, self._is_late = not self._is_late, True
            return first and self.is_new


@dataclass(eq=False)
class SinkWorker:
    """A sink, its name in the report, the hand-over that feeds it, and why it failed."""

    name: str
    sink: Sink
    inbox: BoundedQueue[FrameDelivery]
    error: SinkError | None = None
