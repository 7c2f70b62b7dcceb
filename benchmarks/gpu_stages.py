"""What `benchmarks.gpu` measures of two engines, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu_parts import PartTimer, copy_rate, host_median_ms
from benchmarks.gpu_rates import batched_fps, overlap, pinned_fps, prepared_fps, timeline
from benchmarks.gpu_roofline import Bound, bound_of
from benchmarks.gpu_sides import BATCH, Bench, Goal, PlainYuv, Row, Side, Two
from benchmarks.gpu_start import caches_in, first_detection, footprint
from streamer.cuda.slot import CudaSlot
from streamer.detector.cuda import CudaDetector
from streamer.frames.frame import Frame

ENGINES = ("torch", "int8")
_SLOTS = (1, 2, 3, 4, 6, 8)
_MANY_SLOTS = max(_SLOTS)
_BATCH_SLOTS = 3
"""Batches in flight: with two, the GPU waits between batches; four gain 2 % more."""
_OWN_LAUNCHES = 3
"""Kernels around the network: preprocessing, and two that decode."""
_GOALS_OF_G = {
    "network, batch 1": Goal(0.16, 0.53),
    "latency": Goal(0.22, 0.6),
    "slots": Goal(18_000, 1.7),
    "batch": Goal(50_000, 1.9),
    "start, warm": Goal(1.5),
    "start, cold": Goal(15.0),
    "memory": Goal(None, 0.6),
}
_GOALS = {
    "network, batch 1": Goal(None, 1.0),
    f"network, batch {BATCH}": Goal(None, 1.4),
    "latency": Goal(None, 1.0),
    "slots": Goal(None, 1.0),
    "batch": Goal(None, 1.4),
}


def goal_of(model: str, row: str) -> Goal:
    """Returns what is wanted of a row for an INT8 file by the name of its stem."""
    return (_GOALS_OF_G if model == "nanodet-g_416" else _GOALS).get(row, Goal())


def starts(models: Sequence[Path], folders: Sequence[Path], warm: int) -> tuple[list[Row], list[Mapping[str, Any]]]:
    """Times the first detection of each side with an empty cache folder, then `warm` times with the filled one.

    Returns:
        The rows, and each side's figures.
    """
    taken: list[list[Mapping[str, float]]] = [[], []]
    for _ in range(1 + warm):
        for place, (model, folder) in enumerate(zip(models, folders, strict=True)):
            with caches_in(folder):
                taken[place].append(first_detection(model, ENGINES[place]))
    name = models[1].stem
    cold = Two(*(each[0]["start_s"] for each in taken))
    warmed = Two(*(median(one["start_s"] for one in each[1:]) for each in taken))
    rows = [
        Row("start of the process to the first detection, caches warm", "s", warmed, goal_of(name, "start, warm")),
        Row("the same, caches cold", "s", cold, goal_of(name, "start, cold")),
    ]
    return rows, [{"start_cold_s": each[0], "start_warm_s": each[1:]} for each in taken]


def footprints(models: Sequence[Path]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Measures the GPU memory of each side, in a process of its own, and counts its launches."""
    found = [footprint(model, engine, (1, BATCH)) for model, engine in zip(models, ENGINES, strict=True)]
    rows = []
    goal = goal_of(models[1].stem, "memory")
    for batch in ("1", str(BATCH)):
        for key, how in (("allocated_bytes", "the engine's allocator"), ("driver_bytes", "the driver")):
            what = f"GPU memory of the engine, batch {batch}, as {how} counts it"
            rows.append(Row(what, "MB", Two(*(one[batch][key] for one in found)), goal))
    return rows, [{"memory": one} for one in found]


def network(bench: Bench) -> None:
    """The networks alone in CUDA graphs, and each part around them."""
    for size in (1, BATCH):
        _network(bench, size)


def _network(bench: Bench, size: int) -> None:
    repeats = bench.repeats(200)
    timers: dict[str, PartTimer] = {}
    for side in bench.sides:
        timers[side.label] = PartTimer(bench.gpu, side.engine, side.kernels, side.stage(bench.yuv), size)
    taken = bench.in_turns(lambda side: timers[side.label].network_ms(repeats))
    bounds = [bound_of(side.cost, bench.rates, size) for side in bench.sides]
    for side, bound, ms in zip(bench.sides, bounds, taken, strict=True):
        side.figures[f"network_ms, batch {size}"] = ms
        side.figures[f"parts_ms, batch {size}"] = vars(timers[side.label].parts(repeats))
        side.figures[f"bound_ms, batch {size}"] = vars(bound) | {"limit": bound.limit}
        timers[side.label].close()
    goal = goal_of(bench.name, f"network, batch {size}")
    if size == 1:
        bench.note(Row("network alone, batch 1", "ms", taken, goal, _times(bounds)))
    else:
        rates = Two(*(size / ms * 1e3 for ms in taken))
        bench.note(Row(f"network alone, batch {size}, images", "/s", rates, goal, _rates(bounds, size)))


def latency(bench: Bench) -> None:
    """One 1080p frame at a time, page-locked memory to detections in host memory."""
    slots = {side.label: side.slots(1)[0] for side in bench.sides}
    for label, frame in (("YUV 4:2:0", bench.yuv), ("BGR", bench.bgr)):
        staged = {side.label: side.stage(frame) for side in bench.sides}

        def measure(side: Side, staged: Any = staged) -> float:
            slot, pixels = slots[side.label], staged[side.label]

            def one() -> None:
                slot.put(0, pixels)
                slot.start()
                slot.wait()
                slot.detections(0)

            return host_median_ms(one, bench.repeats(400))

        taken = bench.in_turns(measure)
        nbytes = staged[bench.sides[0].label].layout.nbytes
        copy_ms = nbytes / bench.rates.copy_bytes_s * 1e3
        words = []
        for side, ms in zip(bench.sides, taken, strict=True):
            bound = bound_of(side.cost, bench.rates, 1, more_launches=_OWN_LAUNCHES, more_bytes=nbytes)
            words.append(
                f"{side.label} {copy_ms + bound.ms:.3f} ms (copy {copy_ms:.3f} + {bound.limit} {bound.ms:.3f})"
            )
            side.figures[f"latency_ms {label}"] = ms
            staged[side.label].release()
        goal = goal_of(bench.name, "latency") if frame is bench.yuv else Goal()
        what = f"one 1080p frame, {label}, {nbytes / 1e6:.2f} MB, page-locked to detections"
        bench.note(Row(what, "ms", taken, goal, ", ".join(words)))
    _close(slots.values())


def throughput(bench: Bench) -> None:
    """1080p frames from page-locked memory through 1 to 8 slots."""
    frames = bench.repeats(4000)
    slots = {side.label: side.slots(_MANY_SLOTS) for side in bench.sides}
    for label, frame in (("YUV 4:2:0", bench.yuv), ("BGR", bench.bgr)):
        staged = {side.label: [side.stage(frame) for _ in range(_MANY_SLOTS)] for side in bench.sides}

        def measure(side: Side, staged: Any = staged, copies: bool = True) -> float:
            return pinned_fps(slots[side.label], staged[side.label], frames, copies=copies)

        taken = bench.in_turns(measure)
        computing = bench.in_turns(partial(measure, copies=False))
        nbytes = staged[bench.sides[0].label][0].layout.nbytes
        copies = copy_rate(bench.gpu, nbytes, bench.repeats(200)) / nbytes
        bounds = [
            f"{side.label} {min(copies, alone):.0f} /s ({'copies' if copies < alone else 'computing'} alone)"
            for side, alone in zip(bench.sides, computing, strict=True)
        ]
        goal = goal_of(bench.name, "slots") if frame is bench.yuv else Goal()
        what = f"frames, {label}, from page-locked memory, {_MANY_SLOTS} slots"
        bench.note(Row(what, "/s", taken, goal, f"{', '.join(bounds)}; copies {copies:.0f}"))
        for side, fps, alone in zip(bench.sides, taken, computing, strict=True):
            side.figures[f"fps, {label}"] = {"fps": fps, "copies": copies, "compute": alone}
            if frame is bench.yuv:
                _by_slots(bench, side, slots[side.label], staged[side.label])
            for one in staged[side.label]:
                one.release()
    _close(slot for each in slots.values() for slot in each)


def _by_slots(bench: Bench, side: Side, slots: list[CudaSlot], staged: list[Any]) -> None:
    """Notes the rate by the number of slots, and how much of the copying computing hides, in the side's figures."""
    frames = bench.repeats(2000)
    side.figures["fps by slots, YUV 4:2:0"] = {n: pinned_fps(slots[:n], staged[:n], frames) for n in _SLOTS}
    for n in (1, 3):
        spans = timeline(bench.gpu, slots[:n], staged[:n], 24)
        together, hidden = overlap(spans)
        side.figures[f"timeline, {n} slots"] = {
            "frames_at_once": together, "copying_hidden": hidden, "spans": [vars(span) for span in spans[8:16]],
        }  # fmt: skip


def batch(bench: Bench) -> None:
    """Batches of 32 pictures that are in device memory already."""
    slots = {side.label: side.slots(_BATCH_SLOTS, BATCH) for side in bench.sides}
    nbytes = 0
    for side in bench.sides:
        staged = side.stage(bench.yuv)
        nbytes = staged.layout.nbytes
        for slot in slots[side.label]:
            for index in range(BATCH):
                slot.put(index, staged)
            slot.start()
            slot.wait()
        staged.release()
    taken = bench.in_turns(lambda side: batched_fps(slots[side.label], bench.repeats(200)))
    bounds = [
        bound_of(side.cost, bench.rates, BATCH, more_launches=_OWN_LAUNCHES, more_bytes=nbytes) for side in bench.sides
    ]
    what = f"batch {BATCH}, 1080p YUV pictures in device memory to detections, {_BATCH_SLOTS} slots"
    bench.note(Row(what, "/s", taken, goal_of(bench.name, "batch"), _rates(bounds, BATCH)))
    for side, fps in zip(bench.sides, taken, strict=True):
        side.figures["batch_fps"] = fps
    _close(slot for each in slots.values() for slot in each)


def growth(bench: Bench, detector: CudaDetector) -> None:
    """Growth of device and page-locked memory over many frames of the INT8 engine; the rate with staging threads."""
    few, many, threads = 500, bench.repeats(50_000), 4
    rng = np.random.default_rng(1)
    planes: list[Any] = [PlainYuv(np.roll(bench.bgr.image, int(rng.integers(1000)), axis=1)) for _ in range(8)]
    yuv = [Frame(pixels, "bench", index, 0.0, 0.0) for index, pixels in enumerate(planes)]
    prepared_fps(detector, yuv, few, threads)
    before = (bench.gpu.memory_used(), detector.pinned_bytes)
    fps = prepared_fps(detector, yuv, many, threads)
    grown = [now - then for now, then in zip((bench.gpu.memory_used(), detector.pinned_bytes), before, strict=True)]
    bench.note(Row(f"GPU memory after {many} frames less after {few}", "MB", (None, grown[0]), Goal(0)))
    bench.note(Row("page-locked memory, the same", "MB", (None, grown[1]), Goal(0)))
    what = f"YUV frames from ordinary memory, {threads} threads staging, {detector.depth} slots"
    bench.note(Row(what, "/s", (None, fps)))
    bench.sides[1].figures |= {"growth_bytes": grown, "prepared_fps": fps}


def peers(bench: Bench, detector: CudaDetector) -> None:
    """The same frames one after another: this path, the CPU path, and the loop of tutorials in FP16."""
    from benchmarks.gpu_peers import cpu_path_ms, tutorial_ms

    def ours() -> None:
        detector.submit(bench.bgr)
        detector.collect()

    ours_ms = host_median_ms(ours, bench.repeats(300))
    cpu_ms, cpu_engine = cpu_path_ms(bench.sides[1].model, bench.bgr, bench.repeats(100))
    loop_ms = tutorial_ms(bench.sides[0].model, bench.bgr, bench.repeats(100))
    bench.note(
        Row("one BGR frame in ordinary memory to detections; FP16: by a tutorial's loop", "ms", (loop_ms, ours_ms))
    )
    bench.note(Row(f"the same on the CPU ({cpu_engine})", "ms", (None, cpu_ms)))


def _times(bounds: Sequence[Bound]) -> str:
    return ", ".join(
        f"{name} {one.ms:.3f} ms ({one.limit})" for name, one in zip(("FP16", "INT8"), bounds, strict=True)
    )


def _rates(bounds: Sequence[Bound], batch: int) -> str:
    return ", ".join(
        f"{name} {batch / one.ms * 1e3:.0f} /s ({one.limit})"
        for name, one in zip(("FP16", "INT8"), bounds, strict=True)
    )


def _close(slots: Iterable[CudaSlot]) -> None:
    for slot in slots:
        slot.close()
