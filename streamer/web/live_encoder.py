"""A stream encoded for browsers that can't play its packets, or with boxes on it, while somebody watches."""

from __future__ import annotations

import dataclasses
import logging
import threading
from fractions import Fraction

import cv2
import av
import numpy as np

from streamer.common.closeable import Closeable
from streamer.common.errors import StreamerError
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.scaling import fill_plane, fitted
from streamer.frames.yuv import Yuv420, copy_tags
from streamer.sinks.options import Encoding
from streamer.sinks.video.encoded_tap import EncodedTap
from streamer.web.live_stream import LiveStream, SeenFrame

log = logging.getLogger(__name__)

MOST_WH = 1280, 720
_ENCODING = Encoding(encoder="h264")
_KEPT_S = 1.0


class LiveEncoder(Closeable):
    """Gives the newest frames of a stream to an encoder, from `start` until it is closed.

    They are at most 1280x720, with square pixels. What comes faster than it is drawn is left out.

    Attributes:
        tap: the packets, with the times of their frames; the encoder works while it is read.
    """

    def __init__(self, stream: LiveStream, *, has_boxes: bool) -> None:
        """`has_boxes` draws what is detected."""
        self.tap = EncodedTap(stream.name, _KEPT_S, encoding=_ENCODING)
        self._stream = stream
        self._annotator = Annotator(stream.labels) if has_boxes else None
        self._news = threading.Event()
        self._is_closed = False
        self._unwatch = stream.watch(self._news.set)
        self._thread = threading.Thread(target=self._run, name=f"show {stream.name}", daemon=True)

    def start(self) -> None:
        """Begins with the newest frame, once somebody reads the tap."""
        self._news.set()
        self._thread.start()

    def close(self) -> None:
        """Ends its threads without waiting for them. Safe to call twice."""
        self._is_closed = True
        self._unwatch()
        self._news.set()

    def _run(self) -> None:
        seen: SeenFrame | None = None
        try:
            while True:
                self._news.wait()
                self._news.clear()
                if self._is_closed:
                    break
                newest = self._stream.newest
                if newest is not None and newest is not seen:
                    seen = newest
                    self.tap.offer(self._drawn(newest))
        except StreamerError as error:
            log.warning("source %r can't be shown on the live page: %s", self._stream.name, error)

    def _drawn(self, seen: SeenFrame) -> Frame:
        frame = seen.frame
        if self._annotator is not None:
            frame = self._annotator.annotate(frame, seen.detections)
        width, height = fitted(frame.shown_wh, MOST_WH)
        return at_size(frame, (max(2, width // 2 * 2), max(2, height // 2 * 2)))


def at_size(frame: Frame, size_wh: tuple[int, int]) -> Frame:
    """Returns a frame at another even size, with square pixels; `frame` itself where it is so already."""
    if frame.size_wh == size_wh and frame.pixel_aspect == 1:
        return frame
    pixels = frame.host_pixels
    if not isinstance(pixels, Yuv420):
        smaller = np.asarray(cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        return dataclasses.replace(frame, pixels=smaller, pixel_aspect=Fraction(1))
    picture = av.VideoFrame(*size_wh, pixels.av_frame.format.name)
    copy_tags(picture, pixels.av_frame)
    scaled = Yuv420(picture, writable=True)
    for plane, target in ((pixels.y, scaled.y), (pixels.u, scaled.u), (pixels.v, scaled.v)):
        fill_plane(target, plane)
    return dataclasses.replace(frame, pixels=Yuv420(picture), pixel_aspect=Fraction(1))
