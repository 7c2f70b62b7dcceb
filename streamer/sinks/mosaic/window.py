"""Several sources in one window."""

from __future__ import annotations

import threading
import time

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.scaling import Image
from streamer.frames.viewport import Viewport
from streamer.sinks.base import Sink
from streamer.sinks.mosaic.tiles import TILE_WH, Mosaic, Tile, bgr_canvas, grid, viewport_of
from streamer.sinks.window.sink import DesktopWindow, ViewerSink
from streamer.sources.base import SourceInfo

_TITLE = "nanodet-stream"
_PAINT_S = 1 / 30


class TiledWindow:
    """One window for all sources, as a grid of tiles; ``q``, Esc or its close button asks the run to end.

    Tiles are in the order of `add_tile`, each with its picture in its own aspect ratio and its name: grey until the
    first frame, with the last frame after the end. The window opens at the first `Sink.poll`; the layout follows its
    size, and sources that come and go. All methods except `add_tile` and `remove` belong to the main thread.

    Attributes:
        is_over: always False: a tile can be added at any time.
    """

    is_over = False

    def __init__(self) -> None:
        """Opens nothing yet; raises SinkError if no window can be opened."""
        self._window = DesktopWindow(_TITLE, self._painted, keep_ratio=False)
        self._lock = threading.Lock()  # tiles are added on any thread
        self._tiles: tuple[Tile, ...] = ()
        self._shown: tuple[Tile, ...] = ()
        self._canvas = bgr_canvas((0, 0))
        self._mosaic = Mosaic(self._canvas)
        self._painted_s: float | None = None

    def add_tile(self, source: SourceInfo) -> Sink:
        """Returns the output for one more source, whose name is written into its tile; from any thread."""
        tile = Tile(source.name, viewport=viewport_of(source.name, TILE_WH))
        with self._lock:
            self._tiles = (*self._tiles, tile)
            if not self.is_open:
                self._painted_s = None
        return _TileSink(self, tile)

    def remove(self, name: str) -> None:
        """Removes a source's tile at the next `poll`, from any thread; its sink must still be closed."""
        for tile in self._tiles:
            tile.is_removed = tile.is_removed or tile.name == name

    def close(self) -> None:
        """Closes the window."""
        self._window.close()

    @property
    def is_open(self) -> bool:
        """Whether there is a window on the screen."""
        return self._window.is_open

    def poll(self) -> None:
        """Handles the window's events and paints what has changed, at most thirty times a second.

        Raises:
            StopRequested: when a key or the close button asked for the end.
            SinkError: if the window system fails.
        """
        self._window.poll()
        now_s = time.perf_counter()
        is_closed_by_user = self._painted_s is not None and not self.is_open
        is_early = self._painted_s is not None and now_s - self._painted_s < _PAINT_S
        with self._lock:
            tiles = self._tiles = tuple(tile for tile in self._tiles if not tile.is_removed)
        is_changed = tiles != self._shown or any(tile.is_changed for tile in tiles)
        if tiles and is_changed and not is_closed_by_user and not is_early:
            self._painted_s = now_s
            self._shown = tiles
            columns, rows = grid(len(tiles))
            self._window.show((columns * TILE_WH[0], rows * TILE_WH[1]))

    def close_if_unused(self) -> None:
        """Closes the window once every tile has ended or is removed."""
        if all(tile.is_over or tile.is_removed for tile in self._tiles):
            self._window.close()

    def _painted(self, window_wh: tuple[int, int]) -> Image:
        size_wh = window_wh if min(window_wh) > 0 else TILE_WH
        if size_wh != self._canvas.size_wh:
            self._canvas = bgr_canvas(size_wh)
            self._mosaic = Mosaic(self._canvas)
        self._mosaic.paint(self._shown)
        return self._canvas.pixels


class _TileSink(ViewerSink):
    """One source's output in a tiled window."""

    _window: TiledWindow

    def __init__(self, window: TiledWindow, tile: Tile) -> None:
        self._window = window
        self._tile = tile

    def write(self, frame: Frame, detections: Detections) -> None:
        self._tile.show(frame)
        self._count += 1

    @property
    def viewport(self) -> Viewport | None:
        return self._tile.viewport

    def close(self) -> None:
        if not self._tile.is_over:
            self._tile.end()
            self._window.close_if_unused()
