"""Part "peer" of ``benchmarks.fleet``: the usual loop over many cameras, compared with this program's pipeline."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from benchmarks.fleet_cameras import FPS, Cameras
from benchmarks.fleet_watch import PATIENCE_S, Got, NotedLines, Span, wait_for_all, watching
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.frames.frame import Frame

OPENCV_TIMEOUT_S = 30.0
"""OpenCV's default for reading and for opening through FFmpeg."""
_LIVE_S = 0.8  # a second's pictures take so long, at least, once none are left over


@dataclass(frozen=True)
class Timing:
    """How long things last, in seconds: warm-up, all healthy, one frozen, and after it has thawed."""

    warm_up_s: float
    healthy_s: float
    frozen_s: float
    after_s: float


@dataclass(frozen=True)
class Flow:
    """How frames of several cameras came within a span of time.

    Attributes:
        least_rate, median_rate: frames a second, of the camera with the fewest and of the one in the middle.
        longest_gap_s: the longest that any of the cameras was without a frame.
    """

    least_rate: float
    median_rate: float
    longest_gap_s: float


@dataclass(frozen=True)
class Row:
    """One contender: what the cameras that are never frozen gave with all healthy, and with one frozen for a while."""

    contender: str
    healthy: Flow
    beside_frozen: Flow


def flow(times_s: Sequence[Sequence[float]], span: Span) -> Flow:
    """Returns how frames came, from each camera's times in order; at least one camera."""
    began_s, ended_s = span
    within = [[at_s for at_s in times if began_s <= at_s < ended_s] for times in times_s]
    rates = [len(times) / (ended_s - began_s) for times in within]
    gaps = [np.diff([began_s, *times, ended_s]).max() for times in within]
    return Flow(min(rates), median(rates), float(max(gaps)))


def measure_peer(footage: Path, count: int, contender: str, timing: Timing) -> Row:
    """Runs one contender over fresh cameras, all healthy and then with the first one frozen for a while.

    Raises:
        StreamerError: if it fails.
        RuntimeError: if the cameras don't start.
    """
    with Cameras(footage, count) as cameras:
        times_s, healthy, frozen = CONTENDERS[contender](cameras, timing)
    others = times_s[1:]
    return Row(contender, flow(others, healthy), flow(others, frozen))


Times = tuple[list[list[float]], Span, Span]


def run_streamer(cameras: Cameras, timing: Timing) -> Times:
    """Runs this program's pipeline; returns each camera's times, when all were healthy, and when one wasn't."""
    with watching(cameras.urls) as watch:
        watch.wait_for_all()
        spans = _direct(cameras, timing, watch.check)
        return [_times(got) for got in watch.got], *spans


def run_loop(cameras: Cameras, timing: Timing) -> Times:
    """Runs the loop: read each camera in turn, find objects, write the line; as `run_streamer` otherwise.

    A camera that ends is opened again, as loaders do.
    """
    count = len(cameras.urls)
    ending = threading.Event()
    failed: list[BaseException] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        detector = stack.enter_context(open_detector(DEFAULT_MODEL, device="cpu", batch="auto", streams=count))
        sinks = [NotedLines(Path(folder, f"{number}.jsonl"), detector.labels) for number in range(count)]
        for sink in sinks:
            stack.enter_context(sink)
        opened = threading.Barrier(count)
        with ThreadPoolExecutor(count) as pool:
            captures = list(pool.map(lambda url: _opened(url, opened), cameras.urls))

        def body() -> None:
            try:
                while not ending.is_set():
                    for number, capture in enumerate(captures):
                        done, image = capture.read()
                        if not done:
                            capture.open(cameras.urls[number], cv2.CAP_FFMPEG)
                            continue
                        index, now_s = len(sinks[number].got), time.perf_counter()
                        detector.submit(Frame(np.asarray(image, np.uint8), f"camera {number}", index, 0.0, now_s))
                        sinks[number].write(*detector.collect()[:2])
            except BaseException as error:
                failed.append(error)

        def check() -> None:
            if failed:
                raise StreamerError(f"the loop failed: {failed[0]}")

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        try:
            wait_for_all(sinks, check)
            spans = _direct(cameras, timing, check)
        finally:
            ending.set()
            thread.join(PATIENCE_S)
            for capture in captures:
                capture.release()
        return [_times(sink.got) for sink in sinks], *spans


CONTENDERS: dict[str, Callable[[Cameras, Timing], Times]] = {
    "nanodet-streamer": run_streamer,
    "cv2.VideoCapture loop": run_loop,
}


def _opened(url: str, everybody: threading.Barrier) -> cv2.VideoCapture:
    """Opens a camera, reads until all are open, and discards the frames so far.

    OpenCV opens cameras one after the other. One that isn't read meanwhile blocks its server for so long that its
    connection doesn't recover.
    """
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
    waiting = threading.Thread(target=everybody.wait)
    waiting.start()
    while waiting.is_alive():
        capture.grab()
    while True:
        began_s = time.perf_counter()
        for _ in range(FPS):
            if not capture.grab():
                return capture
        if time.perf_counter() - began_s > _LIVE_S:
            return capture


def _times(got: Sequence[Got]) -> list[float]:
    return [one.at_s for one in got]


def _direct(cameras: Cameras, timing: Timing, check: Callable[[], None]) -> tuple[Span, Span]:
    """Lets a contender run, freezes the first camera and thaws it again; returns both spans."""
    time.sleep(timing.warm_up_s)
    began_s = time.perf_counter()
    time.sleep(timing.healthy_s)
    frozen_s = time.perf_counter()
    cameras.freeze(0)
    time.sleep(timing.frozen_s)
    cameras.thaw(0)
    time.sleep(timing.after_s)
    check()
    return (began_s, frozen_s), (frozen_s, time.perf_counter())


def report_peer(rows: Sequence[Row], count: int, timing: Timing) -> str:
    """Returns the table and how it came about."""
    cells = [
        [row.contender, cameras, f"{one.least_rate:.2f}", f"{one.median_rate:.2f}", f"{one.longest_gap_s:.2f}"]
        for row in rows
        for cameras, one in (("all healthy", row.healthy), ("one frozen", row.beside_frozen))
    ]
    return "\n\n".join(
        [
            f"{count} cameras as before; the {count - 1} that are never frozen. {timing.healthy_s:g} s with all of "
            f"them healthy after a warm-up of {timing.warm_up_s:g} s, then one is frozen for {timing.frozen_s:g} s, "
            f"and {timing.after_s:g} s more are counted. "
            "Both sides run the same engine and write the same lines. "
            f"OpenCV's time-out for reading is its own, {OPENCV_TIMEOUT_S:g} s. It opens cameras one after the other, "
            "however it is asked; what came meanwhile is read and thrown away before the warm-up, so that the loop "
            f"begins fresh. More than {FPS} frames a second would be a backlog that is read.",
            markdown_table(["contender", "cameras", "least frames/s", "median frames/s", "longest gap s"], cells),
        ]
    )
