"""Detection on an NVIDIA GPU: several lanes in flight, nothing waits that needn't."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from streamer.common.cpu_info import version_of
from streamer.common.errors import EngineError, StreamerError
from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu, parse_device
from streamer.cuda.input_layout import colours_of
from streamer.cuda.kernels import Kernels
from streamer.cuda.nv12 import Nv12
from streamer.cuda.slot import Lane
from streamer.cuda.staging import Staged, StagingPool
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.detector.self_check import check_output, packaged_frame
from streamer.detector.tuning import Speed, tuned
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor

log = logging.getLogger(__name__)

GPU_ENGINES = ("tensorrt", "torch")
"""In the order in which ``auto`` tries them."""

_INSTALL_TENSORRT = "pip install 'nanodet-streamer[tensorrt]', or [tensorrt-rtx] on a GeForce RTX"
_INSTALL_TORCH = "pip install 'nanodet-streamer[torch]'"

DEFAULT_SLOTS = 8
_LEAST_SLOTS = 2
_BATCHES = (1, 4, 16)
_MEASURED_S = 0.15
_SPARE_BUFFERS = 64
"""Staging buffers beyond twice what is in flight: frames that were prepared and wait. Made as they are needed."""


@dataclass(frozen=True, eq=False)
class _Flight:
    """A batch on its way."""

    lane: Lane
    frames: list[Frame]
    letterboxes: list[Letterbox]
    staged: list[Staged | None]
    preprocess_ms: float


class CudaDetector(Detector):
    """Drives lanes in turn, a batch in each, so frames come back in order.

    `prepare` may be called on another thread (the one that captures): it copies the pixels into page-locked memory,
    which takes as long as all the GPU's work on a frame. `submit` does it itself where it wasn't done.

    In `DetectTimes`, `preprocess_ms` is the host's time to submit a batch, for each of its frames, `inference_ms` the
    GPU's for the batch from the start of the copy to the last result, preprocessing, NMS and waiting for other lanes
    included, and `postprocess_ms` the host's to take one frame's results.
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
        batches: Sequence[int] = (1,),
    ) -> None:
        """Takes over `gpu` and `engine`: closing the detector, or failing here, closes them.

        Args:
            model: what to run.
            gpu: where.
            engine: has loaded the model.
            slots: batches in flight, at least 1.
            conf: least score to keep.
            iou: overlap above which the weaker of two boxes of one class is dropped.
            class_ids: classes to keep; None keeps all.
            batches: sizes to choose the largest batch from, ascending; of several the best is measured.

        Raises:
            EngineError: if the GPU hasn't enough memory, or the kernels can't be compiled.
        """
        spec = model.spec
        if not spec.num_points:
            with gpu.active():
                engine.close()
            gpu.close()
            raise EngineError(
                f"{model.path.name} doesn't tell how many detections it gives: use --device cpu, or export "
                "it without its NMS"
            )
        self.info = EngineInfo(engine.name, engine.precision, gpu.name, model.path.stem, model.sha256)
        self.labels = spec.labels
        self._spec = spec
        self._gpu = gpu
        self._engine = engine
        self._decode = Postprocessor(spec, conf, iou, class_ids)
        self._started = 0
        self._flying: deque[_Flight] = deque()
        self._landed: deque[tuple[Frame, Detections, DetectTimes]] = deque()
        self._prepared: WeakKeyDictionary[Frame, Staged] = WeakKeyDictionary()
        self._lanes: list[Lane] = []
        self._kernels: Kernels | None = None
        self._pool = StagingPool(gpu, 2 * slots * max(batches) + _SPARE_BUFFERS)
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
            key = (model.sha256, engine.name, engine.precision, version_of(engine.name), gpu.name, slots)
            self.batch = tuned(key, batches, lambda size: self._measure(kernels, size, slots))
            self.depth = slots * self.batch
            for _ in range(slots):
                self._lanes.append(Lane(gpu, engine, kernels, spec, {1, self.batch}))
        except BaseException:
            self.close()
            raise

    def _measure(self, kernels: Kernels, size: int, slots: int) -> Speed:
        """Measures batches of one size with the packaged picture, for a moment."""
        frame = packaged_frame()
        staged = self._pool.stage(frame, self._letterbox(frame))
        assert staged is not None, "nothing else has begun"
        lanes: list[Lane] = []
        try:
            for _ in range(slots):
                lanes.append(Lane(self._gpu, self._engine, kernels, self._spec, (size,)))
                for index in range(size):
                    lanes[-1].put(index, staged, None)
                lanes[-1].start()
            for lane in lanes:
                lane.wait()
            began = time.perf_counter()
            lanes[0].start()
            lanes[0].wait()
            alone_ms = (time.perf_counter() - began) * 1e3
            for lane in lanes:
                lane.start()
            done, began = 0, time.perf_counter()
            while (passed_s := time.perf_counter() - began) < _MEASURED_S or done < slots:
                lane = lanes[done % slots]
                lane.wait()
                for index in range(size):
                    lane.detections(index)
                lane.start()
                done += 1
        finally:
            for lane in lanes:
                lane.close()
        return Speed(size, done * size / passed_s, alone_ms)

    @property
    def in_flight(self) -> int:
        return len(self._landed) + sum(len(flight.frames) for flight in self._flying)

    @property
    def room(self) -> int:
        """A whole batch as long as a lane is free."""
        return self.batch if len(self._flying) < len(self._lanes) else 0

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
        staged = self._pool.stage(frame, self._letterbox(frame), leave=self.depth)
        if staged is not None:
            self._prepared[frame] = staged

    def submit(self, frame: Frame) -> None:
        self.submit_batch([frame])

    def submit_batch(self, frames: Sequence[Frame]) -> None:
        if not self.room:
            raise ValueError(f"{self.in_flight} frames are in flight already: collect one first")
        if not 1 <= len(frames) <= self.batch:
            raise ValueError(f"wanted 1 to {self.batch} frames in a batch, got {len(frames)}")
        began = time.perf_counter()
        lane = self._lanes[self._started % len(self._lanes)]
        letterboxes = [self._letterbox(frame) for frame in frames]
        staged = [self._put(lane, index, frame, letterboxes[index]) for index, frame in enumerate(frames)]
        lane.start(len(frames))
        each_ms = (time.perf_counter() - began) * 1e3 / len(frames)
        self._flying.append(_Flight(lane, list(frames), letterboxes, staged, each_ms))
        self._started += 1

    def _put(self, lane: Lane, index: int, frame: Frame, letterbox: Letterbox) -> Staged | None:
        """Gives a lane one frame; returns what must be kept meanwhile."""
        if isinstance(frame.pixels, Nv12):
            lane.describe(index, frame.pixels.describe(letterbox), frame.pixels.written)
            return None
        staged = self._prepared.pop(frame, None) or self._pool.stage(frame, letterbox)
        assert staged is not None, "prepare leaves as many buffers as can be in flight"
        lane.put(index, staged, colours_of(frame))
        return staged

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        if not self._landed:
            if not self._flying:
                raise ValueError("no frame is in flight")
            self._land()
        return self._landed.popleft()

    def raw_output(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Runs one frame alone and returns the network's output, (N, channels) float32; for checks.

        Raises:
            ValueError: if frames are in flight.
            EngineError: if computing failed.
        """
        if self.in_flight:
            raise ValueError(f"wanted no frame in flight, there are {self.in_flight}")
        self.submit(frame)
        lane = self._flying[0].lane
        self._land()
        self._landed.clear()
        return lane.output(0)

    def _land(self) -> None:
        """Waits for the oldest batch and takes its results, so that its lane is free."""
        flight = self._flying.popleft()
        inference_ms = flight.lane.wait()
        kernels = self._kernels
        assert kernels is not None, "a detector that is open"
        for staged in flight.staged:
            if staged is not None:
                staged.end()
        for index, frame in enumerate(flight.frames):
            began = time.perf_counter()
            detections = flight.lane.detections(index) if kernels.decodes else None
            if detections is None:  # so low a threshold that the kernels had no room, or another family: the reference
                detections = self._decode(flight.lane.output(index), flight.letterboxes[index])
            postprocess_ms = (time.perf_counter() - began) * 1e3
            self._landed.append((frame, detections, DetectTimes(flight.preprocess_ms, inference_ms, postprocess_ms)))

    def _letterbox(self, frame: Frame) -> Letterbox:
        return Letterbox.for_model(frame, self._spec)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes:
            lane.close()
        for flight in self._flying:
            for staged in flight.staged:
                if staged is not None:
                    staged.end()
        self._flying.clear()
        self._landed.clear()
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
    batch: int | Literal["auto"] | None = None,
    streams: int = 1,
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
        depth: batches in flight, at least 2 of which are used; None takes `DEFAULT_SLOTS`.
        batch: most frames in a batch; ``auto`` measures it, None is 1.
        streams: how many streams there will be; `auto` tries no larger batch than they can fill.
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
    batches = [size for size in _BATCHES if size < 4 * streams] if batch == "auto" else [batch or 1]
    detector = CudaDetector(model, gpu, loaded, slots=slots, conf=conf, iou=iou, class_ids=class_ids, batches=batches)
    if self_check:
        try:
            computed_by = f"{loaded.precision} on {gpu.name}"
            check_output(model, loaded.name, detector.raw_output, computed_by)
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
