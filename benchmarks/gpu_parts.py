"""The rates of a GPU, its bus and each part of the GPU path alone: the bounds of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from streamer.cuda.engine import CudaEngine, Launch
from streamer.cuda.gpu import NON_BLOCKING, Gpu
from streamer.cuda.input_layout import PICTURE_DTYPE
from streamer.cuda.kernels import CANDIDATE_CAPACITY, RESULT_DTYPE, Kernels
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.cuda.staging import StagedFrame


@dataclass(frozen=True)
class Parts:
    """Milliseconds on the GPU that one batch takes in each part alone.

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


class PartTimer:
    """Times every part of the path alone, for copies of one staged frame, as often as asked."""

    def __init__(self, gpu: Gpu, engine: CudaEngine, kernels: Kernels, staged: StagedFrame, batch: int) -> None:
        """Allocates all memory, and captures the engine's graph for `batch` pictures; `close` releases `staged`."""
        import pycuda.driver as drv

        spec, layout = kernels.spec, staged.layout
        width, height = spec.input_size_wh
        sizes = {
            "pixels": layout.nbytes,
            "pictures": batch * PICTURE_DTYPE.itemsize,
            "input": batch * engine.input_pitch * width * height * engine.input_type.itemsize,
            "output": batch * spec.num_points * spec.output_channels * engine.output_type.itemsize,
            "found": 4 * batch,
            "keys": 8 * batch * CANDIDATE_CAPACITY,
            "boxes": 16 * batch * CANDIDATE_CAPACITY,
        }
        self._gpu, self._kernels, self._batch = gpu, kernels, batch
        self._staged, self._pixels = staged, staged.buffer.array[: layout.nbytes]
        self._held = {name: DeviceBuffer(gpu, nbytes) for name, nbytes in sizes.items()}
        self._at = at = {name: buffer.address for name, buffer in self._held.items()}
        self._results = PinnedBuffer(gpu, batch * RESULT_DTYPE.itemsize)
        described = layout.describe(at["pixels"], staged.colours)
        self._held["pictures"].write(np.repeat(described[None], batch))
        gpu.synchronize()  # the memory is zeroed on another stream
        with gpu.active():
            self._stream: Any = drv.Stream(NON_BLOCKING)
            drv.memcpy_htod_async(at["pixels"], self._pixels, self._stream)
            kernels.letterbox(self._stream, at["pictures"], at["input"], batch)
            self._binding = engine.bind(batch, at["input"], at["output"], int(self._stream.handle))
            self._network: Launch | None = self._binding.capture(self._binding.enqueue) or self._binding.enqueue
            self._network()
            self._stream.synchronize()

    def copy_ms(self, repeats: int) -> float:
        """Returns the median time of the copy of one picture."""
        import pycuda.driver as drv

        at, pixels, stream = self._at["pixels"], self._pixels, self._stream
        return gpu_median_ms(self._gpu, stream, lambda: drv.memcpy_htod_async(at, pixels, stream), repeats, inner=4)

    def preprocess_ms(self, repeats: int) -> float:
        """Returns the median time of the preprocessing kernel."""
        at, stream = self._at, self._stream
        return gpu_median_ms(
            self._gpu, stream, lambda: self._kernels.letterbox(stream, at["pictures"], at["input"], self._batch),
            repeats, inner=8,
        )  # fmt: skip

    def network_ms(self, repeats: int) -> float:
        """Returns the median time of the engine alone, in a CUDA graph."""
        assert self._network is not None, "not closed"
        return gpu_median_ms(self._gpu, self._stream, self._network, repeats)

    def decode_ms(self, repeats: int) -> float:
        """Returns the median time of the kernels behind the network."""
        at = self._at

        def decode() -> None:
            self._kernels.decode(
                self._stream, at["pictures"], at["output"], at["found"], at["keys"], at["boxes"],
                self._results.address, self._batch,
            )  # fmt: skip

        return gpu_median_ms(self._gpu, self._stream, decode, repeats, inner=8)

    def parts(self, repeats: int) -> Parts:
        """Times every part."""
        return Parts(
            self.copy_ms(repeats), self.preprocess_ms(repeats), self.network_ms(repeats), self.decode_ms(repeats)
        )

    def close(self) -> None:
        """Frees everything."""
        with self._gpu.active():
            self._stream.synchronize()
            self._network = None
            self._binding.close()
        for buffer in self._held.values():
            buffer.free()
        self._results.free()
        self._staged.release()


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
