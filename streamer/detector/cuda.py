"""Detection on an NVIDIA GPU: several lanes in flight, nothing waits that needn't."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu, parse_device
from streamer.cuda.lane import Lane
from streamer.cuda.launch import Kernels
from streamer.cuda.nv12 import Nv12
from streamer.cuda.picture import colours_of
from streamer.cuda.staging import Staged, StagingPool
from streamer.decode import Decoder
from streamer.detections import Detections
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.errors import EngineError, StreamerError
from streamer.frame import Frame
from streamer.letterbox import Letterbox
from streamer.model_file import ModelFile
from streamer.self_check import check_output

log = logging.getLogger(__name__)

GPU_ENGINES = ("tensorrt", "torch")
"""In the order in which ``auto`` tries them."""

_INSTALL_TENSORRT = "pip install 'nanodet-streamer[tensorrt]', or [tensorrt-rtx] on a GeForce RTX"
_INSTALL_TORCH = "pip install 'nanodet-streamer[torch]'"

DEFAULT_SLOTS = 8
_LEAST_SLOTS = 2
_SPARE_BUFFERS = 8
"""Staging buffers beyond one for each lane: frames that were prepared and wait, or are being prepared."""


@dataclass(frozen=True, eq=False)
class _Flight:
    lane: Lane
    frame: Frame
    letterbox: Letterbox
    staged: Staged | None
    preprocess_ms: float


class CudaDetector(Detector):
    """Drives lanes in turn, so frames come back in order.

    `prepare` may be called on another thread (the one that captures): it copies the pixels into page-locked memory,
    which takes as long as all the GPU's work on a frame. `submit` does it itself where it wasn't done.

    In `DetectTimes`, `preprocess_ms` is the host's time to submit a frame, `inference_ms` the GPU's from the start of
    the copy to the last result, preprocessing, NMS and waiting for other lanes included, and `postprocess_ms` the
    host's to take the results.
    """

    def __init__(
        self,
        model: ModelFile,
        gpu: Gpu,
        engine: CudaEngine,
        *,
        slots: int,
        conf: float,
        iou: float,
        class_ids: Collection[int] | None,
    ) -> None:
        """Takes over `gpu` and `engine`: closing the detector, or failing here, closes them.

        Args:
            model: what to run.
            gpu: where.
            engine: has loaded the model.
            slots: frames in flight, at least 1.
            conf: least score to keep.
            iou: overlap above which the weaker of two boxes of one class is dropped.
            class_ids: classes to keep; None keeps all.

        Raises:
            EngineError: if the GPU hasn't enough memory, or the kernels can't be compiled.
        """
        spec = model.spec
        self.info = EngineInfo(engine.name, engine.precision, gpu.name, model.path.stem, model.sha256)
        self.labels = spec.labels
        self.depth = slots
        self._spec = spec
        self._gpu = gpu
        self._engine = engine
        self._decode = Decoder(spec, conf, iou, class_ids)
        self._submitted = 0
        self._flying: deque[_Flight] = deque()
        self._prepared: WeakKeyDictionary[Frame, Staged] = WeakKeyDictionary()
        self._lanes: list[Lane] = []
        self._kernels: Kernels | None = None
        self._pool = StagingPool(gpu, slots + _SPARE_BUFFERS)
        self._closed = False
        try:
            self._kernels = kernels = Kernels(
                gpu,
                spec,
                input_type=engine.input_type,
                output_type=engine.output_type,
                channels_last=engine.channels_last,
                conf=conf,
                iou=iou,
                class_ids=class_ids,
            )
            for _ in range(slots):
                self._lanes.append(Lane(gpu, engine, kernels, spec))
        except BaseException:
            self.close()
            raise

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def pinned_bytes(self) -> int:
        """Page-locked memory held now."""
        return self._gpu.pinned_bytes

    def prepare(self, frame: Frame) -> None:
        """Copies a frame's pixels into page-locked memory ahead of `submit`; any thread may call it.

        Does nothing when all staging buffers are in use, or the pixels are on the GPU already.
        """
        if isinstance(frame.pixels, Nv12):
            return
        staged = self._pool.stage(frame, self._letterbox(frame))
        if staged is not None:
            self._prepared[frame] = staged

    def submit(self, frame: Frame) -> None:
        if self.in_flight >= self.depth:
            raise ValueError(f"{self.depth} frames are in flight already: collect one first")
        began = time.perf_counter()
        letterbox = self._letterbox(frame)
        lane = self._lanes[self._submitted % self.depth]
        staged: Staged | None = None
        if isinstance(frame.pixels, Nv12):
            lane.describe(0, frame.pixels.describe(letterbox))
        else:
            staged = self._prepared.pop(frame, None) or self._pool.stage(frame, letterbox)
            if staged is None:
                raise EngineError("all staging buffers are held by frames that were prepared but not submitted")
            lane.put(0, staged, colours_of(frame))
        lane.start()
        self._flying.append(_Flight(lane, frame, letterbox, staged, (time.perf_counter() - began) * 1e3))
        self._submitted += 1

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        if not self._flying:
            raise ValueError("no frame is in flight")
        flight, inference_ms = self._land()
        began = time.perf_counter()
        detections = flight.lane.detections(0)
        if detections is None:  # so low a threshold that the kernels had no room: the reference does it
            detections = self._decode(flight.lane.output(0), flight.letterbox)
        postprocess_ms = (time.perf_counter() - began) * 1e3
        return flight.frame, detections, DetectTimes(flight.preprocess_ms, inference_ms, postprocess_ms)

    def raw_output(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Runs one frame alone and returns the network's output, (N, channels) float32; for checks.

        Raises:
            ValueError: if frames are in flight.
            EngineError: if computing failed.
        """
        if self._flying:
            raise ValueError(f"wanted no frame in flight, there are {self.in_flight}")
        self.submit(frame)
        return self._land()[0].lane.output(0)

    def _land(self) -> tuple[_Flight, float]:
        flight = self._flying.popleft()
        inference_ms = flight.lane.wait()
        if flight.staged is not None:
            flight.staged.end()
        return flight, inference_ms

    def _letterbox(self, frame: Frame) -> Letterbox:
        return Letterbox.fit(frame.size_wh, self._spec.input_size_wh, self._spec.keep_ratio)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes:
            lane.close()
        for flight in self._flying:
            if flight.staged is not None:
                flight.staged.end()
        self._flying.clear()
        self._prepared.clear()
        self._pool.close()
        if self._kernels is not None:
            self._kernels.close()
        with self._gpu.active():
            self._engine.close()
        self._gpu.close()


def open_cuda_detector(
    model: ModelFile,
    *,
    engine: str,
    device: str,
    precision: str,
    conf: float,
    iou: float,
    class_ids: Collection[int] | None,
    depth: int | None,
    self_check: bool = True,
) -> CudaDetector:
    """Opens a detector on a GPU.

    Args:
        model: what to run.
        engine: one of `GPU_ENGINES`, or ``auto`` for the first that works; why others don't is logged.
        device: ``auto``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``f16`` or ``f32``.
        conf: least score to keep.
        iou: overlap above which the weaker of two boxes of one class is dropped.
        class_ids: classes to keep; None keeps all.
        depth: frames in flight, at least 2 of which are used; None takes `DEFAULT_SLOTS`.
        self_check: run the model once on a packaged picture and refuse an engine that computes it wrongly.

    Raises:
        EngineError: if there is no GPU, or no engine works on it: one line with every reason.
        ConfigError: if an argument names something unknown.
        ModelError: if an engine asked for by name can't take the model.
    """
    gpu = Gpu(0 if device == "auto" else parse_device(device))
    try:
        loaded = open_engine(engine, model, gpu, precision)
    except BaseException:
        gpu.close()
        raise
    slots = max(_LEAST_SLOTS, depth or DEFAULT_SLOTS)
    detector = CudaDetector(model, gpu, loaded, slots=slots, conf=conf, iou=iou, class_ids=class_ids)
    if self_check:
        try:
            check_output(model, loaded.name, detector.raw_output)
        except BaseException:
            detector.close()
            raise
    return detector


def installed_gpu_engines() -> dict[str, str | None]:
    """Returns for every GPU engine None when its package is installed, else the command that installs it."""
    tensorrt = any(importlib.util.find_spec(module) for module in ("tensorrt", "tensorrt_rtx"))
    torch = importlib.util.find_spec("torch") is not None
    return {"tensorrt": None if tensorrt else _INSTALL_TENSORRT, "torch": None if torch else _INSTALL_TORCH}


def open_engine(name: str, model: ModelFile, gpu: Gpu, precision: str) -> CudaEngine:
    """Loads a model into one of `GPU_ENGINES`, or with ``auto`` into the first that works.

    Raises:
        EngineError: if it doesn't work, or none does.
        ConfigError: if the engine doesn't compute in `precision`.
        ModelError: if the engine can't take the model.
    """
    if name != "auto":
        return _open_named(name, model, gpu, precision)
    reasons = []
    for candidate in GPU_ENGINES:
        try:
            return _open_named(candidate, model, gpu, precision)
        except StreamerError as error:
            log.info("not using %s: %s", candidate, error)
            reasons.append(f"{candidate}: {error}")
    raise EngineError(f"no engine works on {gpu.name} ({'; '.join(reasons)})")


def _open_named(name: str, model: ModelFile, gpu: Gpu, precision: str) -> CudaEngine:
    if name == "torch":
        if importlib.util.find_spec("torch") is None:
            raise EngineError(f"PyTorch is not installed: {_INSTALL_TORCH}")
        from streamer.engines.torch_engine import TorchEngine

        return TorchEngine(model, gpu, precision=precision)
    from streamer.engines.tensorrt_engine import TensorRtEngine, installed_flavour

    flavour = installed_flavour()
    if flavour is None:
        raise EngineError(f"TensorRT is not installed: {_INSTALL_TENSORRT}")
    return TensorRtEngine(model, gpu, flavour, precision=precision)
