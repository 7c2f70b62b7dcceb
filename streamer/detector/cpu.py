"""Detection on a CPU: letterbox into the engine's own buffer, infer, decode."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from streamer.common.cpu_info import processor_name, version_of
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.detector.self_check import check, packaged_frame
from streamer.detector.tuning import Speed, tuned
from streamer.engines import ENGINE_NAMES
from streamer.engines.base import Engine, available_cores
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor

PER_CORE = 2
"""Requests for each core, for throughput: one that is computed and one that waits (measured with two cores and YUV
frames of 720p to JSON lines: 248 frames a second, 219 with one each)."""

_MEASURED_S = 0.15
_WARM_UPS = 3


class CpuDetector(Detector):
    """Drives an asynchronous CPU engine; slots are used in turn, so frames come back in order."""

    def __init__(self, model: ModelFile, engine: Engine, decoder: Postprocessor) -> None:
        """Takes over `engine`: closing the detector closes it."""
        spec = model.spec
        self.info = EngineInfo(engine.name, engine.precision, engine.device, model.path.stem, model.sha256)
        self.labels = spec.labels
        self.depth = engine.slots
        self._model = model
        self._spec = spec
        self._engine = engine
        self._decode = decoder
        self._submitted = 0
        self._flying: deque[tuple[int, Frame, Letterbox, float]] = deque()

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def submit(self, frame: Frame) -> None:
        if self.in_flight >= self.depth:
            raise ValueError(f"{self.depth} frames are in flight already: collect one first")
        began = time.perf_counter()
        slot = self._submitted % self.depth
        letterbox = Letterbox.for_model(frame, self._spec)
        letterbox.apply(frame, self._engine.input(slot))
        preprocess_ms = (time.perf_counter() - began) * 1e3
        self._engine.start(slot)
        self._flying.append((slot, frame, letterbox, preprocess_ms))
        self._submitted += 1

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        if not self._flying:
            raise ValueError("no frame is in flight")
        slot, frame, letterbox, preprocess_ms = self._flying.popleft()
        output, inference_ms = self._engine.wait(slot)
        began = time.perf_counter()
        detections = self._decode(output, letterbox)
        postprocess_ms = (time.perf_counter() - began) * 1e3
        return frame, detections, DetectTimes(preprocess_ms, inference_ms, postprocess_ms)

    def check(self) -> None:
        """Runs the packaged picture, while nothing is in flight, and compares; see `self_check.check`.

        Raises:
            EngineError, ModelError: if the engine computes the model wrongly, or the model is damaged.
        """
        check(self._model, self._engine)

    def close(self) -> None:
        self._flying.clear()
        self._engine.close()


def open_tuned(open_one: Callable[[int], CpuDetector], streams: int, wishes: Sequence[object]) -> CpuDetector:
    """Opens a detector with the number of requests that finds most frames a second; measured, where it isn't known.

    More requests than cores keep the engine busy while the thread that feeds it resizes and decodes.

    Args:
        open_one: opens one with so many requests.
        streams: how many there will be: with one alone, more requests only add delay.
        wishes: what else `open_one` goes by.

    Raises:
        EngineError: if the engine refuses the model, or computing fails.
    """
    cores = available_cores()
    opened: dict[int, CpuDetector] = {}

    def measure(requests: int) -> Speed:
        if requests not in opened:
            opened[requests] = open_one(requests)
        return measure_requests(opened[requests])

    key = (processor_name(), cores, *wishes, *map(version_of, ENGINE_NAMES))
    try:
        best = tuned(key, [1] if streams == 1 else sorted({1, cores, PER_CORE * cores}), measure)
        return opened.pop(best, None) or open_one(best)
    finally:
        for detector in opened.values():
            detector.close()


def measure_requests(detector: CpuDetector) -> Speed:
    """Measures an idle detector with the packaged picture for a moment, and how long a picture takes alone."""
    frame = packaged_frame()
    alone_ms = float("inf")
    for _ in range(_WARM_UPS):
        began = time.perf_counter()
        detector.submit(frame)
        detector.collect()
        alone_ms = min(alone_ms, (time.perf_counter() - began) * 1e3)
    done, began = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - began) < _MEASURED_S or done < detector.depth:
        while detector.room:
            detector.submit(frame)
        detector.collect()
        done += 1
    while detector.in_flight:
        detector.collect()
    return Speed(detector.depth, done / passed_s, alone_ms)
