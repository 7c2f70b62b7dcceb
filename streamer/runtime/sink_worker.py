"""From a stream to one sink: a queue, and what writes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamer.common.errors import SinkError
from streamer.common.queues import BoundedQueue, Closed
from streamer.common.stats import StageTimes, StreamStats
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.failure_policy import FailurePolicy
from streamer.sinks.base import Sink


@dataclass(eq=False)
class FrameDelivery:
    """One frame with its detections on its way to the sinks of a stream.

    Attributes:
        frame: as captured.
        drawn: with boxes, for each sink that needs pixels.
        waiting: how many sinks have neither written nor dropped it.
        is_new: False for a frame that is shown again with the news that its source is lost.
    """

    frame: Frame
    drawn: Mapping[SinkWorker, Frame]
    detections: Detections
    waiting: int
    is_new: bool = True
    _written: int = 0
    _is_dropped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, *, written: bool) -> bool:
        """Notes that a sink has written it, or failed; True when that was the last, and all that work have it."""
        with self._lock:
            self.waiting -= 1
            self._written += written
            return self.waiting == 0 and self._written > 0 and self.is_new and not self._is_dropped

    def mark_dropped(self) -> bool:
        """Notes that a sink was too slow for it; True for the first such sink."""
        with self._lock:
            self.waiting -= 1
            is_first, self._is_dropped = not self._is_dropped, True
            return is_first and self.is_new


@dataclass(eq=False)
class SinkWorker:
    """Writes frames to one sink, on one thread, until the stream ends or the sink fails.

    Attributes:
        name: the sink's in the report.
        sink: closed at the end.
        queue: frames that wait for it.
        stats: counts frames that reached every sink, or were dropped here.
        times: of the stage ``write NAME``.
        failures: keeps the sink's.
        error: why it failed.
    """

    name: str
    sink: Sink
    queue: BoundedQueue[FrameDelivery]
    stats: StreamStats
    times: StageTimes
    failures: FailurePolicy
    error: SinkError | None = None

    def offer(self, delivery: FrameDelivery) -> None:
        """Queues a frame; under `OverflowPolicy.DROP_OLDEST` the oldest one may be dropped for it."""
        try:
            dropped = self.queue.put(delivery)
        except Closed:  # the sink has failed, or the run is aborted
            self._acknowledge(delivery, written=False)
            return
        if dropped is not None and dropped.mark_dropped():
            self.stats.dropped_late += 1

    def run(self) -> None:
        """Writes the queue's frames until it is closed, and closes the sink; the body of a thread."""
        try:
            with self.sink:
                for delivery in self.queue.items():
                    self.write(delivery)
        except SinkError as error:
            self.fail(error)

    def run_once(self, timeout_s: float, *, may_linger: bool) -> bool:
        """Writes a frame that comes within `timeout_s` and polls the sink, on the main thread; False once it is closed.

        `may_linger` is whether the sink decides when to close after the last frame.

        Raises:
            StopRequested: when the user asked the run to end.
        """
        delivery = None
        try:
            delivery = self.queue.get(timeout_s)
        except Closed:
            if not (may_linger and self.sink.lingers):
                self.close()
                return False
            time.sleep(timeout_s)
        try:
            if delivery is not None:
                self.write(delivery)
            self.sink.poll()
        except SinkError as error:
            self.fail(error)
            self.close()
            return False
        return True

    def write(self, delivery: FrameDelivery) -> None:
        """Writes one frame to the sink; raises SinkError if the sink fails."""
        began_s = time.perf_counter()
        try:
            self.sink.write(delivery.drawn.get(self, delivery.frame), delivery.detections)
        except SinkError:
            self._acknowledge(delivery, written=False)
            raise
        self.times.add(f"write {self.name}", (time.perf_counter() - began_s) * 1e3)
        self._acknowledge(delivery, written=True)

    def close(self) -> None:
        """Closes the sink; an error is kept."""
        try:
            self.sink.close()
        except SinkError as error:
            self.fail(error)

    def fail(self, error: SinkError) -> None:
        """Keeps the sink's first error; it gets no more frames."""
        if self.error is not None:
            return
        self.error = error
        for delivery in self.queue.abort():
            self._acknowledge(delivery, written=False)
        self.failures.sink_failed(self.name, error)

    def _acknowledge(self, delivery: FrameDelivery, *, written: bool) -> None:
        if delivery.acknowledge(written=written):
            self.stats.count_processed(delivery.frame.captured_at_s)
