"""How many frames of a stream may be on their way, and where: decided here, once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamer.common.queues import OverflowPolicy
from streamer.detector.base import Detector

_RECORDER = 8


@dataclass(frozen=True)
class FlowLimits:
    """Most frames of one stream at each place on their way.

    Attributes:
        captured: waiting for detection.
        detector: in the detector.
        live_view: waiting for one sink that shows the newest frame.
        recorder: waiting for one other sink; of a live source several, since encoders and disks pause now and then.
        burst: beyond `captured` for some milliseconds, where the oldest would be dropped: after a pause of the process
            or the network for two frames of 30 a second, none is lost.
    """

    captured: int
    detector: int
    live_view: int
    recorder: int
    burst: int = 2

    @classmethod
    def of_run(cls, detector: Detector, streams: int) -> FlowLimits:
        """Returns the limits of a stream that drops nothing, in a run that begins with `streams` of them."""
        captured = 1 if streams > detector.depth else 2  # one each of many is enough, and stays in the cache
        in_detector = detector.depth if detector.batch == 1 else min(detector.depth, 2 * detector.batch)
        return cls(captured, in_detector, live_view=captured, recorder=captured)

    def of_stream(self, policy: OverflowPolicy, max_unacknowledged: int) -> FlowLimits:
        """Returns the limits of one stream.

        `max_unacknowledged` are frames that the source brings ahead, whose `put` must not wait.
        """
        if policy is OverflowPolicy.DROP_OLDEST:
            return replace(self, captured=1, live_view=1, recorder=_RECORDER)
        captured = max(self.captured, max_unacknowledged)
        return replace(self, captured=captured, live_view=captured, recorder=captured)

    @property
    def in_flight(self) -> int:
        """Most frames from the batcher to the stage behind detection: the detector's, and some that wait there."""
        return self.detector + self.captured
