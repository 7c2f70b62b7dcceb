"""The interface of detectors: frames in, the same frames with detections out."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from streamer.common.closeable import Closeable
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame


@dataclass(frozen=True)
class EngineInfo:
    """What a detector runs, for the log, the overlay and the report.

    Attributes:
        name: engine, such as ``openvino``.
        precision: the precision in which the network is computed.
        device: the processor or GPU.
        model: the model's name.
        model_sha256: of the model file's bytes.
        fallbacks: why engines that ``auto`` prefers aren't used although their packages, or a GPU, are there.
    """

    name: str
    precision: str
    device: str
    model: str
    model_sha256: str
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class DetectTimes:
    """How long one frame took in a detector, in milliseconds."""

    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float


class Detector(Closeable):
    """Returns frames with their detections, in order, with several in flight. Driven by one thread.

    Attributes:
        info: what runs.
        labels: class names, by class id.
        depth: how many frames may be in flight.
        batch: the best number of frames for one submit.
        gpu: number of the GPU that it runs on; None on a CPU.
    """

    info: EngineInfo
    labels: tuple[str, ...]
    depth: int
    batch: int = 1
    gpu: int | None = None

    @property
    @abc.abstractmethod
    def in_flight(self) -> int:
        """Frames submitted and not yet collected."""

    @property
    def capacity(self) -> int:
        """Frames that may be submitted now, in one batch."""
        return self.depth - self.in_flight

    def prepare(self, frame: Frame) -> None:
        """Does part of the work for `frame` before `submit`; optional, called by the thread that captured it.

        Raises:
            EngineError: if the engine refuses.
        """

    @abc.abstractmethod
    def submit(self, frame: Frame) -> None:
        """Starts work on `frame` and returns at once.

        Raises:
            ValueError: if `depth` frames are in flight already.
            EngineError: if the engine refuses.
        """

    def submit_batch(self, frames: Sequence[Frame]) -> None:
        """Starts work on 1 to `batch` frames of any sizes, together where the engine can; `collect` returns each.

        Raises:
            ValueError: if they exceed `capacity`.
            EngineError: if the engine refuses.
        """
        for frame in frames:
            self.submit(frame)

    @abc.abstractmethod
    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        """Waits for the oldest frame in flight.

        Raises:
            ValueError: if none is in flight.
            EngineError: if computing failed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the engine. Safe to call twice."""

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Detections]]:
        """Yields every frame of `frames` with its detections, in order, keeping `depth` frames in flight."""
        for frame in frames:
            while not self.capacity:
                yield self.collect()[:2]
            self.submit(frame)
        while self.in_flight:
            yield self.collect()[:2]
