"""An output that takes everything and keeps nothing: for measuring."""

from __future__ import annotations

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink


class NullSink(Sink):
    """Drops what it is given."""

    needs_pixels = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
