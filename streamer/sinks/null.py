"""An output that discards everything, for benchmarks."""

from __future__ import annotations

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink


class NullSink(Sink):
    """Discards frames and detections."""

    needs_pixels = False

    def write(self, frame: Frame, detections: Detections) -> None: ...

    def close(self) -> None: ...
