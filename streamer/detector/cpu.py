"""Detection on a CPU: letterbox into the engine's own buffer, infer, postprocess."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from streamer.common.cpu_info import available_cores, processor_name, version_of
from streamer.common.errors import counted
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.detector.compiled_models import CompiledModels
from streamer.detector.detection_filter import thresholds_by_id
from streamer.detector.filter_options import ClassThresholds
from streamer.detector.self_check import check, packaged_frame
from streamer.detector.tuning import BatchSpeed, tune_batch
from streamer.engines import ENGINE_NAMES, open_engine
from streamer.engines.base import REQUESTS_PER_STREAM, Engine
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.described import DescribedModel, content_sha256
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.spec import ModelSpec

if TYPE_CHECKING:
    from streamer.engines.openvino_engine import OpenVinoEngine
    from streamer.models.file import ModelFile

_MEASURED_S = 0.15
_WARM_UPS = 3


class CpuDetector(Detector):
    """Drives an asynchronous CPU engine; its slots are used round-robin, so frames come back in order."""

    can_report_more = True

    def __init__(self, model: DescribedModel, engine: Engine, postprocessor: Postprocessor) -> None:
        """Takes ownership of `engine`: `close` closes it."""
        self.info = EngineInfo(engine.name, engine.precision, engine.device, model.path.stem, model.sha256)
        self.labels = model.spec.labels
        self.depth = engine.slots
        self._model = model
        self._engine = engine
        self._postprocess = postprocessor
        self._submitted = 0
        self._in_flight: deque[tuple[int, Frame, Letterbox, float]] = deque()

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def submit(self, frame: Frame) -> None:
        if self.in_flight >= self.depth:
            raise ValueError(f"{counted(self.depth, 'frame')} in flight already: collect one first")
        started_at_s = time.perf_counter()
        slot = self._submitted % self.depth
        letterbox = Letterbox.for_model(frame, self._model.spec)
        letterbox.apply(frame, self._engine.input(slot))
        preprocess_ms = (time.perf_counter() - started_at_s) * 1e3
        self._engine.start(slot)
        self._in_flight.append((slot, frame, letterbox, preprocess_ms))
        self._submitted += 1

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        if not self._in_flight:
            raise ValueError("no frame is in flight")
        slot, frame, letterbox, preprocess_ms = self._in_flight.popleft()
        output, inference_ms = self._engine.wait(slot)
        started_at_s = time.perf_counter()
        detections = self._postprocess(output, letterbox)
        postprocess_ms = (time.perf_counter() - started_at_s) * 1e3
        return frame, detections, DetectTimes(preprocess_ms, inference_ms, postprocess_ms)

    def report(self, conf: ClassThresholds, classes: Sequence[str] | None) -> None:
        from streamer.detector import class_ids

        lowest = thresholds_by_id(conf, None, self.labels) if conf.by_class else conf.default
        self._postprocess = self._postprocess.with_thresholds(lowest, class_ids(classes, self.labels))

    def close(self) -> None:
        self._in_flight.clear()
        self._engine.close()


def open_cpu_detector(
    name: str,
    path: Path,
    spec: ModelSpec | None,
    load: Callable[[], ModelFile],
    postprocessor_for: Callable[[ModelSpec], Postprocessor],
    *,
    precision: str,
    depth: int | None,
    batch: int | Literal["auto"] | None,
    streams: int,
    live: bool,
    threads: int | None,
    self_check: bool,
) -> CpuDetector:
    """Opens a detector on a CPU; the options and errors are those of `streamer.detector.open_detector`.

    Args:
        name: the engine, one of `ENGINE_NAMES`.
        path: the model's file.
        spec: its description, where that isn't the file's own.
        load: reads the model; it isn't called where an engine is restored from the cache.
        postprocessor_for: makes the postprocessor for the model's description.
    """
    kept = CompiledModels(path, spec, precision, threads) if name == "openvino" else None
    compiled: dict[CpuDetector, tuple[int | None, Engine]] = {}

    def open_one(requests: int | None) -> CpuDetector:
        if kept is not None and (restored := kept.open(requests, self_check=self_check)) is not None:
            described, engine = restored
            return CpuDetector(described, engine, postprocessor_for(described.spec))
        model = load()
        postprocessor = postprocessor_for(model.spec)
        engine = open_engine(name, model, slots=requests, precision=precision, threads=threads)
        detector = CpuDetector(model, engine, postprocessor)
        compiled[detector] = requests, engine
        return detector

    if depth is None and batch == "auto" and live:
        detector = open_tuned(open_one, streams, (_digest(path, load), name, precision, threads))
    else:
        detector = open_one(depth or (batch if isinstance(batch, int) else None))
    if self_check and detector in compiled:
        requests, engine = compiled[detector]
        try:
            check(load(), engine)
        except BaseException:
            detector.close()
            raise
        if kept is not None:
            kept.keep(requests, load(), cast("OpenVinoEngine", engine))
    return detector


def _digest(path: Path, load: Callable[[], ModelFile]) -> str:
    """Returns the SHA-256 of the model's files without reading the graph; `load` says why that can't be done."""
    try:
        return content_sha256(path)
    except OSError:
        return load().sha256


def open_tuned(open_one: Callable[[int], CpuDetector], streams: int, key: Sequence[object]) -> CpuDetector:
    """Opens a detector with the number of parallel requests that gives the most frames a second.

    More requests than cores keep the engine busy while the calling thread resizes and postprocesses. One stream gets
    one request, as more would only add latency. `key` is everything else that the speed depends on.
    """
    cores = available_cores()
    opened: dict[int, CpuDetector] = {}

    def measure(requests: int) -> BatchSpeed:
        if requests not in opened:
            opened[requests] = open_one(requests)
        return measure_requests(opened[requests])

    key = (processor_name(), cores, *key, *map(version_of, ENGINE_NAMES))
    try:
        sizes = [1] if streams == 1 else sorted({1, cores, REQUESTS_PER_STREAM * cores})
        best = tune_batch(key, sizes, measure)
        return opened.pop(best, None) or open_one(best)
    finally:
        for detector in opened.values():
            detector.close()


def measure_requests(detector: CpuDetector) -> BatchSpeed:
    """Measures an idle detector with the packaged picture: latency of one request, then throughput."""
    frame = packaged_frame()
    latency_ms = float("inf")
    for _ in range(_WARM_UPS):
        started_at_s = time.perf_counter()
        detector.submit(frame)
        detector.collect()
        latency_ms = min(latency_ms, (time.perf_counter() - started_at_s) * 1e3)
    done, started_at_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - started_at_s) < _MEASURED_S or done < detector.depth:
        while detector.capacity:
            detector.submit(frame)
        detector.collect()
        done += 1
    while detector.in_flight:
        detector.collect()
    return BatchSpeed(detector.depth, done / passed_s, latency_ms)
