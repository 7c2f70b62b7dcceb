"""What a stream is made of: its own source and sinks, and what it shares with the others of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from streamer.common.clock_zone import ClockZone
from streamer.common.queues import OverflowPolicy, QueueSelector
from streamer.common.stats import StageTimes
from streamer.frames.detections import Keep
from streamer.frames.draw import Annotator
from streamer.runtime.flow_limits import FlowLimits
from streamer.runtime.run_clock import RunClock
from streamer.sinks.base import Sink
from streamer.sources.base import Pace, Source
from streamer.tracking.tracker import Tracker


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
        detect_every: the detector runs on every Nth frame taken, on none for 0; the others reuse the last boxes.
        gpu: number of the GPU that decodes it, and whose detector it gets; None for the least loaded detector.
        keep: drops detections that aren't to be reported; None reports all that the detector found.
        overlay: whether live figures are drawn: on recordings too, nowhere, or where `Sink.live_figures` says (None).
        clock_zone: draws the time and the source's name onto frames, of files the position; None doesn't.
        tracker: gives its objects ids before `keep`; of this stream only. None doesn't.
        begin_scores: in place of the tracker's own, see `Tracker.set_begin_scores`; None leaves them.
    """

    source: Source
    sinks: Sequence[tuple[str, Sink]]
    policy: OverflowPolicy | None = None
    paced: bool = False
    priority: int = 0
    max_fps: float | None = None
    detect_every: int = 1
    gpu: int | None = None
    keep: Keep | None = None
    overlay: bool | None = None
    clock_zone: ClockZone | None = None
    tracker: Tracker | None = None
    begin_scores: npt.NDArray[np.float32] | None = None

    @property
    def pace(self) -> Pace:
        """What sets the pace of the frames; it changes once a stream that turns out to be a file is reached."""
        return self.source.info.pace(paced=self.paced)

    @property
    def overflow_policy(self) -> OverflowPolicy:
        """The policy in force; it may change with `pace`."""
        return self.pace.overflow_policy(self.policy)


class StreamChanges(TypedDict, total=False):
    """The fields of `StreamSpec` that change while a stream runs; what is left out gets its default."""

    priority: int
    max_fps: float | None
    detect_every: int
    keep: Keep | None
    overlay: bool | None
    begin_scores: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class PipelineContext:
    """What the streams of a run share.

    Attributes:
        limits: of a stream that drops nothing.
        times: of all stages.
        annotator: draws boxes.
        direct_outputs: where the executor waits for what it writes without drawing.
        max_frames: frames to process of each source, then stop.
        clock: when the run ends.
        overlay_head: engine and precision for the overlay.
        overlay: `StreamSpec.overlay` of those that have None.
    """

    limits: FlowLimits
    times: StageTimes
    annotator: Annotator
    direct_outputs: QueueSelector
    max_frames: int | None
    clock: RunClock
    overlay_head: str
    overlay: bool | None
