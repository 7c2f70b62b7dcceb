"""One source's way onto the page."""

from __future__ import annotations

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.web.live_stream import LiveStream


class PageSink(Sink):
    """Keeps the newest frame and its detections for the page; what is drawn is drawn when somebody asks for it."""

    needs_pixels = False

    def __init__(self, stream: LiveStream) -> None:
        self._stream = stream

    def write(self, frame: Frame, detections: Detections) -> None:
        self._stream.publish(frame, detections)

    def close(self) -> None:
        self._stream.end()
