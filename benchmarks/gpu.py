"""``python -m benchmarks.gpu``: the GPU path's figures, each with its bound, in one run on one machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu_parts import copy_rate, device_copy_rate, host_median_ms, measure_parts
from benchmarks.gpu_rates import batched_fps, overlap, pinned_fps, prepared_fps, timeline
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu
from streamer.cuda.input_layout import FrameLayout
from streamer.cuda.kernels import Kernels
from streamer.cuda.slot import CudaSlot
from streamer.cuda.staging import StagedFrame, StagingPool
from streamer.detector.cuda import GPU_ENGINES, CudaDetector, open_cuda_detector, open_engine
from streamer.frames.frame import Frame
from streamer.frames.yuv_matrix import Matrix
from streamer.models.file import ModelFile, load_model
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model

SIZE_WH = (1920, 1080)
CONF, IOU = 0.4, 0.6
WANTED_LATENCY_MS = {"nanodet-g_416_float": 0.65, "nanodet-m_416": 0.80}
WANTED_FPS = {"nanodet-g_416_float": 4000.0}
WANTED_BATCH_FPS = {"nanodet-g_416_float": 10000.0}
_SLOTS = (1, 2, 3, 4, 6, 8)
_BATCH = 32
_STAGES = ("latency", "throughput", "batch", "growth", "peers")

Row = tuple[str, str, str, str]


class PlainYuv:
    """Planar YUV 4:2:0 made from a BGR picture, without a decoder.

    Attributes:
        y: (H, W) uint8 luma.
        u: (H/2, W/2) uint8 blue difference.
        v: the same shape, red difference.
        matrix: BT.601.
        full_range: False.
        size_wh: width and height in pixels.
    """

    def __init__(self, bgr: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        height, width = bgr.shape[:2]
        planes = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8).reshape(-1)
        pixels, quarter = width * height, width * height // 4
        self.y = planes[:pixels].reshape(height, width)
        self.u = planes[pixels : pixels + quarter].reshape(height // 2, width // 2)
        self.v = planes[pixels + quarter :].reshape(height // 2, width // 2)
        self.matrix, self.full_range = Matrix.BT601, False
        self.size_wh = (width, height)

    def to_bgr(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Returns the picture as (H, W, 3) uint8 BGR."""
        planes = np.concatenate([self.y.ravel(), self.u.ravel(), self.v.ravel()])
        return np.asarray(cv2.cvtColor(planes.reshape(-1, self.size_wh[0]), cv2.COLOR_YUV2BGR_I420), np.uint8)


class Bench:
    """One model on one GPU, shared by all stages."""

    def __init__(
        self, model: ModelFile, engine: str, picture: np.ndarray[Any, np.dtype[np.uint8]], smoke: bool
    ) -> None:
        self.model = model
        self.name = model.path.stem
        self.smoke = smoke
        self.gpu = Gpu(0)
        self.engine: CudaEngine = open_engine(engine, model, self.gpu, "auto", _BATCH)
        spec = model.spec
        self.spec = spec
        self.kernels = Kernels(self.gpu, self.engine, Postprocessor(spec, CONF, IOU))
        self.bgr = Frame(picture, "bench", 0, 0.0, 0.0)
        planes: Any = PlainYuv(picture)
        self.yuv = Frame(planes, "bench", 0, 0.0, 0.0)
        self.letterbox = Letterbox.for_model(self.bgr, spec)
        self.pool = StagingPool(self.gpu, 64)
        self.rows: list[Row] = []
        self.figures: dict[str, Any] = {"model": self.name, "engine": self.engine.name, "gpu": self.gpu.name}

    def repeats(self, full: int) -> int:
        """Returns how often to repeat."""
        return max(3, full // 100) if self.smoke else full

    def stage(self, frame: Frame, packable: bool = True) -> StagedFrame:
        """Returns a frame in page-locked memory."""
        staged = self.pool.stage(frame, self.letterbox, packable=packable)
        assert staged is not None, "the pool is far larger than what the benchmark holds"
        return staged

    def slots(self, count: int, batch: int = 1) -> list[CudaSlot]:
        """Returns new slots; the caller closes them."""
        return [CudaSlot(self.gpu, self.engine, self.kernels, (batch,)) for _ in range(count)]

    def note(self, what: str, wanted: str, measured: str, bound: str) -> None:
        """Adds a row and prints it at once."""
        self.rows.append((f"{self.name}: {what}", wanted, measured, bound))
        print(" | ".join(self.rows[-1]), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Frees everything."""
        self.pool.close()
        self.kernels.close()
        with self.gpu.active():
            self.engine.close()
        self.gpu.close()


def latency(bench: Bench) -> None:
    """One 1080p frame at a time, page-locked memory to detections in host memory."""
    (slot,) = bench.slots(1)
    wanted = WANTED_LATENCY_MS.get(bench.name)
    kinds = (("BGR, every row", bench.bgr, False), ("BGR", bench.bgr, True), ("YUV 4:2:0", bench.yuv, True))
    for label, frame, packable in kinds:
        staged = bench.stage(frame, packable)

        def one(staged: StagedFrame = staged) -> None:
            slot.put(0, staged)
            slot.start()
            slot.wait()
            slot.detections(0)

        taken_ms = host_median_ms(one, bench.repeats(1000))
        parts = measure_parts(bench.gpu, bench.engine, bench.kernels, bench.spec, frame, staged, 1, bench.repeats(200))
        least_ms = parts.copy_ms + parts.preprocess_ms + parts.network_ms + parts.decode_ms
        layout = staged.layout

        def fill(staged: StagedFrame = staged, frame: Frame = frame) -> None:
            staged.layout.fill(frame, staged.buffer.array)

        fill_ms = host_median_ms(fill, bench.repeats(200))
        bench.note(
            f"latency, {label}, {layout.nbytes / 1e6:.2f} MB copied",
            f"<= {wanted} ms" if wanted else "",
            f"{taken_ms:.3f} ms",
            f"{least_ms:.3f} ms: copy {parts.copy_ms:.3f} + preprocess {parts.preprocess_ms:.3f}"
            f" + network {parts.network_ms:.3f} + decode {parts.decode_ms:.3f}; (staging by the CPU: {fill_ms:.3f})",
        )
        bench.figures[f"latency_ms {label}"] = taken_ms
        bench.figures[f"parts_ms {label}"] = vars(parts) | {"staging_ms": fill_ms}
    slot.close()


def throughput(bench: Bench) -> None:
    """1080p frames from page-locked memory through 1 to 8 slots, and with threads that stage them."""
    frames = bench.repeats(6000)
    best: dict[str, tuple[float, int]] = {}
    compute = (0.0, 0)
    slots = bench.slots(max(_SLOTS))
    sources = (("BGR, every row", bench.bgr, False), ("BGR", bench.bgr, True), ("YUV 4:2:0", bench.yuv, True))
    for label, frame, packable in sources:
        staged = [bench.stage(frame, packable) for _ in slots]
        rates = {n: pinned_fps(slots[:n], staged[:n], frames) for n in _SLOTS}
        best[label] = max((fps, n) for n, fps in rates.items())
        bench.figures[f"fps by slots, {label}"] = rates
        if frame is bench.yuv:
            compute = max((pinned_fps(slots[:n], staged[:n], frames, copies=False), n) for n in _SLOTS)
            for n in (1, 3):
                spans = timeline(bench.gpu, slots[:n], staged[:n], 24)
                together, hidden = overlap(spans)
                bench.figures[f"timeline, {n} slots"] = [vars(span) for span in spans[8:16]]
                bench.note(
                    f"timeline, {n} slots", "", f"{together:.2f} frames at once", f"{hidden:.0%} of copying hidden"
                )
    bench.figures["compute_fps"] = compute
    wanted = WANTED_FPS.get(bench.name)
    for label, frame, packable in sources:
        nbytes = FrameLayout.of(frame, bench.letterbox, packable=packable).nbytes
        copies = copy_rate(bench.gpu, nbytes, bench.repeats(200)) / nbytes
        fps, count = best[label]
        bound = min(copies, compute[0])
        bench.note(
            f"frames from page-locked memory, {label}, {count} slots",
            f">= {wanted:.0f} fps" if wanted else "",
            f"{fps:.0f} fps",
            f"{bound:.0f} fps ({fps / bound:.0%}): copies {copies:.0f}, computing alone {compute[0]:.0f}"
            f" with {compute[1]} slots",
        )
    for slot in slots:
        slot.close()


def batch(bench: Bench) -> None:
    """Batches of 32 pictures that are in device memory already."""
    slots = bench.slots(2, _BATCH)
    staged = bench.stage(bench.yuv)
    for slot in slots:
        for index in range(_BATCH):
            slot.put(index, staged)
    fps = batched_fps(slots, bench.repeats(400))
    one = batched_fps(slots[:1], bench.repeats(400))
    parts = measure_parts(
        bench.gpu, bench.engine, bench.kernels, bench.spec, bench.yuv, staged, _BATCH, bench.repeats(100)
    )
    wanted = WANTED_BATCH_FPS.get(bench.name)
    bound = _BATCH / parts.network_ms * 1e3
    bench.note(
        f"batch {_BATCH}, pictures in device memory",
        f">= {wanted:.0f} /s" if wanted else "",
        f"{fps:.0f} /s ({one:.0f} one batch at a time)",
        f"{bound:.0f} /s ({fps / bound:.0%}), the bare network; preprocess {parts.preprocess_ms:.3f} ms,"
        f" network {parts.network_ms:.3f}, decode {parts.decode_ms:.3f} a batch",
    )
    bench.figures["batch_fps"] = fps
    for slot in slots:
        slot.close()


def growth(bench: Bench, detector: CudaDetector) -> None:
    """Growth of device and page-locked memory over many frames, and the rate with staging threads."""
    few, many = bench.repeats(500), bench.repeats(50_000)
    rng = np.random.default_rng(1)
    pool = [Frame(np.roll(bench.bgr.image, int(rng.integers(1000)), axis=1), "bench", i, 0.0, 0.0) for i in range(8)]
    planes: list[Any] = [PlainYuv(frame.image) for frame in pool]
    yuv = [Frame(pixels, "bench", i, 0.0, 0.0) for i, pixels in enumerate(planes)]
    threads = 4
    prepared_fps(detector, yuv, few, threads)
    before = (bench.gpu.memory_used(), bench.gpu.device_bytes, detector.pinned_bytes)
    fps = prepared_fps(detector, yuv, many, threads)
    after = (bench.gpu.memory_used(), bench.gpu.device_bytes, detector.pinned_bytes)
    grown = [b - a for a, b in zip(before, after, strict=True)]
    bench.note(
        f"memory after {many} frames less after {few}", "0 B", f"{grown[0]} B of the GPU, {grown[2]} B page-locked", ""
    )
    bench.note(
        f"YUV frames from ordinary memory, {threads} threads staging, {detector.depth} slots", "", f"{fps:.0f} fps", ""
    )
    bench.figures["growth_bytes"] = grown
    bench.figures["prepared_fps"] = fps
    bgr_fps = prepared_fps(detector, pool, bench.repeats(4000), threads)
    bench.note(f"BGR frames from ordinary memory, {threads} threads staging", "", f"{bgr_fps:.0f} fps", "")


def peers(bench: Bench, detector: CudaDetector) -> None:
    """The same frames one after another: this path, the CPU path, and the loop of tutorials on the same engine."""
    from benchmarks.gpu_peers import cpu_path_ms, tutorial_ms

    def ours() -> None:
        detector.submit(bench.bgr)
        detector.collect()

    ours_ms = host_median_ms(ours, bench.repeats(300))
    bench.note("one BGR frame in ordinary memory to detections", "", f"{ours_ms:.3f} ms", "")
    cpu = cpu_path_ms(bench.model, bench.bgr, bench.repeats(100))
    bench.note(f"the same on the CPU path ({cpu[1]})", "", f"{cpu[0]:.2f} ms", f"{cpu[0] / ours_ms:.1f} times ours")
    if bench.engine.name == "torch":
        loop_ms = tutorial_ms(bench.model, bench.bgr, bench.repeats(100))
        bench.note(
            "the same by a tutorial's loop, PyTorch FP16",
            "",
            f"{loop_ms:.2f} ms",
            f"{loop_ms / ours_ms:.1f} times ours",
        )


def picture_of(path: Path | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns a 1080p picture: from a file, or synthetic."""
    if path is None:
        rng = np.random.default_rng(0)
        small = rng.integers(0, 256, (27, 48, 3), np.uint8)
        return np.asarray(cv2.resize(small, SIZE_WH, interpolation=cv2.INTER_CUBIC), np.uint8)
    image = cv2.imread(str(path))
    if image is None:
        raise StreamerError(f"can't read the picture {str(path)!r}")
    return np.asarray(cv2.resize(image, SIZE_WH), np.uint8)


def run_model(name: str, options: argparse.Namespace) -> Bench:
    """Runs the chosen stages for one model and returns the figures."""
    path, spec = resolve_model(name)
    model = load_model(path, spec)
    started_at_s = time.perf_counter()
    bench = Bench(model, options.engine, picture_of(options.picture), options.smoke)
    simple: dict[str, Callable[[Bench], None]] = {"latency": latency, "throughput": throughput, "batch": batch}
    try:
        for stage in options.stages:
            if stage in simple:
                simple[stage](bench)
        if {"growth", "peers"} & set(options.stages):
            with open_cuda_detector(
                model,
                Postprocessor(model.spec, CONF, IOU),
                engine=options.engine,
                device="auto",
                precision="auto",
                depth=None,
            ) as detector:
                if "growth" in options.stages:
                    growth(bench, detector)
                if "peers" in options.stages:
                    peers(bench, detector)
    finally:
        bench.close()
    bench.figures["took_s"] = time.perf_counter() - started_at_s
    return bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table, and writes all figures where `--json` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["nanodet-g_416_float"], metavar="NAME|FILE")
    parser.add_argument("--engine", choices=("auto", *GPU_ENGINES), default="auto")
    parser.add_argument("--stages", nargs="+", choices=_STAGES, default=list(_STAGES))
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the picture of all frames; default: synthetic")
    parser.add_argument("--smoke", action="store_true", help="a few repeats of everything, to check that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    try:
        with Gpu(0) as gpu:
            rate = copy_rate(gpu, 64 << 20, 20)
            inside = device_copy_rate(gpu, 1 << 30, 5)
            print(
                f"{gpu.name}: host to device {rate / 1e9:.1f} GB/s, device memory {inside / 1e9:.0f} GB/s", flush=True
            )
        benches = [run_model(name, options) for name in options.models]
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown_table(("what", "wanted", "measured", "bound"), [row for bench in benches for row in bench.rows]))
    if options.json:
        content = {"copy_bytes_s": rate, "device_bytes_s": inside, "models": [bench.figures for bench in benches]}
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
