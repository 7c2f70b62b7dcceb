"""Webcams, through OpenCV."""

from __future__ import annotations

import logging
import os
import sys
import time

import cv2
import numpy as np

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources.base import SourceInfo
from streamer.sources.cameras import cameras_text
from streamer.sources.opencv_logging import quiet_opencv
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.prefetched import PrefetchedSource
from streamer.sources.spec import SourceSpec

_log = logging.getLogger(__name__)
_FPS_TOLERANCE = 0.5  # a driver may give 29.97 for 30


class WebcamSource(PrefetchedSource):
    """Live frames of a webcam as BGR; `pts_s` is the time since the first one.

    Logs the size, rate and format that the device uses, and a warning for each that differs from the options. An
    unplugged camera raises `SourceError`: `LiveSource` reconnects it.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions = DEFAULT_OPTIONS) -> None:
        """Opens a camera by its number or device node, and reads its first frame.

        Raises:
            SourceError: if it isn't there, is in use, or gives no picture.
        """
        quiet_opencv()
        uri = spec.uri.reveal()
        self._uri, self._name, self._options = uri, spec.name, options
        linux = sys.platform == "linux"
        if linux:
            _check_node(uri)
        backend = cv2.CAP_V4L2 if linux else cv2.CAP_ANY
        self._camera = cv2.VideoCapture(int(uri) if uri.isdigit() else uri, backend)
        self._count = 0
        self._prefetch()

    def _read_first(self) -> Frame:
        camera, options = self._camera, self._options
        if not camera.isOpened():
            raise SourceError(
                f"camera {self._uri!r} can't be opened; close the program that uses it, or choose another:"
                f" {cameras_text()}"
            )
        wanted = options.pixel_format
        code = None if wanted is None else cv2.VideoWriter.fourcc(*wanted)
        settings = (
            (cv2.CAP_PROP_FOURCC, code),  # first: sizes and rates depend on it
            (cv2.CAP_PROP_FRAME_WIDTH, options.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, options.height),
            (cv2.CAP_PROP_FPS, options.fps),
        )
        for key, value in settings:
            if value is not None:
                camera.set(key, value)
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not the oldest of four
        done, image = camera.read()
        if not done:
            raise SourceError(
                f"camera {self._uri!r} opens but gives no picture; plug it in again, close other programs that use it,"
                " or ask for another size"
            )
        height, width = image.shape[:2]
        fps = float(camera.get(cv2.CAP_PROP_FPS))
        self.info = SourceInfo(self._name, self._uri, (width, height), fps if fps > 0 else None, live=True)
        self._started_s = time.perf_counter()
        self._log_settings(width, height, fps)
        return self._frame(image)

    def _read(self) -> Frame:
        done, image = self._camera.read()
        if not done:
            raise SourceError(f"camera {self._uri!r} stopped giving pictures; check its cable")
        return self._frame(image)

    def _release(self) -> None:
        self._camera.release()

    def _frame(self, image: cv2.typing.MatLike) -> Frame:
        now_s = time.perf_counter()
        self._count += 1
        return Frame(np.asarray(image, np.uint8), self._name, self._count - 1, now_s - self._started_s, now_s)

    def _log_settings(self, width: int, height: int, fps: float) -> None:
        options = self._options
        actual = int(self._camera.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
        pixel_format = actual if actual.isprintable() else "unknown"
        _log.info("camera %s: %dx%d at %g frames/s, %s", self._uri, width, height, fps, pixel_format)
        if options.pixel_format is not None and options.pixel_format != pixel_format:
            _log.warning("camera %s: asked for %s, got %s", self._uri, options.pixel_format, pixel_format)
        wanted = (options.width or width, options.height or height)
        if wanted != (width, height):
            _log.warning("camera %s: asked for %dx%d, got %dx%d", self._uri, *wanted, width, height)
        if options.fps is not None and abs(options.fps - fps) > _FPS_TOLERANCE:
            _log.warning("camera %s: asked for %g frames/s, got %g", self._uri, options.fps, fps)


def _check_node(uri: str) -> None:
    node = f"/dev/video{uri}" if uri.isdigit() else uri
    if not os.path.exists(node):  # noqa: PTH110 - Path.exists raises when a name is too long
        raise SourceError(f"camera {uri!r} isn't there ({node}); {cameras_text()}")
    if not os.access(node, os.R_OK | os.W_OK):
        raise SourceError(f"camera {uri!r}: no permission for {node}; add yourself to its group, often 'video'")
