"""Frames as JPEG, encoded once for all who want the same picture."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from streamer.common.errors import StreamerError
from streamer.frames.draw import Annotator
from streamer.frames.scaling import fitted, resized
from streamer.web.live_stream import LiveStream, SeenFrame

log = logging.getLogger(__name__)

MAX_WIDTH, MIN_WIDTH = 3840, 64
DEFAULT_WIDTH = 1280
_WIDTH_STEP = 32  # so that few sizes are encoded
_QUALITY = 80
_THREADS = 2


@dataclass(frozen=True)
class PictureKind:
    """What a picture looks like.

    Attributes:
        has_boxes: whether what is detected is drawn on it.
        width: most pixels in width, and in height.
    """

    has_boxes: bool
    width: int = DEFAULT_WIDTH

    @classmethod
    def of(cls, *, has_boxes: bool, width: int | None = None) -> PictureKind:
        """Returns a kind with a width that is bounded, and rounded to one of few."""
        wanted = min(MAX_WIDTH, max(MIN_WIDTH, width or DEFAULT_WIDTH))
        return cls(has_boxes, -(-wanted // _WIDTH_STEP) * _WIDTH_STEP)


def scaled(seen: SeenFrame, limit_wh: tuple[int, int]) -> SeenFrame:
    """Returns a frame with square pixels, at most that large, (h, w, 3) uint8 BGR, and its detections in its pixels."""
    frame, found = seen.frame, seen.detections
    width, height = fitted(frame.shown_wh, limit_wh)
    own_w, own_h = frame.size_wh
    factors = np.array([width / own_w, height / own_h] * 2, np.float32)
    picture = dataclasses.replace(frame, pixels=resized(frame, (width, height)), pixel_aspect=Fraction(1))
    return SeenFrame(picture, dataclasses.replace(found, boxes_xyxy=found.boxes_xyxy * factors))


def jpeg_of(seen: SeenFrame, kind: PictureKind, annotator: Annotator) -> bytes:
    """Returns a frame as a JPEG file."""
    small = scaled(seen, (kind.width, kind.width))
    frame = annotator.annotate(small.frame, small.detections) if kind.has_boxes else small.frame
    done, content = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "JPEG takes every picture of at least one pixel"
    return content.tobytes()


class Pictures:
    """The JPEG encoder of a page, on threads of its own, which begin with the first picture. Used on one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "page pictures")
        self._made: dict[tuple[LiveStream, PictureKind], tuple[SeenFrame, asyncio.Future[bytes]]] = {}
        self._annotators: dict[Sequence[str], Annotator] = {}

    async def newest(self, stream: LiveStream, kind: PictureKind) -> bytes | None:
        """Returns the newest frame of a stream as a JPEG file; None before the first, and if a GPU doesn't give it."""
        seen = stream.newest
        if seen is None:
            return None
        key = stream, kind
        made = self._made.get(key)
        if made is None or made[0] is not seen:
            annotator = self._annotators.setdefault(stream.labels, Annotator(stream.labels))
            loop = asyncio.get_running_loop()
            made = seen, loop.run_in_executor(self._threads, jpeg_of, seen, kind, annotator)
            self._made = {other: each for other, each in self._made.items() if each[0] is other[0].newest}
            self._made[key] = made
        try:
            return await asyncio.shield(made[1])
        except StreamerError as error:
            log.debug("no picture of %r: %s", stream.name, error)
            return None

    def close(self) -> None:
        """Ends the threads. Safe to call twice."""
        self._threads.shutdown(wait=False, cancel_futures=True)
