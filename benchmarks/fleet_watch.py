"""Many cameras through this program's pipeline, each frame noted: for ``benchmarks.fleet``."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sinks.jsonl import JsonlSink
from streamer.sources import open_source

PATIENCE_S = 60.0
ON_THEIR_WAY = 2  # pictures of a camera: one that FFmpeg's parser holds until the next begins, and one just sent
STRETCH_HEAD = ("frames/s", "frames", "lost", "p50 ms", "p95 ms", "p99 ms")

Span = tuple[float, float]
"""When something began and ended, by `time.perf_counter`."""


@dataclass(frozen=True)
class Got:
    """A frame that reached its sink: when (`time.perf_counter`), its index, and its time since it was captured."""

    at_s: float
    index: int
    latency_ms: float


class NotedLines(JsonlSink):
    """JSON lines; notes each frame when its line is written.

    Attributes:
        got: the frames, in order.
    """

    def __init__(self, path: Path, labels: Sequence[str], *, live: bool = True) -> None:
        super().__init__(path, labels, live=live)
        self.got: list[Got] = []

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame's line and notes it."""
        super().write(frame, detections)
        now_s = time.perf_counter()
        self.got.append(Got(now_s, frame.index, (now_s - frame.captured_at_s) * 1e3))


@dataclass(frozen=True)
class Stretch:
    """What one stream, or several together, gave within some spans of time.

    Attributes:
        frames: that reached the sink.
        rate: of them a second and stream.
        lost: indices that are missing, from the last frame before each span to the last in it.
        p50_ms, p95_ms, p99_ms: of the time from capture to the sink; nan without frames.
    """

    frames: int
    rate: float
    lost: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def stretch(streams: Sequence[Sequence[Got]], spans: Sequence[Span]) -> Stretch:
    """Returns what streams gave within `spans`, all taken together.

    Args:
        streams: each stream's frames, in order; at least one stream.
        spans: at least one.
    """
    latencies: list[float] = []
    lost = 0
    for got, (began_s, ended_s) in itertools.product(streams, spans):
        within = [one for one in got if began_s <= one.at_s < ended_s]
        if within:
            before = max((one.index for one in got if one.at_s < began_s), default=within[0].index - 1)
            lost += within[-1].index - before - len(within)
        latencies += [one.latency_ms for one in within]
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99)).tolist() if latencies else (float("nan"),) * 3
    rate = len(latencies) / sum(ended_s - began_s for began_s, ended_s in spans) / len(streams)
    return Stretch(len(latencies), rate, lost, p50, p95, p99)


def most_behind(sent: Sequence[int], got: Sequence[Sequence[Got]]) -> int:
    """Returns the most pictures that a camera had sent on its only connection and that had not reached its sink."""
    return max(number - one[-1].index - 1 for number, one in zip(sent, got, strict=True))


def stretch_cells(one: Stretch) -> list[str]:
    """Returns a table's cells under `STRETCH_HEAD`."""
    latencies = [f"{value:.1f}" for value in (one.p50_ms, one.p95_ms, one.p99_ms)]
    return [f"{one.rate:.2f}", f"{one.frames:,}", str(one.lost), *latencies]


def wait_for_all(sinks: Sequence[NotedLines], check: Callable[[], None]) -> None:
    """Waits until each sink was given a frame; calls `check` meanwhile, which may raise.

    Raises:
        StreamerError: if one isn't in time.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not all(sink.got for sink in sinks):
        check()
        if time.monotonic() > deadline_s:
            raise StreamerError(f"not every camera gave a frame within {PATIENCE_S:g} s")
        time.sleep(0.02)


class Watch:
    """A running pipeline over cameras.

    Attributes:
        sinks: one for each camera.
        pipeline: what runs.
    """

    def __init__(self, sinks: Sequence[NotedLines], pipeline: Pipeline) -> None:
        self.sinks, self.pipeline = sinks, pipeline
        self.failed: list[BaseException] = []

    @property
    def got(self) -> list[list[Got]]:
        """The frames of each camera so far."""
        return [list(sink.got) for sink in self.sinks]

    def wait_for_all(self) -> None:
        """Waits until each camera has given a frame.

        Raises:
            StreamerError: if one doesn't, or the run fails.
        """
        wait_for_all(self.sinks, self.check)

    def rest(self, seconds: float) -> Span:
        """Lets it run for so long; returns when that began and ended (`time.perf_counter`).

        Raises:
            StreamerError: if the run failed.
        """
        began_s = time.perf_counter()
        time.sleep(seconds)
        self.check()
        return began_s, time.perf_counter()

    def check(self) -> None:
        """Raises StreamerError if the run has failed."""
        if self.failed:
            raise StreamerError(f"the run failed: {self.failed[0]}")


@contextmanager
def watching(urls: Sequence[str]) -> Iterator[Watch]:
    """Runs this program's pipeline over cameras, to JSON lines, for the block's time.

    Raises:
        StreamerError: if it can't be opened.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        open_detector(DEFAULT_MODEL, device="cpu", batch="auto", streams=len(urls)) as detector,
    ):
        sources = [open_source(url, name=f"camera {n}", wait=False) for n, url in enumerate(urls, 1)]
        sinks = [NotedLines(Path(folder, f"{source.info.name}.jsonl"), detector.labels) for source in sources]
        specs = [StreamSpec(source, [("lines", sink)]) for source, sink in zip(sources, sinks, strict=True)]
        watch = Watch(sinks, Pipeline(specs, detector, overlay=False))

        def body() -> None:
            try:
                watch.pipeline.run()
            except BaseException as error:
                watch.failed.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield watch
        finally:
            watch.pipeline.stop()
            thread.join(PATIENCE_S)
