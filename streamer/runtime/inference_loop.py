"""One detector for many streams: which of a stream's frames it sees, and the thread that drives it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass

from streamer.common.queues import Closed, CreditQueue
from streamer.common.stats import StageTimes
from streamer.detector.base import Detector
from streamer.frames.detections import Detections, Keep
from streamer.frames.frame import Frame
from streamer.runtime.batcher import Batcher, BatchInput
from streamer.tracking.tracker import Tracker

_MAX_REUSING = 64

DetectedQueue = CreditQueue[tuple[Frame, Detections]]


class InferenceHandover:
    """Pairs each frame of a stream with its detections, or with those of the last frame that the detector has seen.

    Attributes:
        input: where frames wait for the detector.
        output: frames and their detections, in order.
        detect_every: the detector sees every Nth frame, none for 0; may change at any time.
        keep: drops detections that aren't to be reported; None drops none; may change at any time.
    """

    def __init__(self, frames: BatchInput[Frame], output: DetectedQueue, tracker: Tracker | None = None) -> None:
        """Connects both ends; `tracker` gives the stream's objects ids, before `keep` drops any."""
        self.input, self.output, self.detect_every, self._tracker = frames, output, 1, tracker
        self.keep: Keep | None = None
        self._offered = 0
        self._last = Detections.empty()

    def is_next_detected(self) -> bool:
        """Whether the detector sees the next frame in order; without, it gets `reuse`."""
        every = self.detect_every
        self._offered += 1
        return every > 0 and (self._offered - 1) % every == 0

    def deliver(self, frame: Frame, detections: Detections) -> None:
        """Passes on a frame and what was detected in it.

        Raises:
            Closed: if the run was aborted.
        """
        if self._tracker is not None:
            detections = self._tracker.update(frame, detections)
        if self.keep is not None:
            detections = self.keep(detections, frame.size_wh)
        self._last = detections
        self.output.put((frame, detections))

    def reuse(self, frame: Frame) -> None:
        """Passes on a frame that the detector hasn't seen, with the last detections, or none where it sees no frame.

        Raises:
            Closed: if the run was aborted.
        """
        self.output.put((frame, self._last.reused() if self.detect_every else Detections.empty()))


@dataclass(frozen=True)
class _Pending:
    """A frame in the detector, or one that reuses the boxes of the frame before it."""

    stream: InferenceHandover
    reusing: Frame | None = None


class InferenceLoop:
    """Keeps one detector busy with frames of its streams. Streams may be added by any thread."""

    def __init__(
        self, detector: Detector, batcher: Batcher[Frame], times: StageTimes, lost_gpus: Container[int] = ()
    ) -> None:
        """Takes frames from `batcher`; the detector stays the caller's. Frames on `lost_gpus` are lost."""
        self._detector, self._batcher, self._times, self._lost_gpus = detector, batcher, times, lost_gpus
        self._streams: dict[BatchInput[Frame], InferenceHandover] = {}
        self._pending: deque[_Pending] = deque()
        self._lock = threading.Lock()  # guards `_pending` and what is delivered against `abandon`
        self._is_abandoned = False
        self._waiting_since_s: float | None = None

    @property
    def streams(self) -> int:
        """Streams that have frames to come."""
        return len(self._streams)

    @property
    def waiting_since_s(self) -> float | None:
        """The `time.perf_counter()` of the call that the detector hasn't answered; None where it has all."""
        return self._waiting_since_s

    def abandon(self) -> list[InferenceHandover]:
        """Ends this loop, whose detector has failed or no longer answers, without waiting for it.

        The frames in the detector are lost. The outputs of streams that have no more frames are closed; returns the
        others, for the loop of another detector to `take_over`. Another batcher must be `expecting`.
        """
        with self._lock:
            self._is_abandoned = True
            pending, self._pending = self._pending, deque()
        for each in pending:
            each.stream.input.lose()
        moving, finished = self._batcher.retire()
        for ended in finished:
            self._streams[ended].output.close()
        return [self._streams[frames] for frames in moving]

    def take_over(self, stream: InferenceHandover) -> None:
        """Serves a stream of a loop that was abandoned."""
        self._streams[stream.input] = stream
        self._batcher.take_over(stream.input)

    def add(self, stream: InferenceHandover) -> None:
        """Serves one more stream.

        Raises:
            Closed: if all streams have finished.
        """
        self._streams[stream.input] = stream
        try:
            self._batcher.add(stream.input)
        except BaseException:
            del self._streams[stream.input]
            raise

    def run(self) -> None:
        """Detects until every stream has finished; the body of a thread.

        Raises:
            EngineError: if the detector fails.
            Closed: if the run was aborted, or this loop abandoned.
        """
        detector, pending = self._detector, self._pending
        while not self._is_abandoned:
            if detector.capacity and len(pending) < _MAX_REUSING + detector.depth:
                batch = self._batcher.next_batch(wait=not pending)
                if batch is None and not pending:
                    break
                if batch:
                    self._submit(batch)
                if not pending:
                    self._close_finished()
                    continue
                if batch and pending[0].reusing is None and detector.capacity:
                    continue
            self._deliver(pending[0])
            self._close_finished()
        self._close_finished()

    def _submit(self, batch: list[tuple[BatchInput[Frame], Frame]]) -> None:
        detected = []
        for each, frame in batch:
            if each.on_batched is not None:
                each.on_batched()
            stream = self._streams[each]
            if self._lost_gpus and frame.gpu in self._lost_gpus:
                each.lose()
                continue
            is_detected = stream.is_next_detected()
            self._pending.append(_Pending(stream, None if is_detected else frame))
            if is_detected:
                detected.append(frame)
        if detected:
            self._waiting_since_s = time.perf_counter()
            self._detector.submit_batch(detected)
            self._waiting_since_s = None

    def _deliver(self, oldest: _Pending) -> None:
        """Passes the oldest pending frame on, once the detector is done with it."""
        if oldest.reusing is not None:
            with self._lock:
                self._take_oldest()
                oldest.stream.reuse(oldest.reusing)
            return
        self._waiting_since_s = time.perf_counter()
        frame, detections, times = self._detector.collect()
        self._waiting_since_s = None
        self._times.add("preprocess", times.preprocess_ms)
        self._times.add("inference", times.inference_ms)
        self._times.add("postprocess", times.postprocess_ms)
        with self._lock:
            self._take_oldest()
            oldest.stream.deliver(frame, detections)

    def _take_oldest(self) -> None:
        """Removes the oldest pending frame, with the lock held; raises Closed where this loop was abandoned."""
        if self._is_abandoned:
            raise Closed
        self._pending.popleft()

    def _close_finished(self) -> None:
        """Closes the outputs of streams that have finished, while others go on."""
        finished = self._batcher.finished
        if not finished:
            return
        busy = {each.stream.input for each in self._pending}
        for each in finished:
            if each not in busy:
                self._batcher.remove(each)
                self._streams.pop(each).output.close()
