"""From a source to the batcher: at its own time, within the rate limit, counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from streamer.common.errors import StreamerError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.common.stats import StreamStats
from streamer.frames.frame import Frame
from streamer.runtime.batcher import BatchInput
from streamer.runtime.failure_policy import FailurePolicy
from streamer.runtime.stream_spec import PipelineContext, StreamSpec
from streamer.sources.base import FrameConsumer, Pace, PushSource
from streamer.sources.pacing import Pacer, RateLimiter

_HALF_A_FRAME = 0.5  # time stamps tremble: the last frame is the one that ends nearest to the run's length


class CapturePump(FrameConsumer):
    """Moves a source's frames into a `BatchInput`: pulled by `run`, or brought by a `PushSource` after `start_push`.

    Attributes:
        rate_limiter: drops frames beyond a rate; None drops none. May be replaced at any time.
        prepare: what the detector does with a frame on the thread that captures it. May be replaced too.
        has_reached_end: whether a real-time source has given all frames of the run's length.
    """

    def __init__(
        self,
        spec: StreamSpec,
        output: BatchInput[Frame],
        context: PipelineContext,
        stats: StreamStats,
        failures: FailurePolicy,
        sink_queues: Sequence[BoundedQueue[Any]],
        prepare: Callable[[Frame], None],
    ) -> None:
        """Captures nothing yet; `sink_queues` get the source's overflow policy, should that turn out to be another."""
        self.rate_limiter: RateLimiter | None = None
        self.prepare = prepare
        self._spec, self._source, self._context = spec, spec.source, context
        self._output, self._queue, self._sink_queues = output, output.queue, sink_queues
        self._stats, self._failures = stats, failures
        self._end_pts_s: float | None = None
        self.has_reached_end = False
        self._push = spec.source if isinstance(spec.source, PushSource) else None
        if self._push is not None and self._queue.policy is OverflowPolicy.BLOCK:
            output.on_batched = self._push.acknowledge

    def run(self, stop: threading.Event) -> None:
        """Captures to the source's end or failure, or until `stop`; the body of a thread."""
        call = self._failures.call_source
        pacer: Pacer | None = None
        try:
            frames = call(lambda: iter(self._source))
            while frames is not None and not stop.is_set():
                self._queue.wait_until_not_full()
                began_s = time.perf_counter()
                frame = call(lambda: next(frames, None))
                if frame is None:
                    break
                self._context.times.add("capture", (time.perf_counter() - began_s) * 1e3)
                if not self._stats.captured:
                    self._update_policy()
                    pacer = Pacer() if self._spec.pace is Pace.SOURCE else None
                if pacer is not None:
                    frame = pacer.wait(frame, stop)
                if self._is_past_end(frame):
                    break
                self._accept(frame)
                if self._has_enough():
                    break
        except Closed:
            pass
        finally:
            self.on_end(None)

    def start_push(self) -> bool:
        """Starts a `PushSource`; returns False for any other, which needs `run`."""
        push = self._push
        if push is None:
            return False
        self._failures.call_source(lambda: push.start(self, paced=self._spec.paced))
        if self._failures.source_error is not None:
            self.on_end(None)
        return True

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        self._context.times.add("capture", capture_ms)
        if self._is_past_end(frame):
            self.stop()
            return
        try:
            is_waiting = self._accept(frame) and self._queue.policy is OverflowPolicy.BLOCK
        except Closed:
            return
        if self._push is not None and not is_waiting:
            self._push.acknowledge()
        if self._has_enough():
            self.stop()

    def on_end(self, error: StreamerError | None) -> None:
        if error is not None:
            self._failures.source_failed(error)
        self._failures.call_source(self._source.close)
        self._queue.close()

    def stop(self) -> None:
        """Captures no more; from any thread, and without waiting."""
        self._queue.close()
        self._failures.call_source(self._source.interrupt)

    def _update_policy(self) -> None:
        """Drops nothing of a source that turns out to be a file, now that it could be reached."""
        if self._spec.overflow_policy is OverflowPolicy.BLOCK:
            for queue in (self._queue, *self._sink_queues):
                queue.policy = OverflowPolicy.BLOCK

    def _accept(self, frame: Frame) -> bool:
        """Passes a frame on if the rate limit allows it, and returns whether it does."""
        limiter = self.rate_limiter
        is_within = limiter is None or limiter.allows(frame.pts_s)
        if is_within:
            if self._spec.detect_every:
                self.prepare(frame)
            self._output.put(frame)
        else:
            self._stats.dropped_early += 1
        self._stats.count_captured(frame.captured_at_s)
        return is_within

    def _is_past_end(self, frame: Frame) -> bool:
        """Whether a real-time source has reached the run's length; called with each frame from the first."""
        clock = self._context.clock
        if not self._stats.captured:
            end_pts_s = clock.end_pts_s(frame.pts_s, frame.captured_at_s)
            if end_pts_s is not None and self._spec.pace.is_realtime:
                fps = self._source.info.fps
                self._end_pts_s = end_pts_s - (_HALF_A_FRAME / fps if fps else 0.0)
        self.has_reached_end = self._end_pts_s is not None and frame.pts_s >= self._end_pts_s
        return self.has_reached_end

    def _has_enough(self) -> bool:
        kept = self._stats.captured - self._stats.dropped_early - self._queue.dropped - self._output.lost
        return self._context.max_frames is not None and kept >= self._context.max_frames
