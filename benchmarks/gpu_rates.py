"""How many frames a second the GPU path takes: from page-locked memory, prepared by threads, and from the GPU."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from dataclasses import dataclass

from streamer.cuda.gpu import Gpu
from streamer.cuda.slot import CudaSlot
from streamer.cuda.staging import StagedFrame
from streamer.detector.cuda import CudaDetector
from streamer.frames.frame import Frame


@dataclass(frozen=True)
class Span:
    """When one frame's copy started_at_s, its computing started_at_s, and it finished, in ms on the GPU's clock."""

    frame: int
    copy_ms: float
    compute_ms: float
    done_ms: float


def pinned_fps(slots: list[CudaSlot], staged: list[StagedFrame], frames: int, *, copies: bool = True) -> float:
    """Returns frames a second from page-locked memory to detections in host memory, slots in turn, one host thread.

    Args:
        slots: as many as frames in flight.
        staged: one staged frame for each slot.
        frames: how many to run.
        copies: False leaves the pixels on the GPU where they are: the rate of computing alone.
    """
    for slot, pixels in zip(slots, staged, strict=True):
        slot.put(0, pixels)
        slot.start()
        slot.wait()
    in_flight: deque[CudaSlot] = deque()
    started_at_s = time.perf_counter()
    for index in range(frames):
        slot = slots[index % len(slots)]
        if len(in_flight) == len(slots):
            in_flight.popleft().wait()
            slot.detections(0)
        if copies:
            slot.put(0, staged[index % len(slots)])
        slot.start()
        in_flight.append(slot)
    for slot in in_flight:
        slot.wait()
        slot.detections(0)
    return frames / (time.perf_counter() - started_at_s)


def timeline(gpu: Gpu, slots: list[CudaSlot], staged: list[StagedFrame], frames: int) -> list[Span]:
    """Runs frames through the slots in turn and returns each frame's times by the GPU's events."""
    import pycuda.driver as drv

    with gpu.active():
        origin = drv.Event()
        origin.record(slots[0].stream)
    spans: list[Span] = []
    in_flight: deque[tuple[int, CudaSlot]] = deque()

    def land() -> None:
        number, slot = in_flight.popleft()
        slot.wait()
        spans.append(Span(number, *slot.span_ms(origin)))

    for index in range(frames):
        if len(in_flight) == len(slots):
            land()
        slot = slots[index % len(slots)]
        slot.put(0, staged[index % len(slots)])
        slot.start()
        in_flight.append((index, slot))
    while in_flight:
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
    started_at_s = time.perf_counter()
    for worker in workers:
        worker.start()
    for _ in range(frames):
        if detector.in_flight == detector.depth:
            detector.collect()
        detector.submit(ready.get())
    while detector.in_flight:
        detector.collect()
    taken_s = time.perf_counter() - started_at_s
    for worker in workers:
        worker.join()
    return frames / taken_s


def batched_fps(slots: list[CudaSlot], batches: int) -> float:
    """Returns pictures a second through preprocessing, engine and decoding, pixels already on the GPU.

    Args:
        slots: of one batch size, every picture described already; several keep the GPU busy between batches.
        batches: how many to run.
    """
    in_flight: deque[CudaSlot] = deque()
    for slot in slots:
        slot.start()
        slot.wait()
    started_at_s = time.perf_counter()
    for index in range(batches):
        slot = slots[index % len(slots)]
        if len(in_flight) == len(slots):
            in_flight.popleft().wait()
            for picture in range(slot.batch):
                slot.detections(picture)
        slot.start()
        in_flight.append(slot)
    for slot in in_flight:
        slot.wait()
        for picture in range(slot.batch):
            slot.detections(picture)
    return batches * slots[0].batch / (time.perf_counter() - started_at_s)
