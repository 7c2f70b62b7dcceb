"""What stands in for a detector in a run that detects nothing: no model is loaded."""

from __future__ import annotations

from streamer.common.errors import EngineError
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame


class NoDetector(Detector):
    """Takes no frame, as no stream of the run has any detected."""

    info = EngineInfo("none", "none", "none", "none", "")
    labels = ()
    depth = 1

    @property
    def in_flight(self) -> int:
        return 0

    def submit(self, frame: Frame) -> None:
        raise EngineError(f"source {frame.source!r} is to be detected in a run that began without: restart it")

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        raise ValueError("no frame is in flight")

    def close(self) -> None:
        pass
