"""Several sources in one window."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt

from streamer.detections import Detections
from streamer.draw import write_plate
from streamer.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.window import DesktopWindow, fitted, resized

_Image = npt.NDArray[np.uint8]

_TITLE = "nanodet-stream"
_PAINT_S = 1 / 30
_TILE_WH = (640, 360)  # before the window is reduced to fit the screen
_GAP_PX = 2
_BACKGROUND, _WAITING = 16, 64
_TEXT_OF_TILE, _LEAST_TEXT_PX = 1 / 22, 12


class TiledWindow:
    """One window for all sources, as a grid of panes; ``q``, Esc or its close button asks the run to end.

    Each source has its tile, in the order of `pane`, with its picture in its own ratio and its name; a tile is grey
    until the source's first frame. The window opens at the first `Sink.poll` and can be resized: the tiles are laid out
    anew. Everything happens on the main thread.
    """

    def __init__(self) -> None:
        """Opens nothing yet.

        Raises:
            SinkError: if there is no display, or OpenCV was built without windows.
        """
        self._window = DesktopWindow(_TITLE, self._painted, keep_ratio=False)
        self._panes: list[_Pane] = []
        self._canvas: _Image = np.zeros((0, 0, 3), np.uint8)
        self._painted_s: float | None = None

    def pane(self, name: str) -> Sink:
        """Returns the output for one more source; all are made before the first is used.

        Args:
            name: the source's name, written into its tile.
        """
        pane = _Pane(self, name)
        self._panes.append(pane)
        return pane

    @property
    def is_open(self) -> bool:
        """Whether there is a window on the screen."""
        return self._window.is_open

    def poll(self) -> None:
        """Lets the window handle its events, and paints what has changed, thirty times a second at most.

        Raises:
            StopRequested: when a key or the close button asked for the end.
            SinkError: if the window system refuses.
        """
        self._window.poll()
        now_s = time.perf_counter()
        is_gone = self._painted_s is not None and not self.is_open
        is_early = self._painted_s is not None and now_s - self._painted_s < _PAINT_S
        if not is_gone and not is_early and any(pane.is_changed for pane in self._panes):
            self._painted_s = now_s
            columns, rows = grid(len(self._panes))
            self._window.show((columns * _TILE_WH[0], rows * _TILE_WH[1]))

    def close_if_unused(self) -> None:
        """Takes the window away once every pane is closed."""
        if all(pane.is_closed for pane in self._panes):
            self._window.close()

    def _painted(self, room_wh: tuple[int, int]) -> _Image:
        """Returns the tiles side by side, painting again those that have changed."""
        width, height = room_wh if min(room_wh) > 0 else _TILE_WH
        is_new = self._canvas.shape[:2] != (height, width)
        if is_new:
            self._canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
        for pane, tile in zip(self._panes, tiles(len(self._panes), self._canvas), strict=True):
            if (pane.is_changed or is_new) and tile.size:
                pane.paint(tile)
        return self._canvas


class _Pane(Sink):
    """One source's output in a tiled window.

    Attributes:
        is_changed: whether there is something that isn't painted yet.
        is_closed: whether nothing more comes.
    """

    live_view = True
    main_thread = True

    def __init__(self, window: TiledWindow, name: str) -> None:
        self._window = window
        self._name = name
        self._frame: Frame | None = None
        self._count = 0
        self.is_changed = True
        self.is_closed = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Takes the frame, which must have the boxes drawn on it already; `poll` shows it."""
        self._frame = frame
        self._count += 1
        self.is_changed = True

    @property
    def lingers(self) -> bool:
        """A single picture stays until the window is closed."""
        return self._window.is_open and self._count == 1

    def poll(self) -> None:
        """Lets the window handle its events and paint; see `TiledWindow.poll`."""
        self._window.poll()

    def close(self) -> None:
        """Takes the window away, unless other panes still use it."""
        self.is_closed = True
        self._window.close_if_unused()

    def paint(self, tile: _Image) -> None:
        """Paints the picture and the name into `tile`, (h, w, 3) uint8 BGR."""
        self.is_changed = False
        height, width = tile.shape[:2]
        text_px = max(_LEAST_TEXT_PX, round(fitted(_TILE_WH, (width, height), enlarge=True)[1] * _TEXT_OF_TILE))
        if self._frame is None:
            tile[...] = _WAITING
            write_plate(tile, "waiting", text_px, centred=True)
            write_plate(tile, self._name, text_px)
            return
        picture = resized(self._frame, fitted(self._frame.size_wh, (width, height), enlarge=True))
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        tile[...] = _BACKGROUND
        tile[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        write_plate(tile[: top + picture.shape[0], left:], self._name, text_px)


def grid(count: int) -> tuple[int, int]:
    """Returns columns and rows for so many tiles: as many rows as columns, or fewer."""
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def tiles(count: int, canvas: _Image) -> list[_Image]:
    """Returns views of a canvas, (h, w, 3), for so many tiles: row by row, with a small gap between."""
    columns, rows = grid(count)
    height, width = canvas.shape[:2]
    found = []
    for number in range(count):
        row, column = divmod(number, columns)
        top, bottom = row * height // rows, (row + 1) * height // rows - _GAP_PX * (row + 1 < rows)
        left, right = column * width // columns, (column + 1) * width // columns - _GAP_PX * (column + 1 < columns)
        found.append(canvas[top : max(top, bottom), left : max(left, right)])
    return found
