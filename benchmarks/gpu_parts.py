"""The rates of a GPU, its bus and each part of the GPU path alone: the bounds of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu
from streamer.cuda.input_layout import PICTURE_DTYPE
from streamer.cuda.kernels import CANDIDATE_CAPACITY, RESULT_DTYPE, Kernels
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.cuda.staging import StagedFrame
from streamer.frames.frame import Frame
from streamer.models.spec import ModelSpec


@dataclass(frozen=True)
class Parts:
    """Milliseconds on the GPU that one batch takes in each part alone, and the rates of memory.

    Attributes:
        copy_ms: from page-locked memory to the GPU, one picture.
        preprocess_ms: letterbox, resize, normalise.
        network_ms: the engine alone, in a graph.
        decode_ms: threshold, boxes, NMS, results into page-locked memory.
    """

    copy_ms: float
    preprocess_ms: float
    network_ms: float
    decode_ms: float


def host_median_ms(body: Callable[[], object], repeats: int) -> float:
    """Returns the median wall time of `body`, after a few warm-up runs."""
    for _ in range(min(20, repeats)):
        body()
    taken = []
    for _ in range(repeats):
        started_at_s = time.perf_counter()
        body()
        taken.append((time.perf_counter() - started_at_s) * 1e3)
    return median(taken)


def gpu_median_ms(gpu: Gpu, stream: Any, body: Callable[[], object], repeats: int, inner: int = 1) -> float:
    """Returns the median time between events before and after `inner` runs of `body` on a stream, for one run."""
    import pycuda.driver as drv

    taken = []
    with gpu.active():
        before, after = drv.Event(), drv.Event()
        for _ in range(5):
            body()
        for _ in range(repeats):
            before.record(stream)
            for _ in range(inner):
                body()
            after.record(stream)
            after.synchronize()
            taken.append(float(before.time_till(after)) / inner)
    return median(taken)


def copy_rate(gpu: Gpu, nbytes: int, repeats: int) -> float:
    """Returns the rate of copies of `nbytes` from page-locked memory to the GPU, in bytes a second."""
    import pycuda.driver as drv

    with _buffers(gpu, nbytes) as (device, host, stream):
        taken_ms = gpu_median_ms(
            gpu, stream, lambda: drv.memcpy_htod_async(device.address, host.array, stream), repeats, inner=8
        )
    return nbytes / taken_ms * 1e3


def device_copy_rate(gpu: Gpu, nbytes: int, repeats: int) -> float:
    """Returns the rate of copies within the GPU's memory in bytes a second, read and written bytes both counted."""
    import pycuda.driver as drv

    with _buffers(gpu, nbytes) as (device, _, stream):
        other = DeviceBuffer(gpu, nbytes)
        taken_ms = gpu_median_ms(
            gpu, stream, lambda: drv.memcpy_dtod_async(other.address, device.address, nbytes, stream), repeats, inner=4
        )
        other.free()
    return 2 * nbytes / taken_ms * 1e3


def measure_parts(
    gpu: Gpu, engine: CudaEngine, kernels: Kernels, spec: ModelSpec, frame: Frame, staged: StagedFrame, batch: int,
    repeats: int,
) -> Parts:  # fmt: skip
    """Times every part of the path alone, for `batch` copies of one staged frame."""
    import pycuda.driver as drv

    width, height = spec.input_size_wh
    layout = staged.layout
    sizes = {
        "pixels": layout.nbytes,
        "pictures": batch * PICTURE_DTYPE.itemsize,
        "input": batch * engine.input_pitch * width * height * engine.input_type.itemsize,
        "output": batch * spec.num_points * spec.output_channels * engine.output_type.itemsize,
        "found": 4 * batch,
        "keys": 8 * batch * CANDIDATE_CAPACITY,
        "boxes": 16 * batch * CANDIDATE_CAPACITY,
    }
    held = {name: DeviceBuffer(gpu, nbytes) for name, nbytes in sizes.items()}
    at = {name: buffer.address for name, buffer in held.items()}
    results = PinnedBuffer(gpu, batch * RESULT_DTYPE.itemsize)
    held["pictures"].write(np.repeat(layout.describe(at["pixels"], staged.colours)[None], batch))
    with gpu.active():
        stream = drv.Stream()
        pixels = staged.buffer.array[: layout.nbytes]
        copy_ms = gpu_median_ms(
            gpu, stream, lambda: drv.memcpy_htod_async(at["pixels"], pixels, stream), repeats, inner=4
        )
        preprocess_ms = gpu_median_ms(
            gpu, stream, lambda: kernels.letterbox(stream, at["pictures"], at["input"], batch), repeats, inner=8
        )
        binding = engine.bind(batch, at["input"], at["output"], int(stream.handle))
        network = binding.capture(binding.enqueue) or binding.enqueue
        network_ms = gpu_median_ms(gpu, stream, network, repeats)
        stream.synchronize()

        def decode() -> None:
            kernels.decode(
                stream, at["pictures"], at["output"], at["found"], at["keys"], at["boxes"], results.address, batch
            )

        decode_ms = gpu_median_ms(gpu, stream, decode, repeats, inner=8)
        stream.synchronize()
        binding.close()
    for buffer in held.values():
        buffer.free()
    results.free()
    return Parts(copy_ms, preprocess_ms, network_ms, decode_ms)


@contextmanager
def _buffers(gpu: Gpu, nbytes: int) -> Iterator[tuple[DeviceBuffer, PinnedBuffer, Any]]:
    import pycuda.driver as drv

    device, host = DeviceBuffer(gpu, nbytes), PinnedBuffer(gpu, nbytes)
    with gpu.active():
        stream = drv.Stream()
    try:
        yield device, host, stream
    finally:
        device.free()
        host.free()
