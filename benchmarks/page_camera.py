"""A camera for ``benchmarks.live_page``: prepared packets, each sent when it is due, that say which they are.

A person walks to and fro before a still background; below, each picture has its number, which `tests.rtsp.code` reads.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.common.closeable import Closeable
from streamer.sources import open_source
from tests.rtsp.code import coded_picture
from tests.rtsp.film import CLOCK_HZ, CODECS, Film
from tests.rtsp.server import RtspServer

SIZE_WH = (1280, 720)
PICTURES = 240  # until the numbers start again
KEY_INTERVAL = 60
STEP_PX = 8  # a picture
CODE_ROWS = 120
_FRAME, _PERSON_XYXY = 240, (861, 112, 1243, 679)  # of the packaged clip
_SCALE = 0.9
_STARTING_S = 120.0
_GREY = 120
_DOWN_TO_Y = 590


def person_xyxy(number: int) -> tuple[float, float, float, float]:
    """Returns where the person's crop is in the picture of that number, in pixels."""
    left, top, right, bottom = _PERSON_XYXY
    width, height = (right - left) * _SCALE, (bottom - top) * _SCALE
    x = left_of(number)
    return x, _DOWN_TO_Y - height, x + width, _DOWN_TO_Y


def left_of(number: int) -> int:
    """Returns the crop's left edge in a picture: to the right in the first half of `PICTURES`, then back."""
    half = PICTURES // 2
    at = number % PICTURES
    return (at if at < half else PICTURES - at) * STEP_PX - (half * STEP_PX - 936) // 2


def direction_of(number: int) -> int:
    """Returns 1 where the person walks to the right, else -1."""
    return 1 if number % PICTURES < PICTURES // 2 else -1


def pictures() -> Iterator[npt.NDArray[np.uint8]]:
    """Yields `PICTURES` pictures, (720, 1280, 3) uint8 BGR."""
    crop = _person()
    height, width = crop.shape[:2]
    for number in range(PICTURES):
        planes = coded_picture(number, 0, SIZE_WH)
        picture = np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420), np.uint8)
        picture[: SIZE_WH[1] - CODE_ROWS] = _GREY
        left = left_of(number)
        first, last = max(0, left), min(SIZE_WH[0], left + width)
        picture[_DOWN_TO_Y - height : _DOWN_TO_Y, first:last] = crop[:, first - left : last - left]
        yield picture


def _person() -> npt.NDArray[np.uint8]:
    with open_source("sample") as source:
        frame = next(itertools.islice(source, _FRAME, None))
    left, top, right, bottom = _PERSON_XYXY
    size_wh = round((right - left) * _SCALE), round((bottom - top) * _SCALE)
    return np.asarray(cv2.resize(frame.image[top:bottom, left:right], size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def coded(fps: int) -> list[bytes]:
    """Returns the pictures as H.264, each at once, with start codes."""
    encoder = CODECS["h264"].open_encoder(SIZE_WH, fps, KEY_INTERVAL)
    packets: list[Any] = []
    for number, picture in enumerate(pictures()):
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p", threads=1)
        frame.pts = number * CLOCK_HZ // fps
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in [*packets, *encoder.encode(None)]]


class DueFilm(Film):
    """Sends picture k at `origin_s` + k / fps (`time.monotonic`), to every client; it begins with a key frame."""

    def __init__(self, packets: Sequence[bytes], fps: int, origin_s: float) -> None:
        super().__init__(CODECS["h264"], SIZE_WH, packets[0])
        self._packets, self._fps, self._origin_s = packets, fps, origin_s

    def play(self, gone: threading.Event) -> Iterator[tuple[float, bytes]]:
        """See `Film.play`."""
        now = math.ceil((time.monotonic() - self._origin_s) * self._fps)
        first = math.ceil(now / KEY_INTERVAL) * KEY_INTERVAL
        for k in itertools.count(first):
            if gone.wait(self._origin_s + k / self._fps - time.monotonic()):
                return
            yield (k - first) / self._fps, self._packets[k % PICTURES]


class DueCamera(Closeable):
    """The camera in a process of its own; a context manager.

    Attributes:
        url: where to connect.
        origin_s: when picture 0 was due, by `time.monotonic`.
        fps: pictures a second.
    """

    def __init__(self, fps: int) -> None:
        """Makes the pictures and serves them; returns when it does.

        Raises:
            RuntimeError: if it doesn't start.
        """
        context = multiprocessing.get_context("spawn")
        self.fps = fps
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, fps), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(_STARTING_S):
            self.close()
            raise RuntimeError("the simulated camera didn't start")
        self.url, self.origin_s = self._pipe.recv()

    def age_s(self, number: int, at_s: float) -> float:
        """Returns how long before `at_s` the newest picture of that number was due."""
        newest = math.floor((at_s - self.origin_s) * self.fps)
        k = newest - (newest - number) % PICTURES
        return at_s - self.origin_s - k / self.fps

    def close(self) -> None:
        """Ends it."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, fps: int) -> None:
    packets = coded(fps)
    origin_s = time.monotonic()
    with RtspServer(DueFilm(packets, fps, origin_s)) as server:
        pipe.send((server.url, origin_s))
        try:
            pipe.recv()
        except EOFError:
            pass
