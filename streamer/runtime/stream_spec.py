"""What a stream is made of: its own source, outputs and wishes, and what it shares with the others of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamer.common.queues import OverflowPolicy, QueueSelector
from streamer.common.stats import StageTimes
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.runtime.batcher import Batcher
from streamer.runtime.sink_executor import SinkExecutor
from streamer.sinks.base import Sink
from streamer.sources.base import Source


@dataclass(frozen=True)
class StreamSpec:
    """One source and what is to become of its frames.

    Attributes:
        source: an open source; the pipeline closes it.
        sinks: open outputs by the name they have in the report; the pipeline closes them.
        policy: what happens to frames that detection has no time for; None is freshest for live sources (and paced
            ones), every-frame for the rest.
        paced: whether frames of a file wait for their own time; a live source's can't.
        priority: where not all streams can be served, those of higher priority are served first.
        max_fps: frames to take of the source in a second, by its own time; None takes all.
        detect_every: the detector sees each so-manieth frame taken; the others are given the last one's boxes.
    """

    source: Source
    sinks: Sequence[tuple[str, Sink]]
    policy: OverflowPolicy | None = None
    paced: bool = False
    priority: int = 0
    max_fps: float | None = None
    detect_every: int = 1

    def chosen_policy(self) -> OverflowPolicy:
        """Returns the policy in force."""
        is_live = self.source.info.live or self.paced
        return self.policy or (OverflowPolicy.DROP_OLDEST if is_live else OverflowPolicy.BLOCK)


@dataclass(frozen=True)
class PipelineContext:
    """What the streams of a run have in common.

    Attributes:
        batcher: takes captured frames to detection.
        captured: where the batcher waits for captured frames.
        times: of all stages.
        annotator: draws boxes.
        prepare: what the detector wants done with a frame by the thread that captured it.
        in_flight: most frames of one stream that the detector holds.
        queued: most captured frames of a stream that wait for detection where none may be dropped.
        max_frames: frames to process of each source, then stop.
        overlay_head: engine and precision for the overlay; None draws no overlay.
        writers: serve streams that have no threads of their own behind detection.
    """

    batcher: Batcher[Frame]
    captured: QueueSelector
    times: StageTimes
    annotator: Annotator
    prepare: Callable[[Frame], None]
    in_flight: int
    queued: int
    max_frames: int | None
    overlay_head: str | None
    writers: SinkExecutor
