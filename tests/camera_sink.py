"""A sink that reads the simulated camera's code off each picture it is given."""

from __future__ import annotations

import time

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.base import Sink
from tests.camera import Code, read_code


def code_of(frame: Frame) -> Code | None:
    """Returns the code along the bottom of a frame, or None where it can't be read."""
    return read_code(frame.pixels.y if isinstance(frame.pixels, Yuv420) else frame.image)


class CodeSink(Sink):
    """Notes number and age of every picture, as it is shown: boxes and overlay drawn.

    Attributes:
        shown: of each picture that could be read, when it was shown (`time.monotonic`), its number and its age, both
            times in seconds.
        unreadable: how many couldn't be read.
    """

    def __init__(self, *, needs_pixels: bool = True) -> None:
        self.needs_pixels = needs_pixels
        self.shown: list[tuple[float, int, float]] = []
        self.unreadable = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        """Reads the frame's code."""
        now_s = time.monotonic()
        code = code_of(frame)
        if code is None:
            self.unreadable += 1
        else:
            self.shown.append((now_s, code.number, now_s - code.sent_s))

    def close(self) -> None:
        """Holds nothing."""

    @property
    def ages_s(self) -> list[float]:
        """The ages alone."""
        return [age_s for _, _, age_s in self.shown]
