"""How many frames a second the GPU path takes: from page-locked memory, prepared by threads, and from the GPU."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from dataclasses import dataclass

from streamer.cuda.gpu import Gpu
from streamer.cuda.input_layout import colours_of
from streamer.cuda.slot import Lane
from streamer.cuda.staging import Staged
from streamer.detector.cuda import CudaDetector
from streamer.frames.frame import Frame


@dataclass(frozen=True)
class Span:
    """When one frame's copy began, its computing began, and its results were there, in ms on the GPU's clock."""

    frame: int
    copy_ms: float
    compute_ms: float
    done_ms: float


def pinned_fps(lanes: list[Lane], staged: list[Staged], frame: Frame, frames: int, *, copies: bool = True) -> float:
    """Returns frames a second from page-locked memory to detections in host memory, lanes in turn, one host thread.

    Args:
        lanes: as many as frames in flight.
        staged: one staged frame for each lane.
        frame: the frame that was staged.
        frames: how many to run.
        copies: False leaves the pixels on the GPU where they are: the rate of computing alone.
    """
    colours = colours_of(frame)
    for lane, pixels in zip(lanes, staged, strict=True):
        lane.put(0, pixels, colours)
        lane.start()
        lane.wait()
    flying: deque[Lane] = deque()
    began = time.perf_counter()
    for index in range(frames):
        lane = lanes[index % len(lanes)]
        if len(flying) == len(lanes):
            flying.popleft().wait()
            lane.detections(0)
        if copies:
            lane.put(0, staged[index % len(lanes)], colours)
        lane.start()
        flying.append(lane)
    for lane in flying:
        lane.wait()
        lane.detections(0)
    return frames / (time.perf_counter() - began)


def timeline(gpu: Gpu, lanes: list[Lane], staged: list[Staged], frame: Frame, frames: int) -> list[Span]:
    """Runs frames through the lanes in turn and returns when each was where, by the GPU's own events."""
    import pycuda.driver as drv

    colours = colours_of(frame)
    with gpu.active():
        origin = drv.Event()
        origin.record(lanes[0].stream)
    spans: list[Span] = []
    flying: deque[tuple[int, Lane]] = deque()

    def land() -> None:
        number, lane = flying.popleft()
        lane.wait()
        spans.append(Span(number, *lane.span_ms(origin)))

    for index in range(frames):
        if len(flying) == len(lanes):
            land()
        lane = lanes[index % len(lanes)]
        lane.put(0, staged[index % len(lanes)], colours)
        lane.start()
        flying.append((index, lane))
    while flying:
        land()
    return spans


def overlap(spans: list[Span]) -> tuple[float, float]:
    """Returns how many frames were on the GPU at once on average, and the share of copying time hidden by computing.

    A copy is hidden while any other frame computes. The first and last frames, which run partly alone, don't count.
    """
    middle = spans[len(spans) // 4 : -max(1, len(spans) // 4)]
    if not middle:
        return 0.0, 0.0
    busy = sum(span.done_ms - span.copy_ms for span in middle)
    length = max(span.done_ms for span in middle) - min(span.copy_ms for span in middle)
    copying = sum(span.compute_ms - span.copy_ms for span in middle)
    hidden = 0.0
    for span in middle:
        others = sorted((o.compute_ms, o.done_ms) for o in spans if o.frame != span.frame)
        at = span.copy_ms
        for begin, end in others:
            begin, end = max(begin, at), min(end, span.compute_ms)
            if end > begin:
                hidden += end - begin
                at = end
    return busy / length, hidden / copying if copying else 0.0


def prepared_fps(detector: CudaDetector, pixels: list[Frame], frames: int, threads: int) -> float:
    """Returns frames a second through the detector, `threads` threads copying ordinary memory into page-locked memory.

    Args:
        detector: the detector.
        pixels: frames whose pixels are used in turn.
        frames: how many to run.
        threads: how many prepare frames, as capture threads do.
    """
    ready: queue.Queue[Frame] = queue.Queue(2)
    numbers = iter(range(frames))
    lock = threading.Lock()

    def prepare() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            frame = Frame(pixels[number % len(pixels)].pixels, "bench", number, 0.0, 0.0)
            detector.prepare(frame)
            ready.put(frame)

    workers = [threading.Thread(target=prepare, daemon=True) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for _ in range(frames):
        if detector.in_flight == detector.depth:
            detector.collect()
        detector.submit(ready.get())
    while detector.in_flight:
        detector.collect()
    taken_s = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return frames / taken_s


def batched_fps(lanes: list[Lane], batches: int) -> float:
    """Returns pictures a second through preprocessing, engine and decoding, pixels already on the GPU.

    Args:
        lanes: of one batch size, every picture described already; two keep the GPU busy between batches.
        batches: how many to run.
    """
    flying: deque[Lane] = deque()
    for lane in lanes:
        lane.start()
        lane.wait()
    began = time.perf_counter()
    for index in range(batches):
        lane = lanes[index % len(lanes)]
        if len(flying) == len(lanes):
            flying.popleft().wait()
            for picture in range(lane.batch):
                lane.detections(picture)
        lane.start()
        flying.append(lane)
    for lane in flying:
        lane.wait()
        for picture in range(lane.batch):
            lane.detections(picture)
    return batches * lanes[0].batch / (time.perf_counter() - began)
