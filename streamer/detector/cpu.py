"""Detection on a CPU: letterbox into the engine's own buffer, infer, decode."""

from __future__ import annotations

import time
from collections import deque

from streamer.decode import Decoder
from streamer.detections import Detections
from streamer.detector.base import Detector, DetectTimes, EngineInfo
from streamer.engines.base import Engine
from streamer.frame import Frame
from streamer.letterbox import Letterbox
from streamer.model_file import ModelFile


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
