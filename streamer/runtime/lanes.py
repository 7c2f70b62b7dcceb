"""The detectors of a run, each with its own batches and thread: which one a stream gets, and what if one fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from streamer.common.errors import EngineError, StreamerError, one_line
from streamer.common.queues import QueueSelector
from streamer.common.stats import StageTimes
from streamer.detector.base import Detector
from streamer.frames.frame import Frame
from streamer.runtime.batcher import Batcher
from streamer.runtime.inference_loop import InferenceLoop
from streamer.runtime.report import GpuReport
from streamer.sources.base import SourceInfo

if TYPE_CHECKING:
    from streamer.runtime.stream import Stream

log = logging.getLogger(__name__)

STALLED_S = 6.0
"""Without an answer of a GPU for so long, it counts as failed where there are others."""

_LONGEST_CHECK_S = 0.5
_USUAL_PIXELS_PER_S = 1920 * 1080 * 30.0


def load_of(info: SourceInfo) -> float:
    """Returns how much of a GPU a stream takes: its pixels a second, as a multiple of 1920x1080 at 30 fps.

    Where its size or rate isn't known, it counts as one of these.
    """
    if info.size_wh is None or not info.fps:
        return 1.0
    width, height = info.size_wh
    return width * height * info.fps / _USUAL_PIXELS_PER_S


class Lane:
    """One detector, its batches, and the loop that drives it.

    Attributes:
        detector: the caller's.
        batcher: forms its batches.
        inference: the loop, the body of its thread.
        name: such as ``cuda:0``.
        thread_name: of that thread.
        streams: those that it detects for, in the order in which they came.
        error: why it failed; None while it works.
    """

    def __init__(
        self, detector: Detector, batcher: Batcher[Frame], inference: InferenceLoop, is_last: Callable[[Lane], bool]
    ) -> None:
        """Joins what belongs to a detector; `is_last` tells whether a lane is the only one that works."""
        self.detector, self.batcher, self.inference, self._is_last = detector, batcher, inference, is_last
        self.name = "cpu" if detector.gpu is None else f"cuda:{detector.gpu}"
        self.thread_name = f"detect {self.name}"
        self.streams: dict[Stream, None] = {}
        self.error: StreamerError | None = None
        self._waits_since_s: float | None = None
        self._waited_s = 0.0

    def prepare(self, frame: Frame) -> None:
        """Has the detector prepare a frame, on the thread that captured it; the last one may raise."""
        try:
            self.detector.prepare(frame)
        except Exception:
            if self._is_last(self):
                raise
            log.debug("%s can't prepare a frame", self.name, exc_info=True)  # what detects fails by the same

    def wait(self, passed_s: float) -> float:
        """Returns for how long the detector hasn't answered, when some time has passed since the last call."""
        since_s = self.inference.waiting_since_s
        self._waited_s = self._waited_s + passed_s if since_s is not None and since_s == self._waits_since_s else 0.0
        self._waits_since_s = since_s
        return self._waited_s

    def load(self) -> float:
        """Returns the load of its streams; those that have ended don't count."""
        streams = list(self.streams)
        return sum(load_of(s.source.info) for s in streams if not s.inference.input.queue.is_closed)


class Lanes:
    """All detectors of a run. Streams are added and moved by one thread at a time.

    A stream gets the detector of the GPU that decodes it, else the one with the least load. A detector that fails, or
    doesn't answer for `STALLED_S`, moves its streams to the others; with the last one that works, the run fails.

    Attributes:
        all: one lane for each detector, in the order given.
    """

    def __init__(self, detectors: Sequence[Detector], batch_timeout_s: float, times: StageTimes) -> None:
        """Makes a lane for each detector; at least one is needed."""
        lock, peers = threading.Lock(), list[Batcher[Frame]]()
        self._lost_gpus: set[int] = set()
        self._checked_s = time.perf_counter()
        self.all: list[Lane] = []
        for detector in detectors:
            batcher = Batcher(detector.batch, batch_timeout_s, QueueSelector(lock=lock), peers)
            loop = InferenceLoop(detector, batcher, times, self._lost_gpus)
            self.all.append(Lane(detector, batcher, loop, lambda lane: self.working == [lane]))

    @property
    def working(self) -> list[Lane]:
        """The lanes that haven't failed."""
        return [lane for lane in self.all if lane.error is None]

    def choose(self, gpu: int | None = None, opening: Collection[int] = ()) -> Lane:
        """Returns the lane of a GPU where that works, else the one with the least load.

        `opening` are the GPUs of streams that are about to be added.
        """
        working = self.working
        own = [lane for lane in working if gpu is not None and lane.detector.gpu == gpu]
        loads = {lane: lane.load() + sum(each == lane.detector.gpu for each in opening) for lane in own or working}
        return min(loads, key=lambda lane: (loads[lane], len(lane.streams)))

    def expecting(self) -> AbstractContextManager[None]:
        """Within the block a stream is about to be added: no lane ends."""
        return self.working[0].batcher.expecting()

    def give_up(self, failed: Lane, error: Exception) -> bool:
        """Moves a failed lane's streams to the others; returns False where there is none.

        Frames in its detector, and those in the memory of its GPU, are lost and counted as dropped.
        """
        if failed.error is not None:  # noticed before
            return True
        if len(self.working) == 1:
            return False
        said = str(error) if isinstance(error, StreamerError) else one_line(f"{type(error).__name__}: {error}")
        failed.error = EngineError(f"{failed.name} has failed: {said}")
        if failed.detector.gpu is not None:
            self._lost_gpus.add(failed.detector.gpu)
        moved: dict[str, int] = {}
        with self.expecting():
            by_handover = {stream.inference: stream for stream in failed.streams}
            for handover in failed.inference.abandon():
                stream, lane = by_handover[handover], self.choose()
                del failed.streams[stream]
                stream.move_to(lane)
                lane.inference.take_over(handover)
                moved[lane.name] = moved.get(lane.name, 0) + 1
        where = ", ".join(f"{count} to {name}" for name, count in moved.items())
        log.warning("%s; its streams move: %s", failed.error, where or "it had none")
        return True

    def stalled(self) -> Sequence[tuple[Lane, StreamerError]]:
        """Returns the lanes whose detector hasn't answered for `STALLED_S`, and that as an error; no last one.

        To be called often, on one thread: time in which that thread didn't run either, as after SIGSTOP, doesn't count.
        """
        now_s = time.perf_counter()
        passed_s, self._checked_s = min(now_s - self._checked_s, _LONGEST_CHECK_S), now_s
        working = self.working
        slow = [lane for lane in working if lane.wait(passed_s) > STALLED_S][: len(working) - 1]
        return [(lane, EngineError(f"no answer for {STALLED_S:g} s")) for lane in slow]

    def report(self) -> tuple[GpuReport, ...]:
        """Returns each lane's part of the report; nothing where there is one."""
        if len(self.all) == 1:
            return ()
        of_lanes = [(lane, tuple(stream.name for stream in list(lane.streams))) for lane in self.all]
        return tuple(
            GpuReport(lane.name, lane.detector.info, names, failed=lane.error is not None) for lane, names in of_lanes
        )
