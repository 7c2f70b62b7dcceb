"""Sources, sinks and a detector that fail, wait or count on demand: only for forcing faults and contention."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sources.base import Source, SourceInfo

WAIT_S = 60.0
"""How long a test waits for what is bound to happen before it fails: long enough on a machine that is busy."""

_LIVE_INTERVAL_S = 0.001


def wait_for(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Waits until `condition` holds; fails the test when it doesn't in time."""
    deadline_s = time.perf_counter() + timeout_s
    while not condition():
        assert time.perf_counter() < deadline_s, "waited in vain"
        time.sleep(0.001)


def no_fault(_: int) -> None:
    """Does nothing: the default place for a fault."""


class CountingSource(Source):
    """Gives `count` small frames; `before` is called with each index first and may raise or wait.

    A live one gives at most a thousand frames a second, so that it leaves some of the processor to the test.
    """

    def __init__(
        self, count: int, *, name: str = "fake", live: bool = False, before: Callable[[int], None] = no_fault
    ) -> None:
        self.info = SourceInfo(name, "fake:", (32, 24), 30.0, None if live else count, None, live)
        self.closed = 0
        self.lost_for_s: float | None = None
        self._count = count
        self._before = before

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            self._before(index)
            if self.info.live:
                time.sleep(_LIVE_INTERVAL_S)
            pixels = np.full((24, 32, 3), index % 256, np.uint8)
            yield Frame(pixels, self.info.name, index, index / 30, time.perf_counter())

    @property
    def lost_s(self) -> float | None:
        return self.lost_for_s

    def close(self) -> None:
        self.closed += 1


class SlowDetector(Detector):
    """Finds one box in every frame; `during` is called with each index while collecting and may raise or wait.

    Attributes:
        during: the same; may be replaced.
        batches: the sources' names of every batch that came.
        submitted: the source's name of every frame that came.
    """

    def __init__(self, *, depth: int = 1, batch: int = 1, during: Callable[[int], None] = no_fault) -> None:
        self.info = EngineInfo("fake", "f32", "none", "fake", "0" * 64)
        self.labels = ("thing",)
        self.depth = depth
        self.batch = batch
        self.during = during
        self.batches: list[list[str]] = []
        self.submitted: list[str] = []
        self.most_in_flight = 0
        self._flying: deque[Frame] = deque()

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def capacity(self) -> int:
        return self.batch if self.in_flight + self.batch <= self.depth else 0

    def submit_batch(self, frames: Sequence[Frame]) -> None:
        self.batches.append([frame.source for frame in frames])
        super().submit_batch(frames)

    def submit(self, frame: Frame) -> None:
        if self.in_flight >= self.depth:
            raise ValueError("in flight already")
        self._flying.append(frame)
        self.submitted.append(frame.source)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        frame = self._flying.popleft()
        self.during(frame.index)
        found = Detections(np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64))
        return frame, found, DetectTimes(1.0, 2.0, 3.0)

    def close(self) -> None:
        self._flying.clear()


class MemorySink(Sink):
    """Keeps what it is given; `before` is called with each index first and may raise or wait."""

    def __init__(
        self,
        *,
        needs_pixels: bool = False,
        live_view: bool = False,
        main_thread: bool = False,
        before: Callable[[int], None] = no_fault,
    ) -> None:
        self.needs_pixels = needs_pixels
        self.live_view = live_view
        self.main_thread = main_thread
        self.frames: list[Frame] = []
        self.detections: list[Detections] = []
        self.closed = 0
        self.thread: threading.Thread | None = None
        self.polls = 0
        self.linger_polls = 0
        self._before = before

    def write(self, frame: Frame, detections: Detections) -> None:
        self._before(frame.index)
        self.thread = threading.current_thread()
        self.frames.append(frame)
        self.detections.append(detections)

    def poll(self) -> None:
        self.polls += 1
        self.linger_polls -= 1

    @property
    def lingers(self) -> bool:
        return self.linger_polls > 0

    def close(self) -> None:
        self.closed += 1

    @property
    def indices(self) -> list[int]:
        """Indices of the frames it was given, in order."""
        return [frame.index for frame in self.frames]
