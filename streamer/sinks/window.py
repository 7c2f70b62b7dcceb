"""A window on the desktop."""

from __future__ import annotations

import time

import cv2
import numpy as np
import numpy.typing as npt

from streamer.detections import Detections
from streamer.errors import SinkError
from streamer.frame import Frame
from streamer.sinks.base import Sink, StopRequested
from streamer.sinks.display import display_problem, quiet_qt, reannounce_windows, window_room_wh
from streamer.sinks.files import reason

_QUIT_KEYS = (ord("q"), ord("Q"), 27)
_REPAINT_S = 0.2
_REANNOUNCE_S = (0.1, 0.3, 1.0, 3.0)  # after opening
_KEY_BITS = 0xFFFF  # above are modifiers such as Num Lock
_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL


class WindowSink(Sink):
    """Shows frames; ``q``, Esc or the window's close button asks the run to end.

    The window can be resized and keeps the picture's aspect ratio; it opens at the picture's own size, or at what of it
    fits 1280x720 and the screen. A picture larger than the window is reduced before it is shown.
    """

    live_view = True
    main_thread = True

    def __init__(self, title: str) -> None:
        """Opens nothing yet: the window appears with the first frame.

        Raises:
            SinkError: if there is no display, or OpenCV was built without windows.
        """
        problem = display_problem()
        if problem:
            raise SinkError(f"can't open a window: {problem}, or choose another --output")
        quiet_qt()
        self._title = title
        self._open = False
        self._frame: Frame | None = None
        self._opened_s = self._shown_s = 0.0
        self._reannounced = 0
        self._count = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        """Shows the frame, which must have the boxes drawn on it already; `poll` lets the window paint it.

        Raises:
            SinkError: if the window system refuses.
        """
        self._frame = frame
        self._count += 1
        try:
            if not self._open:
                self._show_first(frame.size_wh)
            self._show(frame)
        except cv2.error as error:
            raise SinkError(f"the window failed: {reason(error)}; choose another --output") from error

    @property
    def lingers(self) -> bool:
        """A single picture stays until its window is closed."""
        return self._open and self._count == 1

    def poll(self) -> None:
        """Lets the window handle its events, and shows the last frame again now and then.

        A window that has just appeared or changed its size may have dropped what was painted.

        Raises:
            StopRequested: when a key or the close button asked for the end.
        """
        if not self._open:
            return
        key = cv2.pollKey()
        if not self._is_visible():
            self._open = False
            raise StopRequested
        if key != -1 and key & _KEY_BITS in _QUIT_KEYS:
            raise StopRequested
        now_s = time.perf_counter()
        if self._reannounced < len(_REANNOUNCE_S) and now_s - self._opened_s > _REANNOUNCE_S[self._reannounced]:
            self._reannounced += 1
            reannounce_windows()
        if self._frame is not None and now_s - self._shown_s > _REPAINT_S:
            self._show(self._frame)

    def close(self) -> None:
        """Takes the window away."""
        if self._open:
            self._open = False
            if self._is_visible():
                cv2.destroyWindow(self._title)
                cv2.pollKey()

    def _is_visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # with its last window, OpenCV's Qt has gone too
            return False

    def _show(self, frame: Frame) -> None:
        _, _, *room_wh = cv2.getWindowImageRect(self._title)
        cv2.imshow(self._title, _reduced(frame, (room_wh[0], room_wh[1])))
        self._shown_s = time.perf_counter()

    def _show_first(self, size_wh: tuple[int, int]) -> None:
        cv2.namedWindow(self._title, _FLAGS)
        self._open = True
        self._opened_s = time.perf_counter()
        cv2.resizeWindow(self._title, *_fitted(size_wh, window_room_wh()))


def _fitted(size_wh: tuple[int, int], room_wh: tuple[int, int]) -> tuple[int, int]:
    """Returns the largest size of the same aspect ratio inside `room_wh`, never larger than `size_wh`, at least 1x1."""
    width, height = size_wh
    scale = min(1.0, room_wh[0] / width, room_wh[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reduced(frame: Frame, room_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if min(room_wh) < 1:  # a window that is minimised, or not laid out yet
        return frame.image
    size_wh = _fitted(frame.size_wh, room_wh)
    if size_wh == frame.size_wh:
        return frame.image
    if isinstance(frame.pixels, np.ndarray):
        return np.asarray(cv2.resize(frame.pixels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    return frame.pixels.bgr_resized(size_wh)
