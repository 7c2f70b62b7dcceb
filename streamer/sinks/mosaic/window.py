"""Several sources in one window."""

from __future__ import annotations

import threading
import time

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.mosaic.tiles import TILE_WH, BgrCanvas, Mosaic, Tile, grid
from streamer.sinks.scaling import Image
from streamer.sinks.window.sink import DesktopWindow
from streamer.sources.base import SourceInfo

_TITLE = "nanodet-stream"
_PAINT_S = 1 / 30


class TiledWindow:
    """One window for all sources, as a grid of panes; ``q``, Esc or its close button asks the run to end.

    Each source has its tile, in the order of `add_tile`, with its picture in its own ratio and its name; a tile is grey
    until the source's first frame, and keeps the last one when the source has ended. The window opens at the first
    `Sink.poll`; the tiles are laid out anew when it is resized, and when a source comes or is removed. Everything but
    `add_tile` and `remove` happens on the main thread.

    Attributes:
        is_over: always False: a pane can be added at any time.
    """

    is_over = False

    def __init__(self) -> None:
        """Opens nothing yet.

        Raises:
            SinkError: if there is no display, or OpenCV was built without windows.
        """
        self._window = DesktopWindow(_TITLE, self._painted, keep_ratio=False)
        self._lock = threading.Lock()  # panes come on any thread, and go on the main one
        self._panes: tuple[_Pane, ...] = ()
        self._shown: tuple[_Pane, ...] = ()
        self._canvas = BgrCanvas((0, 0))
        self._mosaic = Mosaic(self._canvas)
        self._painted_s: float | None = None

    def add_tile(self, source: SourceInfo) -> Sink:
        """Returns the output for one more source, at any time, on any thread.

        Args:
            source: its name is written into its tile.
        """
        pane = _Pane(self, source.name)
        with self._lock:
            self._panes = (*self._panes, pane)
            if not self.is_open:
                self._painted_s = None
        return pane

    def remove(self, name: str) -> None:
        """Takes a source's tile away at the next `poll`, on any thread; its pane is still to be closed."""
        for pane in self._panes:
            pane.is_removed = pane.is_removed or pane.tile.name == name

    def close(self) -> None:
        """Takes the window away."""
        self._window.close()

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
        with self._lock:
            panes = self._panes = tuple(pane for pane in self._panes if not pane.is_removed)
        is_changed = panes != self._shown or any(pane.tile.is_changed for pane in panes)
        if panes and is_changed and not is_gone and not is_early:
            self._painted_s = now_s
            self._shown = panes
            columns, rows = grid(len(panes))
            self._window.show((columns * TILE_WH[0], rows * TILE_WH[1]))

    def close_if_unused(self) -> None:
        """Takes the window away once every pane is closed or removed."""
        if all(pane.tile.is_over or pane.is_removed for pane in self._panes):
            self._window.close()

    def _painted(self, room_wh: tuple[int, int]) -> Image:
        """Returns the tiles side by side, painting again those that have changed."""
        size_wh = room_wh if min(room_wh) > 0 else TILE_WH
        if size_wh != self._canvas.size_wh:
            self._canvas = BgrCanvas(size_wh)
            self._mosaic = Mosaic(self._canvas)
        self._mosaic.paint([pane.tile for pane in self._shown])
        return self._canvas.image


class _Pane(Sink):
    """One source's output in a tiled window.

    Attributes:
        is_removed: whether its tile is to go, or has gone.
    """

    live_view = True
    main_thread = True

    def __init__(self, window: TiledWindow, name: str) -> None:
        self.tile = Tile(name)
        self.is_removed = False
        self._window = window
        self._count = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        """Takes the frame, which must have the boxes drawn on it already; `poll` shows it."""
        self.tile.frame = frame
        self.tile.is_changed = True
        self._count += 1

    @property
    def lingers(self) -> bool:
        """A single picture stays until the window is closed."""
        return self._window.is_open and self._count == 1

    def poll(self) -> None:
        """Lets the window handle its events and paint; see `TiledWindow.poll`."""
        self._window.poll()

    def close(self) -> None:
        """Takes the window away, unless other panes still use it."""
        if not self.tile.is_over:
            self.tile.is_over = True
            self.tile.is_changed = self.tile.is_changed or self.tile.frame is None
            self._window.close_if_unused()
