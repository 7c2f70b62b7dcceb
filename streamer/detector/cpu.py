"""Detection on a CPU: letterbox into the engine's own buffer, infer, decode."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from streamer.decode import Decoder
from streamer.detections import Detections
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.detector.tuning import Speed, tuned, version_of
from streamer.engines import ENGINE_NAMES
from streamer.engines.base import Engine, available_cores
from streamer.frame import Frame
from streamer.letterbox import Letterbox
from streamer.model_file import ModelFile
from streamer.processor import processor_name
from streamer.self_check import packaged_frame

_MEASURED_S = 0.15


class CpuDetector(Detector):
    """Drives an asynchronous CPU engine; slots are used in turn, so frames come back in order."""

    def __init__(self, model: ModelFile, engine: Engine, decoder: Decoder) -> None:
        """Takes over `engine`: closing the detector closes it."""
        spec = model.spec
        self.info = EngineInfo(engine.name, engine.precision, engine.device, model.path.stem, model.sha256)
        self.labels = spec.labels
        self.depth = engine.slots
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
        letterbox = Letterbox.fit(frame.size_wh, self._spec.input_size_wh, self._spec.keep_ratio)
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

    def close(self) -> None:
        self._flying.clear()
        self._engine.close()


def open_tuned(
    model: ModelFile, open_engine: Callable[[int], Engine], streams: int, wishes: Sequence[object]
) -> Engine:
    """Opens an engine with the number of requests that computes most frames a second; measured, where it isn't known.

    Args:
        model: what it runs.
        open_engine: opens one with so many requests.
        streams: as many requests are of use, at most.
        wishes: what else `open_engine` goes by.

    Raises:
        EngineError: if the engine refuses the model, or computing fails.
    """
    cores = available_cores()
    opened: dict[int, Engine] = {}

    def measure(requests: int) -> Speed:
        if requests not in opened:
            opened[requests] = open_engine(requests)
        return measure_requests(model, opened[requests])

    key = (model.sha256, processor_name(), cores, *wishes, *map(version_of, ENGINE_NAMES))
    chosen: Engine | None = None
    try:
        best = tuned(key, sorted({1, min(streams, max(1, cores // 2)), min(streams, cores)}), measure)
        chosen = opened.pop(best, None) or open_engine(best)
    finally:
        for engine in opened.values():
            engine.close()
    return chosen


def measure_requests(model: ModelFile, engine: Engine) -> Speed:
    """Measures an idle engine with all of its requests side by side, and with one alone, for a moment."""
    frame = packaged_frame()
    letterbox = Letterbox.fit(frame.size_wh, model.spec.input_size_wh, model.spec.keep_ratio)
    for slot in range(engine.slots):
        letterbox.apply(frame, engine.input(slot))
        engine.start(slot)
        engine.wait(slot)
    alone_ms = engine.wait(engine.slots - 1)[1]
    for slot in range(engine.slots):
        engine.start(slot)
    done, began = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - began) < _MEASURED_S or done < engine.slots:
        engine.wait(done % engine.slots)
        engine.start(done % engine.slots)
        done += 1
    for slot in range(engine.slots):
        engine.wait(slot)
    return Speed(engine.slots, done / passed_s, alone_ms)
