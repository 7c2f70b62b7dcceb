"""From detection to the sinks of a stream: drawn once, and offered to each; or written at once where one is enough."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamer.common.clock_zone import ClockZone
from streamer.common.errors import SinkError
from streamer.common.queues import Closed
from streamer.common.stats import StageTimes
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.label_layout import Corner
from streamer.frames.viewport import Viewport
from streamer.runtime.inference_loop import DetectedQueue
from streamer.runtime.overlay import REFRESH_S, Overlay, stamp
from streamer.runtime.sink_worker import FrameDelivery, SinkWorker
from streamer.sinks.base import LiveFigures, Sink
from streamer.sources.base import Source

_BLANK = np.full((720, 1280, 3), 32, np.uint8)


@dataclass(frozen=True)
class _Look:
    """What one sink's frames have beside boxes, and how large: sinks of the same look share them."""

    has_figures: bool
    viewport: Viewport | None


@dataclass(eq=False)
class FanOut:
    """Draws boxes, figures and clock where a sink wants them, and offers each frame to every sink that works.

    Attributes:
        figures: see `StreamSpec.overlay`; may change at any time.
        clock_zone: see `StreamSpec`.
    """

    source: Source
    queue: DetectedQueue
    sinks: Sequence[SinkWorker]
    annotator: Annotator
    overlay: Overlay
    times: StageTimes
    figures: bool | None = None
    clock_zone: ClockZone | None = None
    _corner: Corner = Corner.TOP_LEFT

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
            drawn: dict[SinkWorker, Frame] = {}
            if any(sink.sink.needs_pixels for sink in sinks):
                began_s = time.perf_counter()
                drawn = self._draw(frame, detections, sinks)
                self.times.add("draw", (time.perf_counter() - began_s) * 1e3)
            _offer(FrameDelivery(frame, drawn, detections, len(sinks)), sinks)
        for sink in self.sinks:
            sink.queue.close()

    def _explain(self, last: tuple[Frame, Detections] | None) -> None:
        """Offers the last frame again to live viewers, with the reason why no frame comes."""
        viewers = [sink for sink in self.sinks if sink.sink.live_view and sink.error is None]
        news = self.overlay.news() if viewers and self.figures is not False else None
        if news is None:
            return
        blank = Frame(_BLANK, self.source.info.name, 0, 0.0, time.perf_counter())
        frame, detections = last or (blank, Detections.empty())
        drawn = self._draw(frame, detections, viewers, news)
        _offer(FrameDelivery(frame, drawn, detections, len(viewers), is_new=False), viewers)

    def _draw(
        self, frame: Frame, detections: Detections, sinks: Sequence[SinkWorker], news: str | None = None
    ) -> dict[SinkWorker, Frame]:
        """Returns the frame as each sink wants it; `news` is for those without figures."""
        pictures: dict[_Look, Frame] = {}
        drawn = {}
        for sink in sinks:
            if sink.sink.needs_pixels:
                look = _Look(self._has_figures(sink.sink, frame), sink.sink.viewport)
                if look not in pictures:
                    pictures[look] = self._annotate(frame, detections, look, news)
                drawn[sink] = pictures[look]
        return drawn

    def _has_figures(self, sink: Sink, frame: Frame) -> bool:
        if self.figures is False or sink.live_figures is LiveFigures.NEVER or frame.name is not None:
            return False
        return bool(self.figures) or sink.live_figures is LiveFigures.BY_DEFAULT

    def _annotate(self, frame: Frame, detections: Detections, look: _Look, news: str | None) -> Frame:
        zone = self.clock_zone
        lines: Sequence[str] = () if news is None else (news,)
        if look.has_figures:
            lines = self.overlay.lines(is_lost=self.source.lost_s is not None)
        is_named = look.viewport is not None and min(look.viewport.covered_wh) > 0
        line = None
        if zone is not None and frame.name is None:
            line = stamp(frame, zone, live=self.source.info.live, name=None if is_named else frame.source)
        if lines:  # they stay where they are while no box is there
            taken = {Corner.TOP_LEFT: line is not None, Corner.BOTTOM_LEFT: is_named}
            corners = [corner for corner in (self._corner, *Corner) if not taken.get(corner)]
            self._corner = self.annotator.free_corner(frame, detections, lines, corners, look.viewport)
        return self.annotator.annotate(
            frame, detections, lines, corner=self._corner, stamp=line, viewport=look.viewport
        )


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
                sink.write(FrameDelivery(frame, {}, detections, 1))
            except BaseException as error:
                sink.sink.close_after_error()
                if not isinstance(error, SinkError):
                    raise
                sink.fail(error)
