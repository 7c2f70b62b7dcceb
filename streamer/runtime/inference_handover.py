"""Between one stream and the detector: which frames it sees, and whose boxes the others get."""

from __future__ import annotations

from streamer.common.queues import CreditQueue
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.batcher import BatchInput

DetectedQueue = CreditQueue[tuple[Frame, Detections]]


class InferenceHandover:
    """Pairs each frame of a stream with its detections, or with those of the last frame that the detector has seen.

    Attributes:
        input: where frames wait for the detector.
        output: frames and their detections, in order.
        detect_every: the detector sees every Nth frame; may change at any time.
    """

    def __init__(self, frames: BatchInput[Frame], output: DetectedQueue) -> None:
        self.input, self.output, self.detect_every = frames, output, 1
        self._offered = 0
        self._last = Detections.empty()

    def is_next_detected(self) -> bool:
        """Whether the detector sees the next frame in order; without, it gets `reuse`."""
        self._offered += 1
        return (self._offered - 1) % self.detect_every == 0

    def deliver(self, frame: Frame, detections: Detections) -> None:
        """Passes on a frame and what was detected in it.

        Raises:
            Closed: if the run was aborted.
        """
        self._last = detections
        self.output.put((frame, detections))

    def reuse(self, frame: Frame) -> None:
        """Passes on a frame that the detector hasn't seen, with the last detections.

        Raises:
            Closed: if the run was aborted.
        """
        self.output.put((frame, self._last.reused()))
