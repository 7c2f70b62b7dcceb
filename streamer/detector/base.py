"""The interface of detectors: frames in, the same frames with detections out."""

from __future__ import annotations

import abc
import contextlib
import os
import time
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from streamer.common.closeable import Closeable
from streamer.common.errors import StreamerError
from streamer.detector.filter_options import ClassThresholds
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame

Image: TypeAlias = "npt.NDArray[np.uint8] | Frame"


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
        can_report_more: whether `report` works.
    """

    info: EngineInfo
    labels: tuple[str, ...]
    depth: int
    batch: int = 1
    gpu: int | None = None
    can_report_more: bool = False

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

    def report(self, conf: ClassThresholds, classes: Sequence[str] | None) -> None:
        """Reports other scores and classes from the next frame that is collected on; on any thread.

        Args:
            conf: lowest scores.
            classes: labels or their numbers; None for all.

        Raises:
            ConfigError: if a class is unknown.
            NotImplementedError: if it can't, see `can_report_more`.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the engine. Safe to call twice."""

    def detect(self, image: Image, *, rgb: bool = False) -> Detections:
        """Returns the objects in one picture.

        Example:
            >>> import numpy as np
            >>> from streamer import open_detector
            >>> with open_detector() as detector:
            ...     detector.detect(np.zeros((480, 640, 3), np.uint8))
            Detections(0)

        Args:
            image: (H, W, 3) uint8, BGR as OpenCV reads files, or a `Frame`. It isn't changed.
            rgb: whether an array is RGB, as Pillow, imageio and matplotlib have it.

        Raises:
            TypeError: if `image` is neither an array nor a frame.
            ValueError: if it isn't (H, W, 3) uint8, or frames of `stream` or `submit` are in flight.
            EngineError: if computing failed.
        """
        return self.detect_batch([image], rgb=rgb)[0]

    def detect_batch(self, images: Iterable[Image], *, rgb: bool = False) -> list[Detections]:
        """Returns the objects in each of several pictures of any sizes, computed together where the engine can.

        Args:
            images: as `detect` takes them; an empty iterable gives an empty list.
            rgb: whether arrays are RGB.

        Raises:
            TypeError, ValueError, EngineError: as `detect`.
        """
        if self.in_flight:
            raise ValueError(f"{self.in_flight} frames of a stream are in flight: finish or close it first")
        waiting = [_as_frame(image, number, rgb=rgb) for number, image in enumerate(images)]
        found = []
        try:
            while waiting or self.in_flight:
                count = min(self.batch, self.capacity, len(waiting))
                if count:
                    self.submit_batch(waiting[:count])
                    del waiting[:count]
                else:
                    found.append(self.collect()[1])
        finally:
            self._drop_in_flight()
        return found

    def stream(self, frames: Iterable[Frame]) -> Generator[tuple[Frame, Detections], None, None]:
        """Yields every frame of `frames` with its detections, in order, keeping `depth` frames in flight.

        A caller that leaves the loop early gets no more; frames that are in flight then are finished and dropped.

        Raises:
            TypeError: if `frames` is a path or URI; `open_source` opens one.
            SourceError, EngineError: as the source and `collect`.
        """
        if isinstance(frames, (str, os.PathLike)):
            raise TypeError(f"wanted an open source or frames, got a {type(frames).__name__}: open_source opens one")
        try:
            for frame in frames:
                while not self.capacity:
                    yield self.collect()[:2]
                self.submit(frame)
            while self.in_flight:
                yield self.collect()[:2]
        finally:
            self._drop_in_flight()

    async def astream(self, frames: Iterable[Frame]) -> AsyncIterator[tuple[Frame, Detections]]:
        """Yields as `stream` does, for ``async for``: waiting for a frame or the engine doesn't block the event loop.

        Frames are taken and detected on one thread of its own. Leaving the loop, or cancelling the task, interrupts a
        `Source`, and the thread ends once the source has returned; use `contextlib.aclosing` to wait for that.

        Example::

            with open_detector() as detector, open_source("sample") as source:
                async for frame, detections in detector.astream(source):
                    print(frame.index, len(detections))

        Args:
            frames: an open source, or any iterable of frames.

        Raises:
            TypeError, SourceError, EngineError: as `stream`.
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        loop, results = asyncio.get_running_loop(), self.stream(frames)
        thread = ThreadPoolExecutor(1, "astream")
        is_over = False
        try:
            while (result := await loop.run_in_executor(thread, next, results, None)) is not None:
                yield result
            is_over = True
        finally:
            interrupt = getattr(frames, "interrupt", None)
            if interrupt is not None and not is_over:
                interrupt()
            closed = thread.submit(results.close)
            thread.shutdown(wait=False)
            await asyncio.shield(asyncio.wrap_future(closed))

    def _drop_in_flight(self) -> None:
        for _ in range(self.in_flight):
            with contextlib.suppress(StreamerError):
                self.collect()


def _as_frame(image: Image, number: int, *, rgb: bool) -> Frame:
    if isinstance(image, Frame):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"wanted an array (H, W, 3) uint8 or a Frame, got {type(image).__name__}: "
            "cv2.imread reads a file, numpy.asarray converts a Pillow picture (rgb=True)"
        )
    pixels = np.ascontiguousarray(image[..., ::-1] if rgb and image.ndim == 3 else image)
    return Frame(pixels, "image", number, 0.0, time.perf_counter())
