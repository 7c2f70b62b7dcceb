"""Detection on an NVIDIA GPU: several batches in flight, each in a slot of its own."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from streamer.common.cpu_info import version_of
from streamer.common.errors import ConfigError, EngineError, StreamerError, UnavailableError, counted
from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu, parse_device
from streamer.cuda.kernels import Kernels
from streamer.cuda.nv12 import Nv12
from streamer.cuda.slot import CudaSlot
from streamer.cuda.staging import StagedFrame, StagingPool
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.detector.self_check import check_output, packaged_frame
from streamer.detector.tuning import BatchSpeed, tune_batch
from streamer.engines.gpu_engines import GPU_ENGINES, PACKAGE_NAMES, installed_gpu_engines
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor

log = logging.getLogger(__name__)

_Opened = TypeVar("_Opened")

DEFAULT_SLOTS = 8
_MIN_SLOTS = 2
BATCHES = (1, 4, 16)
"""The batch sizes that ``auto`` measures; an engine that is built beforehand takes the largest."""
_MEASURED_S = 0.15
_EXTRA_BUFFERS = 64
"""Staging buffers beyond twice what is in flight, for prepared frames that wait; allocated on demand."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch in flight."""

    slot: CudaSlot
    frames: list[Frame]
    letterboxes: list[Letterbox]
    staged: list[StagedFrame | None]
    preprocess_ms: float


class CudaDetector(Detector):
    """Uses its slots round-robin, a batch in each, so frames come back in order.

    `prepare` may be called on another thread, such as the capturing one: it copies the pixels into page-locked memory,
    which takes as long as all the GPU's work on a frame. `submit` copies what wasn't prepared.

    In `DetectTimes`, `preprocess_ms` is the host's time to submit a batch, divided by its frames, `inference_ms` the
    GPU's time for the batch from the start of the copy to the last result, with preprocessing, NMS and waiting for
    other slots, and `postprocess_ms` the host's time to read one frame's results.
    """

    def __init__(
        self,
        model: ModelFile,
        gpu: Gpu,
        engine: CudaEngine,
        postprocessor: Postprocessor,
        *,
        slots: int,
        batches: Sequence[int] = (1,),
    ) -> None:
        """Takes ownership of `gpu` and `engine`: `close` closes them, and so does a failure here.

        At most `slots` batches are in flight; of several sizes in `batches`, ascending, the best is measured.
        """
        spec = model.spec
        self.info = EngineInfo(engine.name, engine.precision, gpu.name, model.path.stem, model.sha256)
        self.labels = spec.labels
        self._spec = spec
        self._gpu = gpu
        self.gpu = gpu.index
        self._engine = engine
        self._postprocess = postprocessor
        self._submitted = 0
        self._in_flight: deque[_Batch] = deque()
        self._finished: deque[tuple[Frame, Detections, DetectTimes]] = deque()
        self._prepared: WeakKeyDictionary[Frame, StagedFrame] = WeakKeyDictionary()
        self._slots: list[CudaSlot] = []
        self._kernels: Kernels | None = None
        self._pool = StagingPool(gpu, 2 * slots * max(batches) + _EXTRA_BUFFERS)
        self._closed = False
        try:
            self._kernels = kernels = Kernels(gpu, engine, postprocessor)
            key = (model.sha256, engine.name, engine.precision, version_of(engine.name), gpu.name, slots)
            self.batch = tune_batch(key, batches, lambda size: self._measure(kernels, size, slots))
            self.depth = slots * self.batch
            for _ in range(slots):
                self._slots.append(CudaSlot(gpu, engine, kernels, {1, self.batch}))
        except BaseException:
            self.close()
            raise

    def _measure(self, kernels: Kernels, size: int, slots: int) -> BatchSpeed:
        """Measures one batch size with the packaged picture for `_MEASURED_S`."""
        frame = packaged_frame()
        staged = self._pool.stage(frame, self._letterbox(frame))
        assert staged is not None, "no buffer is in use yet"
        opened: list[CudaSlot] = []
        try:
            for _ in range(slots):
                opened.append(CudaSlot(self._gpu, self._engine, kernels, (size,)))
                for index in range(size):
                    opened[-1].put(index, staged)
                opened[-1].start()
            for slot in opened:
                slot.wait()
            started_at_s = time.perf_counter()
            opened[0].start()
            opened[0].wait()
            latency_ms = (time.perf_counter() - started_at_s) * 1e3
            for slot in opened:
                slot.start()
            done, started_at_s = 0, time.perf_counter()
            while (passed_s := time.perf_counter() - started_at_s) < _MEASURED_S or done < slots:
                slot = opened[done % slots]
                slot.wait()
                for index in range(size):
                    slot.detections(index)
                slot.start()
                done += 1
        finally:
            for slot in opened:
                slot.close()
        return BatchSpeed(size, done * size / passed_s, latency_ms)

    @property
    def in_flight(self) -> int:
        return len(self._finished) + sum(len(batch.frames) for batch in self._in_flight)

    @property
    def capacity(self) -> int:
        """A whole batch while a slot is free."""
        return self.batch if len(self._in_flight) < len(self._slots) else 0

    @property
    def pinned_bytes(self) -> int:
        """Page-locked memory held now."""
        return self._gpu.pinned_bytes

    def prepare(self, frame: Frame) -> None:
        """Copies a frame's pixels into page-locked memory ahead of `submit`; any thread may call it.

        Does nothing when all staging buffers are in use, or the pixels are on the GPU already.
        """
        if isinstance(frame.pixels, Nv12) and frame.gpu == self.gpu:
            return
        staged = self._pool.stage(frame, self._letterbox(frame), reserve=self.depth)
        if staged is not None:
            self._prepared[frame] = staged

    def submit(self, frame: Frame) -> None:
        self.submit_batch([frame])

    def submit_batch(self, frames: Sequence[Frame]) -> None:
        if not self.capacity:
            raise ValueError(f"{counted(self.in_flight, 'frame')} in flight already: collect one first")
        if not 1 <= len(frames) <= self.batch:
            raise ValueError(f"wanted 1 to {self.batch} frames in a batch, got {len(frames)}")
        started_at_s = time.perf_counter()
        slot = self._slots[self._submitted % len(self._slots)]
        letterboxes = [self._letterbox(frame) for frame in frames]
        staged = [self._put(slot, index, frame, letterboxes[index]) for index, frame in enumerate(frames)]
        slot.start(len(frames))
        each_ms = (time.perf_counter() - started_at_s) * 1e3 / len(frames)
        self._in_flight.append(_Batch(slot, list(frames), letterboxes, staged, each_ms))
        self._submitted += 1

    def _put(self, slot: CudaSlot, index: int, frame: Frame, letterbox: Letterbox) -> StagedFrame | None:
        """Puts one frame into a slot; returns the staging buffer to keep until the batch is finished.

        A frame on another GPU is copied through the host.
        """
        if isinstance(frame.pixels, Nv12) and frame.gpu == self.gpu:
            slot.describe(index, frame.pixels.describe(letterbox), frame.pixels.ready_event)
            return None
        staged = self._prepared.pop(frame, None) or self._pool.stage(frame, letterbox)
        assert staged is not None, "prepare reserves as many buffers as can be in flight"
        slot.put(index, staged)
        return staged

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        if not self._finished:
            if not self._in_flight:
                raise ValueError("no frame is in flight")
            self._finish_oldest()
        return self._finished.popleft()

    def raw_output(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Runs one frame and returns the network's output, (N, channels) float32; no other may be in flight."""
        if self.in_flight:
            raise ValueError(f"wanted no frame in flight, there are {self.in_flight}")
        self.submit(frame)
        slot = self._in_flight[0].slot
        self._finish_oldest()
        self._finished.clear()
        return slot.output(0)

    def _finish_oldest(self) -> None:
        """Waits for the oldest batch and reads its results, which frees its slot."""
        batch = self._in_flight.popleft()
        kernels = self._kernels
        assert kernels is not None, "the detector is open"
        inference_ms = batch.slot.wait()
        _release(batch)
        for index, frame in enumerate(batch.frames):
            started_at_s = time.perf_counter()
            detections = batch.slot.detections(index) if kernels.decodes else None
            if detections is None:  # too many candidates, NaN, or another family or NMS
                detections = self._postprocess(batch.slot.output(index), batch.letterboxes[index])
            else:
                detections = self._postprocess.select(detections, batch.letterboxes[index])
            postprocess_ms = (time.perf_counter() - started_at_s) * 1e3
            self._finished.append((frame, detections, DetectTimes(batch.preprocess_ms, inference_ms, postprocess_ms)))

    def _letterbox(self, frame: Frame) -> Letterbox:
        return Letterbox.for_model(frame, self._spec)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._gpu.synchronize()
        except EngineError as error:
            log.info("%s; what is on GPU %d is freed when the program ends", error, self.gpu)
            return
        for slot in self._slots:
            slot.close()
        for batch in self._in_flight:
            _release(batch)
        self._in_flight.clear()
        self._finished.clear()
        self._prepared.clear()
        self._pool.close()
        if self._kernels is not None:
            self._kernels.close()
        with self._gpu.active():
            self._engine.close()
        self._gpu.close()


def _release(batch: _Batch) -> None:
    for staged in batch.staged:
        if staged is not None:
            staged.release()


def open_cuda_detector(
    model: ModelFile,
    postprocessor: Postprocessor,
    *,
    engine: str,
    device: str,
    precision: str,
    depth: int | None,
    batch: int | Literal["auto"] | None = None,
    streams: int = 1,
    self_check: bool = True,
) -> CudaDetector:
    """Opens a detector on a GPU; arguments and errors as those of `streamer.detector.open_detector`.

    With ``auto``, the first engine is used that loads, allocates its memory and passes the self-check; a warning and
    `EngineInfo.fallbacks` say why those before it failed, but for those that aren't made for this. Where none works,
    the EngineError has every reason in one line. At least 2 batches are in flight; without `depth`, `DEFAULT_SLOTS`.
    """
    if not model.spec.num_points:
        raise EngineError(
            f"{model.path.name} has a variable number of detections: use --device cpu, or export it without its NMS"
        )
    index = 0 if device == "auto" else parse_device(device)
    slots = max(_MIN_SLOTS, depth or DEFAULT_SLOTS)
    batches = _batch_sizes(model, batch, streams)

    def open_with(name: str) -> CudaDetector:
        gpu = Gpu(index)
        try:
            loaded = load_engine(name, model, gpu, precision, max(batches))
        except BaseException:
            gpu.close()
            raise
        detector = CudaDetector(model, gpu, loaded, postprocessor, slots=slots, batches=batches)
        if self_check:
            try:
                check_output(model, loaded.name, detector.raw_output, f"{loaded.precision} on {gpu.name}")
            except BaseException:
                detector.close()
                raise
        return detector

    if engine != "auto":
        return open_with(engine)
    with Gpu(index) as gpu:  # without a GPU, the reason is the same for every engine
        detector, fallbacks = _first_that_works(open_with, gpu)
    detector.info = replace(detector.info, fallbacks=fallbacks)
    return detector


def _first_that_works(open_with: Callable[[str], _Opened], gpu: Gpu) -> tuple[_Opened, tuple[str, ...]]:
    """Opens the first of `GPU_ENGINES` that works; returns it, and why others before it failed."""
    reasons: list[str] = []
    failed: list[str] = []
    for name in GPU_ENGINES:
        try:
            opened = open_with(name)
        except StreamerError as error:
            log.info("not using %s: %s", name, error)
            reasons.append(f"{name}: {error}")
            if not isinstance(error, (UnavailableError, ConfigError)):  # not made for this model, GPU or precision
                failed.append(reasons[-1])
            continue
        for reason in failed:
            log.warning("using %s, not %s", name, reason)
        return opened, tuple(failed)
    raise EngineError(f"no engine works on {gpu.name} ({'; '.join(reasons)})")


def _batch_sizes(model: ModelFile, batch: int | Literal["auto"] | None, streams: int) -> list[int]:
    """Returns the batch sizes to measure, ascending; for a graph with a fixed batch, only that."""
    sizes = [size for size in BATCHES if size < 4 * streams] if batch == "auto" else [batch or 1]
    if model.fixed_batch is None or sizes == [model.fixed_batch]:
        return sizes
    if batch != "auto":
        log.warning("%s has a fixed batch of %d, not %d", model.path.name, model.fixed_batch, max(sizes))
    return [model.fixed_batch]


def open_engine(name: str, model: ModelFile, gpu: Gpu, precision: str, batch: int) -> CudaEngine:
    """Loads a model for batches up to `batch` into one of `GPU_ENGINES`, or with ``auto`` into the first that loads."""
    if name != "auto":
        return load_engine(name, model, gpu, precision, batch)
    return _first_that_works(lambda candidate: load_engine(candidate, model, gpu, precision, batch), gpu)[0]


def load_engine(name: str, model: ModelFile, gpu: Gpu, precision: str, batch: int) -> CudaEngine:
    """Loads a model into one of `GPU_ENGINES`."""
    if missing := installed_gpu_engines()[name]:
        raise UnavailableError(f"{PACKAGE_NAMES[name]} is not installed: {missing}")
    if name == "int8":
        from streamer.engines.int8_engine import Int8Engine

        return Int8Engine(model, gpu, precision=precision)
    if name == "torch":
        from streamer.engines.torch_engine import TorchEngine

        return TorchEngine(model, gpu, precision=precision)
    from streamer.engines.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(model, gpu, precision=precision, batch=batch)
