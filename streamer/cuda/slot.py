"""One slot of the GPU path: its own stream, buffers and graph; copy in, preprocess, engine, decode, results out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.cuda.driver_copy import copy_to_device
from streamer.cuda.engine import Binding, CudaEngine, Launch
from streamer.cuda.gpu import NON_BLOCKING, Gpu
from streamer.cuda.input_layout import PICTURE_DTYPE
from streamer.cuda.kernels import Kernels
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.cuda.result import RESULT_DTYPE, ROOM, to_detections
from streamer.cuda.staging import Staged
from streamer.cuda.status import checking
from streamer.frames.detections import Detections
from streamer.frames.yuv_matrix import Matrix
from streamer.models.spec import ModelSpec

_BLANK: npt.NDArray[np.void] = np.zeros((), PICTURE_DTYPE)
"""A picture resized to nothing: all of the network's input is padding."""
_BLACK = "black"


class Lane:
    """Runs batches of a few sizes, one at a time, all on one stream. Lanes run side by side.

    For each batch: `put` (or `describe`) every picture, `start`, `wait`, `detections`. Everything from preprocessing
    to the results, which the GPU writes into page-locked memory itself, is one CUDA graph for each size where graphs
    can be had. A batch that isn't full takes the next larger size, filled up with black.

    Attributes:
        batch: most pictures at a time.
        stream: the PyCUDA stream.
        graphed: whether a graph was captured.
    """

    def __init__(
        self, gpu: Gpu, engine: CudaEngine, kernels: Kernels, spec: ModelSpec, sizes: Collection[int] = (1,)
    ) -> None:
        """Allocates everything, warms the engine up and captures the graphs.

        Args:
            gpu: where.
            engine: has loaded the network.
            kernels: for this engine's types.
            spec: the network's.
            sizes: the batch sizes to have ready.

        Raises:
            EngineError: if there isn't enough memory, or the engine refuses.
        """
        import pycuda.driver as drv

        width, height = spec.input_size_wh
        batch = max(sizes)
        values = batch * spec.num_points * spec.output_channels
        self.batch = batch
        self._gpu = gpu
        self._kernels = kernels
        self._spec = spec
        self._input_type, self._output_type = engine.input_type, engine.output_type
        self._owned: list[DeviceBuffer | PinnedBuffer] = []
        self._pixels: list[DeviceBuffer | None] = [None] * batch
        self._bindings: dict[int, Binding] = {}
        self._launches: dict[int, Launch | None] = {}
        with gpu.active(), checking("make a stream"):
            self.stream: Any = drv.Stream(NON_BLOCKING)
            self._began, self._copied, self._ended = drv.Event(), drv.Event(), drv.Event()
        try:
            self._pictures = self._device(batch * PICTURE_DTYPE.itemsize)
            self._input = self._device(batch * 3 * height * width * engine.input_type.itemsize)
            self._output = self._device(values * engine.output_type.itemsize)
            self._found = self._device(4 * batch)
            self._keys = self._device(8 * batch * ROOM)
            self._boxes = self._device(16 * batch * ROOM)
            self._host_pictures = self._pinned(batch * PICTURE_DTYPE.itemsize)
            self._host_results = self._pinned(batch * RESULT_DTYPE.itemsize)
            self._pictures_now = np.asarray(self._host_pictures.array).view(PICTURE_DTYPE)
            self._described: list[object] = [_BLACK] * batch
            self._is_described_anew = self._has_begun = False
            self._awaited: list[Any] = []
            self._results = np.asarray(self._host_results.array).view(RESULT_DTYPE)
            self._pictures.write(np.zeros(batch, PICTURE_DTYPE))
            gpu.synchronize()  # what others put on the default stream to get ready: this lane's stream doesn't wait
            for size in sorted(sizes):
                self._make_ready(engine, size)
        except BaseException:
            self.close()
            raise

    @property
    def graphed(self) -> bool:
        return all(launch is not None for launch in self._launches.values())

    def put(self, index: int, staged: Staged, colours: tuple[Matrix, bool] | None) -> None:
        """Starts copying a staged picture to the GPU; `staged` must be kept until the batch was waited for.

        Args:
            index: place in the batch.
            staged: its pixels.
            colours: YUV matrix and range, None for BGR.

        Raises:
            EngineError: if there isn't enough memory, or the copy is refused.
        """
        layout = staged.layout
        pixels = self._pixels[index]
        if pixels is None or pixels.nbytes < layout.nbytes:
            if pixels is not None:
                pixels.free()
            self._pixels[index] = pixels = DeviceBuffer(self._gpu, layout.nbytes, zeroed=False)
        known = (layout, colours, pixels.address)
        if known != self._described[index]:
            self.describe(index, layout.describe(pixels.address, colours))
            self._described[index] = known
        with self._gpu.active(), checking("copy a frame to the GPU"):
            self._begin()
            copy_to_device(pixels.address, staged.buffer.address, layout.nbytes, self.stream.handle)

    def describe(self, index: int, picture: npt.NDArray[np.void], written: Any = None) -> None:
        """Sets a picture that lies in device memory already; all go to the GPU with `start`.

        Args:
            index: place in the batch.
            picture: one `PICTURE_DTYPE`.
            written: the event behind which it is complete; None where it is.
        """
        self._pictures_now[index] = picture
        self._described[index] = None
        self._is_described_anew = True
        if written is not None:
            self._awaited.append(written)

    def _begin(self) -> None:
        """Records the batch's beginning; the context is current."""
        if not self._has_begun:
            self._began.record(self.stream)
            self._has_begun = True

    def start(self, count: int | None = None) -> None:
        """Starts computing the batch; returns at once.

        Args:
            count: how many pictures of it were put, from the first on; None says all.

        Raises:
            EngineError: if the engine refuses.
        """
        count = count or self.batch
        size = min(size for size in self._bindings if size >= count)
        for index in range(count, size):  # what lay there before may be gone
            if self._described[index] != _BLACK:
                self.describe(index, _BLANK)
                self._described[index] = _BLACK
        with self._gpu.active(), checking("start a frame"):
            self._begin()
            self._has_begun = False
            for written in self._awaited:
                self.stream.wait_for_event(written)
            self._awaited.clear()
            if self._is_described_anew:
                pictures = self._host_pictures
                copy_to_device(self._pictures.address, pictures.address, pictures.nbytes, self.stream.handle)
                self._is_described_anew = False
            self._copied.record(self.stream)
            launch = self._launches[size]
            if launch is not None:
                launch()
            else:
                self._enqueue(size)
            self._ended.record(self.stream)

    def wait(self) -> float:
        """Waits for the batch.

        Returns:
            Milliseconds on the GPU from the first copy's start to the last result.

        Raises:
            EngineError: if computing failed.
        """
        with self._gpu.active(), checking("compute a frame"):
            self._ended.synchronize()
            return float(self._began.time_till(self._ended))

    def span_ms(self, origin: Any) -> tuple[float, float, float]:
        """Returns when the last batch's copy began, its computing began, and its results were there.

        Args:
            origin: a PyCUDA event recorded earlier; all three are milliseconds since it.
        """
        with self._gpu.active(), checking("read times"):
            began, copied, ended = (float(e.time_since(origin)) for e in (self._began, self._copied, self._ended))
        return began, copied, ended

    def detections(self, index: int) -> Detections | None:
        """Returns a picture's detections; None when more candidates were above the threshold than there is room for."""
        return to_detections(self._results, index)

    def output(self, index: int) -> npt.NDArray[np.float32]:
        """Copies a picture's raw network output to the host, (N, channels) float32.

        Raises:
            EngineError: if the copy fails.
        """
        whole = np.empty((self.batch, self._spec.num_points, self._spec.output_channels), self._output_type)
        self._output.read(whole)
        return whole[index].astype(np.float32)

    def network_input(self) -> npt.NDArray[np.floating]:
        """Copies the network's input to the host, flat, in the engine's own type and layout; for checks.

        Raises:
            EngineError: if the copy fails.
        """
        values = np.empty(self._input.nbytes // self._input_type.itemsize, self._input_type)
        self._input.read(values)
        return values

    def close(self) -> None:
        """Waits for the stream and frees everything. Safe to call twice."""
        with self._gpu.active():
            self.stream.synchronize()
            self._launches.clear()
            for binding in self._bindings.values():
                binding.close()
            self._bindings.clear()
        for buffer in [*self._owned, *(pixels for pixels in self._pixels if pixels is not None)]:
            buffer.free()

    def _make_ready(self, engine: CudaEngine, size: int) -> None:
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
