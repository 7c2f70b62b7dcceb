"""The thread that drives the detector: batches of all streams' frames in, results back to each stream in its order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamer.common.stats import StageTimes
from streamer.detector.base import Detector
from streamer.frames.frame import Frame
from streamer.runtime.batcher import Batcher, Lane
from streamer.runtime.stream import Stream

_MOST_HELD = 64


@dataclass(frozen=True)
class _Pending:
    """A frame on its way: with the detector, or `held`: it gets the boxes of the frame before it."""

    stream: Stream
    held: Frame | None = None


class InferenceLoop:
    """Keeps one detector busy with frames of all streams. Streams may be added by any thread."""

    def __init__(self, detector: Detector, batcher: Batcher[Frame], times: StageTimes) -> None:
        """Takes frames from `batcher`; the detector stays the caller's."""
        self._detector = detector
        self._batcher = batcher
        self._times = times
        self._streams: dict[Lane[Frame], Stream] = {}
        self._pending: deque[_Pending] = deque()

    def add(self, stream: Stream) -> None:
        """Serves one more stream.

        Raises:
            Closed: if all streams have ended already.
        """
        self._streams[stream.lane] = stream
        try:
            self._batcher.add(stream.lane)
        except BaseException:
            del self._streams[stream.lane]
            raise

    def run(self) -> None:
        """Goes on until every stream has ended; the body of one thread.

        Raises:
            EngineError: if the detector fails.
            Closed: if the run was aborted.
        """
        detector, pending = self._detector, self._pending
        while True:
            if detector.room and len(pending) < _MOST_HELD + detector.depth:
                taken = self._batcher.take(wait=not pending)
                if taken is None and not pending:
                    break
                if taken:
                    self._submit(taken)
                if not pending:
                    self._finish_ended()
                    continue
                if taken and pending[0].held is None and detector.room:
                    continue
            self._hand_on(pending.popleft())
            self._finish_ended()
        self._finish_ended()

    def _submit(self, taken: list[tuple[Lane[Frame], Frame]]) -> None:
        """Has the detector begin with the frames that it is to see."""
        seen = []
        for lane, frame in taken:
            stream = self._streams[lane]
            is_seen = stream.is_detected(frame)
            self._pending.append(_Pending(stream, None if is_seen else frame))
            if is_seen:
                seen.append(frame)
        if seen:
            self._detector.submit_batch(seen)

    def _hand_on(self, first: _Pending) -> None:
        if first.held is not None:
            first.stream.hold(first.held)
            return
        frame, detections, times = self._detector.collect()
        self._times.add("preprocess", times.preprocess_ms)
        self._times.add("inference", times.inference_ms)
        self._times.add("postprocess", times.postprocess_ms)
        first.stream.hand_on(frame, detections)

    def _finish_ended(self) -> None:
        """Lets the outputs of streams that have ended be finished, while others go on."""
        ended = self._batcher.ended()
        if not ended:
            return
        busy = {each.stream.lane for each in self._pending}
        for lane in ended:
            if lane in busy:
                continue
            self._batcher.forget(lane)
            self._streams.pop(lane).end_detected()
