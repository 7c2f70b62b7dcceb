"""What a stream is made of: its own source and sinks, and what it shares with the others of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.common.queues import OverflowPolicy, QueueSelector
from streamer.common.stats import StageTimes
from streamer.frames.draw import Annotator
from streamer.runtime.flow_limits import FlowLimits
from streamer.sinks.base import Sink
from streamer.sources.base import Pace, Source


@dataclass(frozen=True)
class StreamSpec:
    """One source, its sinks, and how much of it is detected.

    Attributes:
        source: an open source; the pipeline closes it.
        sinks: open sinks by the name they have in the report; the pipeline closes them.
        policy: what happens to frames that detection has no time for; None is `Pace.overflow_policy`.
        paced: whether frames of a file are captured at their own time; a live source's always are.
        priority: where not all streams can be served, higher ones go first.
        max_fps: frames a second to take of the source, by their own time; None takes all.
        detect_every: the detector runs on every Nth frame taken; the others reuse the last boxes.
        gpu: number of the GPU that decodes it, and whose detector it gets; None for the least loaded detector.
    """

    source: Source
    sinks: Sequence[tuple[str, Sink]]
    policy: OverflowPolicy | None = None
    paced: bool = False
    priority: int = 0
    max_fps: float | None = None
    detect_every: int = 1
    gpu: int | None = None

    @property
    def pace(self) -> Pace:
        """What sets the pace of the frames; it changes once a stream that turns out to be a file is reached."""
        return self.source.info.pace(paced=self.paced)

    @property
    def overflow_policy(self) -> OverflowPolicy:
        """The policy in force; it may change with `pace`."""
        return self.pace.overflow_policy(self.policy)


@dataclass(frozen=True)
class PipelineContext:
    """What the streams of a run share.

    Attributes:
        limits: of a stream that drops nothing.
        times: of all stages.
        annotator: draws boxes.
        direct_outputs: where the executor waits for what it writes without drawing.
        max_frames: frames to process of each source, then stop.
        overlay_head: engine and precision for the overlay; None draws no overlay.
    """

    limits: FlowLimits
    times: StageTimes
    annotator: Annotator
    direct_outputs: QueueSelector
    max_frames: int | None
    overlay_head: str | None
