"""One slot of the GPU path: its own stream, buffers and CUDA graph, from the copy of the pixels to the results."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.cuda.driver_copy import copy_to_device
from streamer.cuda.engine import Binding, CudaEngine, Launch
from streamer.cuda.gpu import NON_BLOCKING, Gpu
from streamer.cuda.input_layout import PICTURE_DTYPE
from streamer.cuda.kernels import CANDIDATE_CAPACITY, RESULT_DTYPE, Kernels, to_detections
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.cuda.staging import StagedFrame
from streamer.cuda.status import checking
from streamer.frames.detections import Detections

_BLANK: npt.NDArray[np.void] = np.zeros((), PICTURE_DTYPE)
"""A picture resized to nothing: all of the network's input is padding."""
_BLACK = "black"


class CudaSlot:
    """Runs batches of a few sizes, one at a time, on its own stream; slots run in parallel.

    For each batch: `put` (or `describe`) every picture, `start`, `wait`, `detections`. Everything from preprocessing
    to the results, which the GPU writes into page-locked memory, is one CUDA graph for each batch size where graphs
    are available. A batch of another size takes the next larger one, filled up with black.

    Attributes:
        batch: the largest batch.
        stream: the PyCUDA stream.
        graphed: whether graphs were captured.
    """

    def __init__(self, gpu: Gpu, engine: CudaEngine, kernels: Kernels, sizes: Collection[int] = (1,)) -> None:
        """Allocates all memory, warms the engine up and captures a graph for each batch size."""
        import pycuda.driver as drv

        self._spec = spec = kernels.spec
        width, height = spec.input_size_wh
        self.batch = batch = max(sizes)
        values = batch * spec.num_points * spec.output_channels
        self._gpu = gpu
        self._kernels = kernels
        self._input_type, self._output_type = engine.input_type, engine.output_type
        self._owned: list[DeviceBuffer | PinnedBuffer] = []
        self._pixels: list[DeviceBuffer | None] = [None] * batch
        self._bindings: dict[int, Binding] = {}
        self._launches: dict[int, Launch | None] = {}
        with gpu.active(), checking("make a stream"):
            self.stream: Any = drv.Stream(NON_BLOCKING)
            self._started, self._copied, self._finished = drv.Event(), drv.Event(), drv.Event()
        try:
            self._pictures = self._device(batch * PICTURE_DTYPE.itemsize)
            self._input = self._device(batch * engine.input_pitch * height * width * engine.input_type.itemsize)
            self._output = self._device(values * engine.output_type.itemsize)
            self._found = self._device(4 * batch)
            self._keys = self._device(8 * batch * CANDIDATE_CAPACITY)
            self._boxes = self._device(16 * batch * CANDIDATE_CAPACITY)
            self._host_pictures = self._pinned(batch * PICTURE_DTYPE.itemsize)
            self._host_results = self._pinned(batch * RESULT_DTYPE.itemsize)
            self._descriptions = np.asarray(self._host_pictures.array).view(PICTURE_DTYPE)
            self._described: list[object] = [_BLACK] * batch
            self._is_changed = self._has_started = False
            self._ready_events: list[Any] = []
            self._results = np.asarray(self._host_results.array).view(RESULT_DTYPE)
            self._pictures.write(np.zeros(batch, PICTURE_DTYPE))
            gpu.synchronize()  # allocations are zeroed on the default stream, for which this stream doesn't wait
            for size in sorted(sizes):
                self._prepare(engine, size)
        except BaseException:
            self.close()
            raise

    @property
    def graphed(self) -> bool:
        return all(launch is not None for launch in self._launches.values())

    def put(self, index: int, staged: StagedFrame) -> None:
        """Starts copying a staged frame to the GPU as picture `index` of the batch.

        The caller keeps `staged` until `wait` returns.
        """
        layout = staged.layout
        pixels = self._pixels[index]
        if pixels is None or pixels.nbytes < layout.nbytes:
            if pixels is not None:
                pixels.free()
            self._pixels[index] = pixels = DeviceBuffer(self._gpu, layout.nbytes, zeroed=False)
        known = (layout, staged.colours, pixels.address)
        if known != self._described[index]:
            self.describe(index, layout.describe(pixels.address, staged.colours))
            self._described[index] = known
        with self._gpu.active(), checking("copy a frame to the GPU"):
            self._record_start()
            copy_to_device(pixels.address, staged.buffer.address, layout.nbytes, self.stream.handle)

    def describe(self, index: int, picture: npt.NDArray[np.void], ready_event: Any = None) -> None:
        """Sets picture `index` of the batch, a `PICTURE_DTYPE` of pixels in device memory, complete after the event."""
        self._descriptions[index] = picture
        self._described[index] = None
        self._is_changed = True
        if ready_event is not None:
            self._ready_events.append(ready_event)

    def _record_start(self) -> None:
        """Records the start of the batch once; the context must be current."""
        if not self._has_started:
            self._started.record(self.stream)
            self._has_started = True

    def start(self, count: int | None = None) -> None:
        """Starts computing the batch's first `count` pictures, or all; returns at once."""
        count = count or self.batch
        size = min(size for size in self._bindings if size >= count)
        for index in range(count, size):  # the memory of an earlier picture may be freed
            if self._described[index] != _BLACK:
                self.describe(index, _BLANK)
                self._described[index] = _BLACK
        with self._gpu.active(), checking("start a frame"):
            self._record_start()
            self._has_started = False
            for event in self._ready_events:
                self.stream.wait_for_event(event)
            self._ready_events.clear()
            if self._is_changed:
                source = self._host_pictures
                copy_to_device(self._pictures.address, source.address, source.nbytes, self.stream.handle)
                self._is_changed = False
            self._copied.record(self.stream)
            launch = self._launches[size]
            if launch is not None:
                launch()
            else:
                self._enqueue(size)
            self._finished.record(self.stream)

    def wait(self) -> float:
        """Waits for the batch.

        Returns:
            Milliseconds on the GPU from the start of the first copy to the last result.
        """
        with self._gpu.active(), checking("compute a frame"):
            self._finished.synchronize()
            return float(self._started.time_till(self._finished))

    def span_ms(self, origin: Any) -> tuple[float, float, float]:
        """Returns when the last batch's copy began, its computing began, and it ended, in ms since a PyCUDA event."""
        with self._gpu.active(), checking("read times"):
            started, copied, finished = (
                float(event.time_since(origin)) for event in (self._started, self._copied, self._finished)
            )
        return started, copied, finished

    def detections(self, index: int) -> Detections | None:
        """Returns a picture's detections; None when the candidates exceeded `CANDIDATE_CAPACITY`."""
        return to_detections(self._results, index, self._spec.labels)

    def output(self, index: int) -> npt.NDArray[np.float32]:
        """Copies a picture's raw network output to the host, (N, channels) float32."""
        whole = np.empty((self.batch, self._spec.num_points, self._spec.output_channels), self._output_type)
        self._output.read(whole)
        return whole[index].astype(np.float32)

    def network_input(self) -> npt.NDArray[np.floating]:
        """Copies the network's input to the host, flat, in the engine's type and layout; for checks."""
        values = np.empty(self._input.nbytes // self._input_type.itemsize, self._input_type)
        self._input.read(values)
        return values

    def close(self) -> None:
        """Waits for the stream and frees all memory. Safe to call twice."""
        with self._gpu.active():
            self.stream.synchronize()
            self._launches.clear()
            for binding in self._bindings.values():
                binding.close()
            self._bindings.clear()
        for buffer in [*self._owned, *(pixels for pixels in self._pixels if pixels is not None)]:
            buffer.free()

    def _prepare(self, engine: CudaEngine, size: int) -> None:
        """Binds the engine for one batch size, runs it, and captures its graph."""
        with self._gpu.active():
            binding = engine.bind(size, self._input.address, self._output.address, int(self.stream.handle))
            self._bindings[size] = binding
            self._enqueue(size)
            self.stream.synchronize()
            self._launches[size] = binding.capture(lambda: self._enqueue(size))

    def _enqueue(self, size: int) -> None:
        pictures = self._pictures.address
        self._kernels.letterbox(self.stream, pictures, self._input.address, size)
        self._bindings[size].enqueue()
        self._kernels.decode(
            self.stream, pictures, self._output.address, self._found.address, self._keys.address,
            self._boxes.address, self._host_results.address, size,
        )  # fmt: skip

    def _device(self, nbytes: int) -> DeviceBuffer:
        self._owned.append(buffer := DeviceBuffer(self._gpu, nbytes))
        return buffer

    def _pinned(self, nbytes: int) -> PinnedBuffer:
        self._owned.append(buffer := PinnedBuffer(self._gpu, nbytes))
        return buffer
