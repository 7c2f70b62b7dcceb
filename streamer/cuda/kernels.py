"""The project's own kernels for one model at fixed thresholds, and the results that they write."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.cuda.compiler import cubin
from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.status import checking
from streamer.frames.detections import Detections
from streamer.models.postprocess import MAX_CANDIDATES, MAX_DETECTIONS, Postprocessor

CANDIDATE_CAPACITY = 4096
"""(point, class) pairs above the threshold for which the kernels have memory, in one picture."""

RESULT_DTYPE = np.dtype(
    [
        ("found", np.int32),
        ("kept", np.int32),
        ("reserved", np.int32, 2),
        ("boxes", np.float32, (MAX_DETECTIONS, 4)),
        ("scores", np.float32, MAX_DETECTIONS),
        ("class_ids", np.int32, MAX_DETECTIONS),
    ]
)
"""`struct Result` of source/decode.cu."""

_TILE = (32, 8)
_FIND_THREADS = 256
_SUPPRESS_THREADS = 512
_TYPE_NAMES = {np.dtype(np.float16): "f16", np.dtype(np.float32): "f32", np.dtype(np.int8): "i8"}


def to_detections(results: npt.NDArray[np.void], index: int, labels: tuple[str, ...] = ()) -> Detections | None:
    """Copies picture `index`'s detections out of the results; None where the candidates exceeded the capacity."""
    result = results[index]
    if result["found"] > CANDIDATE_CAPACITY:
        return None
    kept = int(result["kept"])
    return Detections(
        result["boxes"][:kept].copy(),
        result["scores"][:kept].copy(),
        result["class_ids"][:kept].astype(np.int64),
        labels=labels,
    )


class Kernels:
    """Preprocessing and postprocessing on a GPU. Owns the kernels' constants; other addresses are the caller's.

    Attributes:
        spec: the model's description.
        decodes: whether the kernels decode this model's output: distributions, and class-wise NMS by IoU. The host
            decodes others.
    """

    def __init__(self, gpu: Gpu, engine: CudaEngine, postprocessor: Postprocessor) -> None:
        """Loads kernels for the engine's types and layout and the postprocessor's model and thresholds."""
        import pycuda.driver as drv

        self._gpu = gpu
        self.spec = spec = postprocessor.spec
        self.decodes = spec.has_bins and spec.nms == "iou" and not spec.class_agnostic
        width, height = spec.input_size_wh
        pixels = width * height
        pitch = engine.input_pitch
        self._strides = (pitch * pixels, 1, pitch * width, pitch) if engine.channels_last else (
            3 * pixels, pixels, width, 1
        )  # fmt: skip
        self._conf, self._iou = postprocessor.conf, postprocessor.iou
        letterbox, decode = cubin("letterbox", gpu.arch), cubin("decode", gpu.arch)
        with gpu.active(), checking("load the kernels"):
            self._modules: Any = (drv.module_from_buffer(letterbox), drv.module_from_buffer(decode))
            self._letterbox = self._modules[0].get_function(f"letterbox_{_TYPE_NAMES[engine.input_type]}")
            self._find = self._modules[1].get_function(f"find_{_TYPE_NAMES[engine.output_type]}")
            self._suppress = self._modules[1].get_function("suppress")
        self._letterbox.prepare("PPiiqqqqP")
        self._find.prepare("PPPiiifffiPPP")
        self._suppress.prepare("PPPPiiifP")
        factors = 1 / np.array(spec.std_bgr, np.float32)
        stored = (engine.input_scale, engine.input_zero_point)
        normalise = np.array([*spec.mean_bgr, *factors, spec.pad_value, *stored], np.float32)
        self._normalise, self._points, self._wanted = (
            DeviceBuffer.holding(gpu, array)
            for array in (normalise, spec.anchor_points(), postprocessor.wanted.astype(np.uint8))
        )

    def letterbox(self, stream: Any, pictures: int, network_input: int, batch: int) -> None:
        """Puts preprocessing of `batch` `PICTURE_DTYPE` on a PyCUDA stream; addresses are the device's."""
        width, height = self.spec.input_size_wh
        grid = (-(-width // _TILE[0]), -(-height // _TILE[1]), batch)
        self._letterbox.prepared_async_call(
            grid, (*_TILE, 1), stream, pictures, network_input, width, height, *self._strides, self._normalise.address
        )

    def decode(
        self, stream: Any, pictures: int, output: int, found: int, keys: int, boxes: int, results: int, batch: int
    ) -> None:
        """Puts threshold, boxes and NMS on a PyCUDA stream, unless the host decodes this model.

        Device addresses: `pictures` of `batch` `PICTURE_DTYPE`, `output` of the network's output, `found` of (batch,)
        int32, zero before and after, `keys` of (batch, CANDIDATE_CAPACITY) uint64 and `boxes` of (batch,
        CANDIDATE_CAPACITY, 4) float32 scratch memory, `results` of `batch` `RESULT_DTYPE`.
        """
        if not self.decodes:
            return
        spec = self.spec
        width, height = spec.input_size_wh
        scores = spec.num_points * spec.num_classes
        self._find.prepared_async_call(
            (-(-scores // _FIND_THREADS), batch, 1), (_FIND_THREADS, 1, 1), stream,
            output, self._points.address, self._wanted.address, spec.num_points, spec.num_classes, spec.reg_max + 1,
            self._conf, width, height, CANDIDATE_CAPACITY, found, keys, boxes,
        )  # fmt: skip
        self._suppress.prepared_async_call(
            (batch, 1, 1), (_SUPPRESS_THREADS, 1, 1), stream,
            pictures, found, keys, boxes, CANDIDATE_CAPACITY, MAX_CANDIDATES, spec.num_classes, self._iou, results,
        )  # fmt: skip

    def close(self) -> None:
        """Frees the constants. Safe to call twice."""
        for constant in (self._normalise, self._points, self._wanted):
            constant.free()
        with self._gpu.active():
            self._modules = self._letterbox = self._find = self._suppress = None
