"""One source's way through the pipeline: its threads' state, hand-overs, counts and outputs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from streamer.common.errors import SinkError, StreamerError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.common.stats import StreamStats
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.batcher import Lane
from streamer.runtime.overlay import REFRESH_S, Overlay
from streamer.runtime.report import SourceReport
from streamer.runtime.sink_executor import SerialTask
from streamer.runtime.sink_worker import FrameDelivery, SinkWorker
from streamer.runtime.stream_spec import PipelineContext, StreamSpec
from streamer.sinks.base import closing_on_error
from streamer.sources.base import FrameConsumer, PushSource, as_source_error
from streamer.sources.pacing import Pacer, RateLimiter

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_BURST = 2  # where this process, or a network, was held up for up to two frames of 30 a second, none is lost
_RECORDER_ROOM = 8  # frames a live source's file may be behind by: encoders and disks have their moments
_NO_PICTURE = np.full((720, 1280, 3), 32, np.uint8)


class Stream(SerialTask, FrameConsumer):
    """A source with its policy, counts and outlets; each `run_*` method is the body of one thread.

    A source that brings its frames has no thread: it calls `take`. A stream whose only output draws nothing has none
    behind detection: `serve` is called when there is something to write.

    Attributes:
        name: the source's.
        lane: its way into the detector's batches.
        is_removed: whether it was asked to end before its source did.
        error: why its source failed.
    """

    def __init__(self, plan: StreamSpec, shared: PipelineContext) -> None:
        """Lays the hand-overs."""
        policy = plan.chosen_policy()
        fresh = policy is OverflowPolicy.DROP_OLDEST
        queued = 1 if fresh else shared.queued
        self.source = plan.source
        self.name = plan.source.info.name
        self._feeder = plan.source if isinstance(plan.source, PushSource) else None
        if self._feeder is not None and not fresh:
            queued = max(queued, self._feeder.max_unacknowledged)  # so that `on_frame` never waits
        self.policy = policy
        self.stats = StreamStats()
        self.captured: BoundedQueue[Frame] = BoundedQueue(queued, policy, shared.captured, burst=_BURST)
        # There is room for all that the lane lets out, so that detection never waits for drawing.
        self.lane: Lane[Frame] = Lane(self.captured, plan.priority, shared.in_flight + queued)
        self.detected: BoundedQueue[tuple[Frame, Detections]] = BoundedQueue(self.lane.room, OverflowPolicy.BLOCK)
        # A slow output of a live source loses frames of its own, rather than holding up the others. An exact number of
        # frames can't be promised that way, so a run with one waits.
        late = policy if not shared.max_frames else OverflowPolicy.BLOCK
        self.outlets = [
            SinkWorker(name, sink, BoundedQueue(queued if sink.live_view or not fresh else _RECORDER_ROOM, late))
            for name, sink in plan.sinks
        ]
        self.is_removed = False
        self.error: StreamerError | None = None
        self._shared = shared
        self._times = shared.times
        self._plan, self._paced = plan, plan.paced
        self.change(plan.priority, plan.max_fps, plan.detect_every)
        self._offered = 0
        self._found = Detections.empty()
        self._passed_by = 0
        self._overlay = Overlay(self, shared.overlay_head)

    @property
    def dropped(self) -> int:
        """Frames that didn't reach every sink: passed over, beyond the budget, not detected, or too late for a sink."""
        early = self.captured.dropped + self.stats.dropped_early
        return early + self.stats.dropped_late + self.source.dropped

    @property
    def gave_way(self) -> int:
        """Frames dropped, or under every-frame kept waiting, while streams of higher priority were served."""
        return self.stats.gave_way if self.policy is OverflowPolicy.DROP_OLDEST else self.lane.passed_by

    def change(self, priority: int, max_fps: float | None, detect_every: int) -> None:
        """Sets what the source may have of the machine, from any thread and at any time; see `StreamSpec`."""
        self.lane.priority = priority
        self._budget = RateLimiter(max_fps) if max_fps is not None else None
        self._detect_every = detect_every

    def end(self) -> None:
        """Takes no more frames of the source; those captured still reach the sinks."""
        self.captured.close()
        self._ask_source(self.source.interrupt)

    def interrupt_outputs(self) -> None:
        """Has outputs that wait for a reader give up soon, so that the stream can end."""
        for outlet in self.outlets:
            outlet.sink.interrupt()

    def run_capture(self, stop: threading.Event) -> None:
        """Reads the source to its end, or until it fails (see `error`), and hands frames to detection."""
        try:
            frames = self._ask_source(lambda: iter(self.source))
            pacer: Pacer | None = None
            while frames is not None and not stop.is_set():
                self.captured.wait_for_room()
                began = time.perf_counter()
                frame = self._ask_source(lambda: next(frames, None))
                if frame is None:
                    break
                self._times.add("capture", (time.perf_counter() - began) * 1e3)
                if not self.stats.captured:
                    self._look_again()
                    pacer = Pacer() if self._paced and not self.source.info.live else None
                if pacer is not None:
                    frame = pacer.wait(frame, stop)
                self._accept(frame)
                if self._has_enough():
                    break
        except Closed:
            pass
        finally:
            self.on_end(None)

    def _look_again(self) -> None:
        """Has nothing dropped of a source that could be reached only now, and turns out to be a file."""
        if self.policy is OverflowPolicy.DROP_OLDEST and self._plan.chosen_policy() is OverflowPolicy.BLOCK:
            self.policy = self.captured.policy = OverflowPolicy.BLOCK
            for outlet in self.outlets:
                outlet.inbox.policy = OverflowPolicy.BLOCK

    def _ask_source(self, step: Callable[[], _T]) -> _T | None:
        """Returns what a call into the source returns; None where it fails, which ends the source alone."""
        try:
            return step()
        except Closed:
            raise
        except Exception as error:
            log.debug("source %r failed", self.name, exc_info=error)
            self.error = self.error or as_source_error(error, self.name)
        return None

    def feed(self) -> bool:
        """Has the source bring its frames, where it can; returns whether it does, and needs no `run_capture`."""
        feeder = self._feeder
        if feeder is None:
            return False
        self._ask_source(lambda: feeder.start(self, paced=self._paced))
        if self.error is not None:
            self.on_end(None)
        return True

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        self._times.add("capture", capture_ms)
        try:
            is_offered = self._accept(frame)
        except Closed:
            return
        if self._feeder is not None and not (is_offered and self.policy is OverflowPolicy.BLOCK):
            self._feeder.acknowledge()
        if self._has_enough():
            self.end()

    def on_end(self, error: StreamerError | None) -> None:
        self.error = self.error or error
        self._ask_source(self.source.close)
        self.captured.close()

    def _accept(self, frame: Frame) -> bool:
        """Hands a frame on to detection if the budget allows it; returns whether it did."""
        budget = self._budget
        if budget is not None and not budget.allows(frame.pts_s):
            self.stats.count_captured(frame.captured_at_s)
            self.stats.dropped_early += 1
            return False
        self._shared.prepare(frame)
        self._offer(frame)
        return True

    def _offer(self, frame: Frame) -> None:
        """Hands a frame to detection; one that is dropped for it gave way if its lane was passed by meanwhile."""
        passed_by = self.lane.passed_by
        if self.captured.put(frame) is not None and passed_by > self._passed_by:
            self.stats.gave_way += 1
        self._passed_by = passed_by
        self.stats.count_captured(frame.captured_at_s)

    def _has_enough(self) -> bool:
        taken = self.stats.captured - self.stats.dropped_early - self.captured.dropped
        most = self._shared.max_frames
        return most is not None and taken >= most

    def is_detected(self, frame: Frame) -> bool:
        """Whether the detector is to see the next frame in order, rather than have it `hold` the last boxes."""
        if self._feeder is not None and self.policy is OverflowPolicy.BLOCK:
            self._feeder.acknowledge()
        self._offered += 1
        return (self._offered - 1) % self._detect_every == 0

    def hand_on(self, frame: Frame, detections: Detections) -> None:
        """Hands a frame and what was found in it to the draw thread.

        Raises:
            Closed: if the run was aborted.
        """
        self._found = detections
        self.detected.put((frame, detections))
        self._shared.writers.ready(self)

    def hold(self, frame: Frame) -> None:
        """Hands on a frame that the detector hasn't seen, with the boxes of the last one that it has.

        Raises:
            Closed: if the run was aborted.
        """
        self.detected.put((frame, self._found.held()))
        self._shared.writers.ready(self)

    def end_detected(self) -> None:
        """Lets what was detected reach the outputs, which are finished then: no more comes."""
        self.detected.close()
        self._shared.writers.ready(self)

    @property
    def is_served(self) -> bool:
        """Whether the stream draws nothing and needs no thread behind detection: `serve` does the rest."""
        return len(self.outlets) == 1 and not (self.outlets[0].sink.needs_pixels or self.outlets[0].sink.main_thread)

    def serve(self) -> bool:
        """Writes what was detected to the only sink, and closes it at the end, or when it fails."""
        (outlet,) = self.outlets
        while True:
            try:
                taken = self.detected.get(timeout_s=0)
            except Closed:
                if outlet.error is None:
                    self._close_only(outlet)
                return True
            if taken is None:
                return False
            self._shared.batcher.release(self.lane)
            if outlet.error is not None:
                continue  # detected already; nobody is left to have it
            frame, detections = taken
            try:
                with closing_on_error(outlet.sink):
                    self.deliver(outlet, FrameDelivery(frame, frame, detections, 1))
            except SinkError as error:
                self.give_up(outlet, error)

    def _close_only(self, outlet: SinkWorker) -> None:
        try:
            outlet.sink.close()
        except SinkError as error:
            self.give_up(outlet, error)

    def run_draw(self) -> None:
        """Draws what sinks want to see and hands each frame to every sink that works."""
        last: tuple[Frame, Detections] | None = None
        while True:
            try:
                taken = self.detected.get(REFRESH_S)
            except Closed:
                break
            if taken is None:
                self._show_trouble(last)
                continue
            self._shared.batcher.release(self.lane)
            last = frame, detections = taken
            outlets = [outlet for outlet in self.outlets if outlet.error is None]
            drawn = frame
            if any(outlet.sink.needs_pixels for outlet in outlets):
                began = time.perf_counter()
                drawn = self._shared.annotator.annotate(frame, detections, self._overlay.lines())
                self._times.add("draw", (time.perf_counter() - began) * 1e3)
            self._hand_out(FrameDelivery(frame, drawn, detections, len(outlets)), outlets)
        for outlet in self.outlets:
            outlet.inbox.close()

    def run_outlet(self, outlet: SinkWorker) -> None:
        """Writes every frame that comes to one sink, and closes the sink at the end, or when it fails."""
        try:
            with outlet.sink:
                for delivery in _taken(outlet.inbox):
                    self.deliver(outlet, delivery)
        except SinkError as error:
            self.give_up(outlet, error)

    def deliver(self, outlet: SinkWorker, delivery: FrameDelivery) -> None:
        """Writes one frame to one sink and counts it when it was the last sink.

        Raises:
            SinkError: if the sink can't take it; the others may.
        """
        began = time.perf_counter()
        sink = outlet.sink
        try:
            sink.write(delivery.drawn if sink.needs_pixels else delivery.frame, delivery.detections)
        except SinkError:
            self._settle(delivery, reached=False)
            raise
        self._times.add(f"write {outlet.name}", (time.perf_counter() - began) * 1e3)
        self._settle(delivery, reached=True)

    def give_up(self, outlet: SinkWorker, error: SinkError) -> None:
        """Goes on without a sink that failed; without any, the source is stopped."""
        outlet.error = error
        for delivery in outlet.inbox.abort():
            self._settle(delivery, reached=False)
        if all(other.error is not None for other in self.outlets):
            self.end()
        else:
            log.warning("%s; the other outputs go on", error)

    def _hand_out(self, delivery: FrameDelivery, outlets: Sequence[SinkWorker]) -> None:
        for outlet in outlets:
            try:
                dropped = outlet.inbox.put(delivery)
            except Closed:  # the sink failed meanwhile, or the run is being aborted
                self._settle(delivery, reached=False)
                continue
            if dropped is not None and dropped.mark_dropped():
                self.stats.dropped_late += 1

    def _settle(self, delivery: FrameDelivery, *, reached: bool) -> None:
        """Notes that one more sink has the frame, or never will."""
        if delivery.settle(reached=reached):
            self.stats.count_processed(delivery.frame.captured_at_s)

    def _show_trouble(self, last: tuple[Frame, Detections] | None) -> None:
        """Shows people who look on why no frame comes, on the last one."""
        viewers = [outlet for outlet in self.outlets if outlet.sink.live_view and outlet.error is None]
        if not viewers or not self._overlay.has_news():
            return
        frame, detections = last or (Frame(_NO_PICTURE, self.name, 0, 0.0, time.perf_counter()), Detections.empty())
        drawn = self._shared.annotator.annotate(frame, detections, self._overlay.lines())
        self._hand_out(FrameDelivery(frame, drawn, detections, len(viewers), is_new=False), viewers)

    def report(self) -> SourceReport:
        """Returns the source's part of the report."""
        stats, source = self.stats, self.source
        span_s = (stats.last_captured_s or 0.0) - (stats.first_captured_s or 0.0)

        def rate(frames: int) -> float:
            return (frames - 1) / span_s if frames > 1 and span_s > 0 else 0.0

        captured = stats.captured + source.dropped
        return SourceReport(
            name=self.name,
            uri=source.info.uri,
            frames_captured=captured,
            frames_processed=stats.processed,
            frames_dropped=captured - stats.processed,
            reconnects=source.reconnects,
            fps_captured=rate(captured),
            fps_processed=rate(stats.processed),
            gave_way=self.gave_way,
        )

    def failures(self) -> list[tuple[str, StreamerError]]:
        """Returns what of it failed, source or output by name, and why."""
        found: list[tuple[str, StreamerError]] = [] if self.error is None else [(self.name, self.error)]
        return found + [(outlet.name, outlet.error) for outlet in self.outlets if outlet.error is not None]

    def abort(self) -> None:
        """Ends all hand-overs at once; what is in them is thrown away."""
        self._ask_source(self.source.interrupt)
        self.captured.abort()
        self.detected.abort()
        self._shared.writers.ready(self)
        for outlet in self.outlets:
            outlet.inbox.abort()


def _taken(inbox: BoundedQueue[_T]) -> Iterator[_T]:
    """Yields what comes until the hand-over ends."""
    while True:
        try:
            item = inbox.get()
        except Closed:
            return
        if item is not None:
            yield item
