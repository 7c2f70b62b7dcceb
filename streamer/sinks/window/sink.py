"""A window on the desktop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.scaling import Image, fitted, resized
from streamer.frames.viewport import Viewport
from streamer.sinks.base import LiveFigures, Sink, StopRequested
from streamer.sinks.files import reason
from streamer.sinks.window.display import display_problem, max_window_wh, quiet_qt, resend_map_events

if TYPE_CHECKING:
    from streamer.sinks.mosaic.window import TiledWindow

_QUIT_KEYS = (ord("q"), ord("Q"), 27)
_REPAINT_S = 0.2
_RESEND_S = (0.1, 0.3, 1.0, 3.0)  # after opening
_KEY_BITS = 0xFFFF  # above are modifiers such as Num Lock
_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_GUI_NORMAL


class DesktopWindow:
    """A resizable window that asks for its picture; ``q``, Esc and its close button raise `StopRequested`.

    All methods belong to the main thread.
    """

    def __init__(self, title: str, paint: Callable[[tuple[int, int]], Image], *, keep_ratio: bool = True) -> None:
        """Opens nothing yet: the window appears with the first `show`.

        Args:
            title: the window's title, unique.
            paint: returns the picture to show, (H, W, 3) uint8 BGR, for the window's width and height, both 0 while it
                isn't laid out; a picture of another size is stretched.
            keep_ratio: whether stretching keeps the aspect ratio.

        Raises:
            SinkError: if there is no display, or OpenCV was built without windows.
        """
        problem = display_problem()
        if problem:
            raise SinkError(f"can't open a window: {problem}, or choose another --output")
        quiet_qt()
        self._title = title
        self._paint = paint
        self._flags = _FLAGS | (cv2.WINDOW_KEEPRATIO if keep_ratio else cv2.WINDOW_FREERATIO)
        self._opened_s = self._shown_s = 0.0
        self._resent = 0
        self.is_open = False

    def show(self, size_wh: tuple[int, int]) -> None:
        """Shows a new picture with the next `poll`; a window opens at `size_wh`, reduced to 1280x720 and the screen.

        Raises:
            SinkError: if the window system fails.
        """
        try:
            if not self.is_open:
                cv2.namedWindow(self._title, self._flags)
                self.is_open = True
                self._opened_s = time.perf_counter()
                cv2.resizeWindow(self._title, *fitted(size_wh, max_window_wh()))
            self._show()
        except cv2.error as error:
            raise SinkError(f"the window failed: {reason(error)}; choose another --output") from error

    def poll(self) -> None:
        """Handles the window's events and repaints it every 0.2 s, since it may lose its content when it is resized.

        Raises:
            StopRequested: when a key or the close button asked for the end.
        """
        if not self.is_open:
            return
        key = cv2.pollKey()
        if not self._is_visible():
            self.is_open = False
            raise StopRequested
        if key != -1 and key & _KEY_BITS in _QUIT_KEYS:
            raise StopRequested
        now_s = time.perf_counter()
        if self._resent < len(_RESEND_S) and now_s - self._opened_s > _RESEND_S[self._resent]:
            self._resent += 1
            resend_map_events()
        if now_s - self._shown_s > _REPAINT_S:
            self._show()

    def close(self) -> None:
        """Closes the window. Safe to call twice."""
        if self.is_open:
            self.is_open = False
            if self._is_visible():
                cv2.destroyWindow(self._title)
                cv2.pollKey()

    def _is_visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # OpenCV's Qt ends with its last window
            return False

    def _show(self) -> None:
        _, _, width, height = cv2.getWindowImageRect(self._title)
        is_laid_out = min(width, height) > 0  # not so while minimised, either
        cv2.imshow(self._title, self._paint((width, height) if is_laid_out else (0, 0)))
        self._shown_s = time.perf_counter()


class ViewerSink(Sink):
    """An output on a window: a single picture stays until the window is closed."""

    live_figures = LiveFigures.BY_DEFAULT
    live_view = True
    main_thread = True
    _window: DesktopWindow | TiledWindow
    _count = 0  # frames written

    @property
    def lingers(self) -> bool:
        return self._window.is_open and self._count == 1

    def poll(self) -> None:
        self._window.poll()


class WindowSink(ViewerSink):
    """Shows frames; ``q``, Esc or the window's close button asks the run to end.

    The window can be resized and keeps the picture's aspect ratio; it opens at the picture's size, reduced to fit
    1280x720 and the screen.
    """

    _window: DesktopWindow

    def __init__(self, title: str) -> None:
        """Opens nothing yet: the window appears with the first frame.

        Raises:
            SinkError: if there is no display, or OpenCV was built without windows.
        """
        self._window = DesktopWindow(title, self._painted)
        self._frame: Frame | None = None
        self._viewport: Viewport | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        self._frame = frame
        self._count += 1
        self._window.show(frame.shown_wh)

    def close(self) -> None:
        self._window.close()

    @property
    def viewport(self) -> Viewport | None:
        return self._viewport

    def _painted(self, window_wh: tuple[int, int]) -> Image:
        assert self._frame is not None  # the window opens with the first frame
        if min(window_wh) < 1:
            return self._frame.image
        self._viewport = Viewport(window_wh)
        return resized(self._frame, fitted(self._frame.shown_wh, window_wh))
