"""How true a written video is to the frames that were drawn for it: peak signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.contenders import CONF, IOU, Loop
from streamer.detector import open_detector
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sinks import open_sink
from streamer.sinks.base import Sink
from streamer.sources import open_source

Image = npt.NDArray[np.uint8]
_PEAK = 255.0


class Keeper(Sink):
    """An output that keeps every `step`-th drawn frame in memory."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.kept: dict[int, Frame] = {}

    def write(self, frame: Frame, detections: Detections) -> None:
        if frame.index % self._step == 0:
            self.kept[frame.index] = frame

    def close(self) -> None:
        """Keeps what it has."""


def streamer_psnr(model: str, clip: Path, output: Path, step: int) -> tuple[float, float]:
    """Runs this program on `clip` and compares every `step`-th frame of the video with the frame drawn.

    Returns:
        PSNR in dB over all compared frames, and that of the worst one.
    """
    source = open_source(str(clip))
    keeper = Keeper(step)
    with open_detector(model, device="cpu", conf=CONF, iou=IOU) as detector:
        video = open_sink(str(output), source.info, labels=detector.labels)
        Pipeline([StreamSpec(source, [("video", video), ("keeper", keeper)])], detector).run()
    return psnr_of(output, {index: frame.image for index, frame in keeper.kept.items()})


def loop_psnr(loop: Loop, clip: Path, output: Path, step: int) -> tuple[float, float]:
    """Draws every `step`-th frame of `clip` again and compares it with the video that `loop` wrote to `output`.

    Returns:
        PSNR in dB over all compared frames, and that of the worst one.
    """
    body = loop.body()
    capture = cv2.VideoCapture(str(clip))
    drawn: dict[int, Image] = {}
    index = 0
    while capture.grab():
        if index % step == 0:
            drawn[index] = body(np.asarray(capture.retrieve()[1], np.uint8))
        index += 1
    capture.release()
    return psnr_of(output, drawn)


def psnr_of(video: Path, drawn: Mapping[int, Image]) -> tuple[float, float]:
    """Compares a video's frames with what was meant.

    Args:
        video: the written file.
        drawn: (H, W, 3) uint8 BGR by frame number, at least one.

    Returns:
        PSNR in dB of the mean squared error over all frames of `drawn`, and of the worst frame.

    Raises:
        ValueError: if the video lacks one of the frames.
    """
    errors: list[float] = []
    with open_source(str(video)) as written:
        for frame in written:
            if frame.index in drawn:
                difference = frame.image.astype(np.float32) - drawn[frame.index]
                errors.append(float(np.square(difference).mean()))
    if len(errors) != len(drawn) or not errors:
        raise ValueError(f"wanted {len(drawn)} frames to compare, {str(video)!r} holds {len(errors)} of them")
    return psnr_db(sum(errors) / len(errors)), psnr_db(max(errors))


def psnr_db(mean_squared_error: float) -> float:
    """Returns 10 log10(255^2 / MSE) in dB, infinite for equal pictures."""
    return 10 * math.log10(_PEAK**2 / mean_squared_error) if mean_squared_error else math.inf
