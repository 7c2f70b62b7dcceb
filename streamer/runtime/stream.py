"""One source's way through the pipeline: the stages, in the order in which a frame passes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamer.common.queues import BoundedQueue, InFlightLimit, OverflowPolicy
from streamer.common.stats import StreamStats
from streamer.frames.detections import Keep
from streamer.frames.frame import Frame
from streamer.runtime.batcher import BatchInput
from streamer.runtime.capture_pump import CapturePump
from streamer.runtime.failure_policy import FailurePolicy
from streamer.runtime.fan_out import DirectOutput, FanOut
from streamer.runtime.inference_loop import DetectedQueue, InferenceHandover
from streamer.runtime.lanes import Lane
from streamer.runtime.overlay import Overlay, StreamStatus
from streamer.runtime.report import SourceReport, StreamRecord
from streamer.runtime.sink_worker import FrameDelivery, SinkWorker
from streamer.runtime.stream_spec import PipelineContext, StreamSpec
from streamer.sources.base import PushSource
from streamer.sources.pacing import RateLimiter


class Stream:
    """Capture pump, batcher's input, inference hand-over, fan-out and sink workers of one source.

    Attributes:
        name: the source's.
        source, stats, failures: the source, its counters, and what of it failed.
        capture: puts frames into the batcher's input.
        inference: what the inference loop takes frames from and gives detections to.
        direct: writes the only sink, where nothing is drawn; None where `fan_out` serves the sinks.
        fan_out: draws, and offers each frame to the sinks.
        sinks: one worker each.
        lane: the detector that it has now.
        is_removed: whether it was asked to end before its source did.
    """

    def __init__(self, spec: StreamSpec, context: PipelineContext, lane: Lane) -> None:
        """Connects the stages; `lane` detects."""
        policy = spec.overflow_policy
        ahead = spec.source.max_unacknowledged if isinstance(spec.source, PushSource) else 0
        limits = context.limits.of_stream(policy, ahead)
        # A slow sink of a live source drops frames of its own rather than stalling the others. An exact number of
        # frames can't be promised that way, so a run with one blocks.
        sink_policy = OverflowPolicy.BLOCK if context.max_frames else policy
        self.spec, self.source, self.name = spec, spec.source, spec.source.info.name
        self.stats = StreamStats()
        self.failures = FailurePolicy(self.name, len(spec.sinks), self.stop)
        self.is_removed = False
        self.sinks = []
        for name, sink in spec.sinks:
            queue = BoundedQueue[FrameDelivery](limits.live_view if sink.live_view else limits.recorder, sink_policy)
            self.sinks.append(SinkWorker(name, sink, queue, self.stats, context.times, self.failures))
        in_flight = InFlightLimit(limits.in_flight, lane.batcher.selector)
        captured = BoundedQueue[Frame](limits.captured, policy, lane.batcher.selector, burst=limits.burst)
        is_direct = len(spec.sinks) == 1 and not (spec.sinks[0][1].needs_pixels or spec.sinks[0][1].main_thread)
        detected = DetectedQueue(in_flight, context.direct_outputs if is_direct else None)
        batch_input = BatchInput(captured, in_flight)
        sink_queues = [worker.queue for worker in self.sinks]
        self.capture = CapturePump(spec, batch_input, context, self.stats, self.failures, sink_queues, lane.prepare)
        self.lane, self._gpu = lane, spec.gpu
        lane.streams[self] = None
        self.inference = InferenceHandover(batch_input, detected, spec.tracker)
        self.direct = DirectOutput(self.name, detected, self.sinks[0]) if is_direct else None
        self._overlay_by_default = context.overlay
        overlay = Overlay(context.overlay_head, self.status)
        self.fan_out = FanOut(
            self.source, detected, self.sinks, context.annotator, overlay, context.times, clock_zone=spec.clock_zone
        )
        self.change(spec.priority, spec.max_fps, spec.detect_every, spec.keep, spec.overlay, spec.begin_scores)

    @property
    def policy(self) -> OverflowPolicy:
        """What happens to frames that detection has no time for."""
        return self.inference.input.queue.policy

    @property
    def has_more(self) -> bool:
        """Whether a real-time source, which works, is still to bring frames of the run's length."""
        capture, source = self.capture, self.source
        is_ended = capture.has_reached_end or self.inference.input.queue.is_closed
        return self.spec.pace.is_realtime and self.stats.captured > 0 and not is_ended and source.lost_s is None

    @property
    def dropped(self) -> int:
        """Frames that didn't reach every sink: skipped, over the rate limit, not detected, or too late for a sink."""
        stats, frames = self.stats, self.inference.input
        before = self.source.dropped + stats.dropped_early + frames.queue.dropped + frames.lost
        return before + stats.dropped_late

    def change(
        self,
        priority: int = 0,
        max_fps: float | None = None,
        detect_every: int = 1,
        keep: Keep | None = None,
        overlay: bool | None = None,
        begin_scores: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Changes these fields of the `StreamSpec`, from any thread and at any time."""
        self.inference.input.priority = priority
        if self.spec.tracker is not None and begin_scores is not None:
            self.spec.tracker.set_begin_scores(begin_scores)
        self.inference.detect_every, self.inference.keep = detect_every, keep
        self.fan_out.figures = self._overlay_by_default if overlay is None else overlay
        self.capture.rate_limiter = RateLimiter(max_fps) if max_fps is not None else None

    def move_to(self, lane: Lane) -> None:
        """Has another lane prepare its frames, and its GPU decode them, as the lane before has failed."""
        self.lane = lane
        lane.streams[self] = None
        self.capture.prepare = lane.prepare
        if self._gpu is not None and lane.detector.gpu is not None:
            self._gpu = lane.detector.gpu
            self.source.move_to_gpu(self._gpu)

    def stop(self) -> None:
        """Captures no more; what was captured still reaches the sinks."""
        self.capture.stop()

    def interrupt_sinks(self) -> None:
        """Makes sinks that wait for a reader give up soon, so that the stream can end."""
        for worker in self.sinks:
            worker.sink.interrupt()

    def abort(self) -> None:
        """Ends all queues at once and drops what is in them."""
        self.stop()
        self.inference.input.queue.abort()
        self.inference.output.abort()
        for worker in self.sinks:
            worker.queue.abort()

    def status(self) -> StreamStatus:
        """Returns what the overlay shows."""
        return StreamStatus(
            lost_s=self.source.lost_s,
            captured=self.stats.captured,
            processed=self.stats.processed,
            dropped=self.dropped,
            preempted=self.inference.input.preempted,
            fps=self.stats.rate.per_second(),
            latency_ms=self.stats.latency_ms.percentiles(50, 95),
        )

    def record(self) -> StreamRecord:
        """Returns the stream's part of the report."""
        stats, source = self.stats, self.source
        captured = stats.captured + source.dropped
        uses = [use for worker in self.sinks if (use := worker.sink.disk_use) is not None]
        report = SourceReport(
            name=self.name,
            uri=source.info.uri,
            frames_captured=captured,
            frames_processed=stats.processed,
            frames_dropped=captured - stats.processed,
            reconnects=source.reconnects,
            fps_captured=stats.fps_of(captured),
            fps_processed=stats.fps_of(stats.processed),
            gave_way=self.inference.input.preempted,
            clips=sum(worker.sink.clips for worker in self.sinks),
            recorded_bytes=sum(use.written_bytes for use in uses),
            detected_uri=source.info.detected_uri,
            main_reconnects=source.main_reconnects,
            recorded_gb_a_day=round(sum(use.bytes_a_day for use in uses) / 1e9, 3),
        )
        files = tuple(path for worker in self.sinks for path in worker.sink.written)
        return StreamRecord(report, tuple(self.failures.errors), files, source.skipped)
