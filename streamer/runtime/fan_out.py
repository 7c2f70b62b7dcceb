"""From detection to the sinks of a stream: drawn once, and offered to each; or written at once where one is enough."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamer.common.errors import SinkError
from streamer.common.queues import Closed
from streamer.common.stats import StageTimes
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.runtime.inference_loop import DetectedQueue
from streamer.runtime.overlay import REFRESH_S, Overlay
from streamer.runtime.sink_worker import FrameDelivery, SinkWorker
from streamer.sources.base import Source

_BLANK = np.full((720, 1280, 3), 32, np.uint8)


@dataclass(eq=False)
class FanOut:
    """Draws boxes and overlay where a sink needs them, and offers each frame to every sink that works."""

    source: Source
    queue: DetectedQueue
    sinks: Sequence[SinkWorker]
    annotator: Annotator
    overlay: Overlay
    times: StageTimes

    def run(self) -> None:
        """Serves the sinks until the stream ends, and closes their queues; the body of a thread."""
        last: tuple[Frame, Detections] | None = None
        while True:
            try:
                detected = self.queue.get(REFRESH_S)
            except Closed:
                break
            if detected is None:
                self._explain(last)
                continue
            last = frame, detections = detected
            sinks = [sink for sink in self.sinks if sink.error is None]
            drawn = frame
            if any(sink.sink.needs_pixels for sink in sinks):
                began_s = time.perf_counter()
                drawn = self._draw(frame, detections)
                self.times.add("draw", (time.perf_counter() - began_s) * 1e3)
            _offer(FrameDelivery(frame, drawn, detections, len(sinks)), sinks)
        for sink in self.sinks:
            sink.queue.close()

    def _explain(self, last: tuple[Frame, Detections] | None) -> None:
        """Offers the last frame again to live viewers, with the reason why no frame comes."""
        viewers = [sink for sink in self.sinks if sink.sink.live_view and sink.error is None]
        if not viewers or not self.overlay.has_news():
            return
        blank = Frame(_BLANK, self.source.info.name, 0, 0.0, time.perf_counter())
        frame, detections = last or (blank, Detections.empty())
        drawn = self._draw(frame, detections)
        _offer(FrameDelivery(frame, drawn, detections, len(viewers), is_new=False), viewers)

    def _draw(self, frame: Frame, detections: Detections) -> Frame:
        lines = self.overlay.lines(is_lost=self.source.lost_s is not None)
        return self.annotator.annotate(frame, detections, lines)


def _offer(delivery: FrameDelivery, sinks: Sequence[SinkWorker]) -> None:
    for sink in sinks:
        sink.offer(delivery)


@dataclass(eq=False)
class DirectOutput:
    """Writes a stream's frames to its only sink, which needs nothing drawn; `SinkExecutor` calls it."""

    name: str
    queue: DetectedQueue
    sink: SinkWorker

    def run_pending(self) -> bool:
        """Writes what is queued, without waiting for more; returns True once the stream has ended."""
        sink = self.sink
        while True:
            try:
                detected = self.queue.get(timeout_s=0)
            except Closed:
                if sink.error is None:
                    sink.close()
                return True
            if detected is None:
                return False
            if sink.error is not None:
                continue
            frame, detections = detected
            try:
                sink.write(FrameDelivery(frame, frame, detections, 1))
            except BaseException as error:
                sink.sink.close_after_error()
                if not isinstance(error, SinkError):
                    raise
                sink.fail(error)
