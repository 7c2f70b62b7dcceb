"""The project's own kernels, ready to be put on a stream for one model at fixed thresholds."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from streamer.cuda.compiler import cubin
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.result import ROOM
from streamer.cuda.status import checking
from streamer.models.postprocess import MAX_CANDIDATES
from streamer.models.spec import ModelSpec

_TILE = (32, 8)
_FIND_THREADS = 256
_SUPPRESS_THREADS = 512
_NAMES = {np.dtype(np.float16): "f16", np.dtype(np.float32): "f32"}


class Kernels:
    """Preprocessing and decoding on a GPU. Owns their constants; every other address is the caller's.

    Attributes:
        decodes: whether these kernels decode the model's output: distributions, and NMS by IoU within a class. The host
            decodes others.
    """

    def __init__(
        self,
        gpu: Gpu,
        spec: ModelSpec,
        *,
        input_type: np.dtype[np.floating],
        output_type: np.dtype[np.floating],
        channels_last: bool,
        conf: float,
        iou: float,
        class_ids: Collection[int] | None,
    ) -> None:
        """Compiles (once, see `streamer.cuda.compiler`), loads and copies constants.

        Args:
            gpu: where to.
            spec: the model.
            input_type: of the network's input, float16 or float32.
            output_type: of the network's output, likewise.
            channels_last: whether the network's input is NHWC in memory.
            conf: least score to keep.
            iou: overlap above which the weaker of two boxes of one class is dropped.
            class_ids: classes to keep; None keeps all.

        Raises:
            EngineError: if compiling or loading fails.
        """
        import pycuda.driver as drv

        self._gpu = gpu
        self._spec = spec
        self.decodes = spec.has_bins and spec.nms == "iou" and not spec.class_agnostic
        width, height = spec.input_size_wh
        pixels = width * height
        self._strides = (3 * pixels, 1, 3 * width, 3) if channels_last else (3 * pixels, pixels, width, 1)
        self._conf, self._iou = conf, iou
        letterbox, decode = cubin("letterbox", gpu.arch), cubin("decode", gpu.arch)
        with gpu.active(), checking("load the kernels"):
            self._modules: Any = (drv.module_from_buffer(letterbox), drv.module_from_buffer(decode))
            self._letterbox = self._modules[0].get_function(f"letterbox_{_NAMES[input_type]}")
            self._find = self._modules[1].get_function(f"find_{_NAMES[output_type]}")
            self._suppress = self._modules[1].get_function("suppress")
        self._letterbox.prepare("PPiiqqqqP")
        self._find.prepare("PPPiiifffiPPP")
        self._suppress.prepare("PPPPiiifP")
        normalise = np.array([*spec.mean_bgr, *(1 / np.array(spec.std_bgr, np.float32)), spec.pad_value], np.float32)
        wanted = np.ones(spec.num_classes, np.uint8)
        if class_ids is not None:
            wanted[:] = 0
            wanted[list(class_ids)] = 1
        self._normalise, self._points, self._wanted = (
            _constant(gpu, array) for array in (normalise, spec.anchor_points(), wanted)
        )

    def letterbox(self, stream: Any, pictures: int, network_input: int, batch: int) -> None:
        """Puts preprocessing on a stream.

        Args:
            stream: a PyCUDA stream.
            pictures: address of `batch` `PICTURE_DTYPE`.
            network_input: address of the network's input.
            batch: how many pictures.
        """
        width, height = self._spec.input_size_wh
        grid = (-(-width // _TILE[0]), -(-height // _TILE[1]), batch)
        self._letterbox.prepared_async_call(
            grid, (*_TILE, 1), stream, pictures, network_input, width, height, *self._strides, self._normalise.address
        )

    def decode(
        self, stream: Any, pictures: int, output: int, found: int, keys: int, boxes: int, results: int, batch: int
    ) -> None:
        """Puts threshold, boxes and NMS on a stream, where these kernels decode such a model.

        Args:
            stream: a PyCUDA stream.
            pictures: address of `batch` `PICTURE_DTYPE`.
            output: address of the network's output.
            found: address of `batch` int32, zero before and after.
            keys: address of (batch, ROOM) uint64 for the kernels' own use.
            boxes: address of (batch, ROOM, 4) float32, likewise.
            results: address of `batch` `RESULT_DTYPE`.
            batch: how many pictures.
        """
        if not self.decodes:
            return
        spec = self._spec
        width, height = spec.input_size_wh
        scores = spec.num_points * spec.num_classes
        self._find.prepared_async_call(
            (-(-scores // _FIND_THREADS), batch, 1), (_FIND_THREADS, 1, 1), stream,
            output, self._points.address, self._wanted.address, spec.num_points, spec.num_classes, spec.reg_max + 1,
            self._conf, width, height, ROOM, found, keys, boxes,
        )  # fmt: skip
        self._suppress.prepared_async_call(
            (batch, 1, 1), (_SUPPRESS_THREADS, 1, 1), stream,
            pictures, found, keys, boxes, ROOM, MAX_CANDIDATES, spec.num_classes, self._iou, results,
        )  # fmt: skip

    def close(self) -> None:
        """Frees the constants. Safe to call twice."""
        for constant in (self._normalise, self._points, self._wanted):
            constant.free()
        with self._gpu.active():
            self._modules = self._letterbox = self._find = self._suppress = None


def _constant(gpu: Gpu, array: np.ndarray[Any, Any]) -> DeviceBuffer:
    buffer = DeviceBuffer(gpu, array.nbytes)
    buffer.write(np.ascontiguousarray(array))
    return buffer
