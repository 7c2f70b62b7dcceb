"""Several sources in one video."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.canvas import YuvCanvas
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.viewport import Viewport
from streamer.frames.yuv import Yuv420
from streamer.sinks.base import DiskUse, Sink
from streamer.sinks.mosaic.schedule import FrameSchedule, PtsSchedule, TileQueue, WallClockSchedule
from streamer.sinks.mosaic.tiles import TILE_WH, Mosaic, Tile, boxes, canvas_wh, viewport_of, yuv_canvas
from streamer.sources.base import SourceInfo

MAX_WH = (1920, 1080)


class TiledVideo:
    """One video of all sources, as a grid of tiles, each with its picture in its own aspect ratio and its name.

    A thread of its own, started by the first picture, paints and writes canvases; a canvas in which nothing has
    changed is left out. With `WallClockSchedule`, writers never block and canvases are skipped where writing is slow.
    With `PtsSchedule`, `write` blocks a source that is ahead of the others.

    A source that ends keeps its last picture, one that is removed disappears, and with the last of them the video is
    finished. Thread-safe. The canvas keeps its first size.
    """

    def __init__(
        self,
        sink: Sink,
        fps: float,
        *,
        by_clock: bool,
        max_wh: tuple[int, int] = MAX_WH,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Takes over the open output of the video.

        Args:
            sink: closed here.
            fps: maximum canvases a second.
            by_clock: whether canvases follow the wall clock, rather than `Frame.pts_s`, without a live source too.
            max_wh: maximum size of the canvas, even; it is smaller if the pictures are.
            clock: monotonic seconds.
        """
        self._sink = sink
        self._max_wh = max_wh
        self._clock = clock
        self._mosaic: tuple[YuvCanvas, Mosaic] | None = None  # of the writing thread
        self._changed = threading.Condition()  # guards what follows
        self._schedule: FrameSchedule = WallClockSchedule(fps, clock) if by_clock else PtsSchedule(fps)
        self._tiles: tuple[_TileSink, ...] = ()
        self._shown: tuple[_TileSink, ...] = ()
        self._reporter: _TileSink | None = None  # the one that lists the files
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._error: BaseException | None = None

    @property
    def fps(self) -> float:
        """Maximum canvases a second."""
        return self._schedule.fps

    @property
    def error(self) -> BaseException | None:
        """What ended the writing thread early, None if nothing has."""
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether it is finished, so that no tile can be added."""
        with self._changed:
            return self._is_over

    def add_tile(self, source: SourceInfo) -> Sink:
        """Returns the output for one more source. With a live one, the video follows the wall clock from now on.

        Raises:
            SinkError: if the video is finished.
        """
        with self._changed:
            if self._is_over:
                raise SinkError(f"the tiled video ended with its last source: {source.name!r} can't be added to it")
            self._tiles = (*self._tiles, _TileSink(self, source))
            self._reporter = self._reporter or self._tiles[0]
            if self._mosaic is None:
                self._expect_viewports()
            if source.live and isinstance(self._schedule, PtsSchedule):
                self._schedule = WallClockSchedule(self._schedule.fps, self._clock, self._schedule.last)
                self._changed.notify_all()
            for tile in self._tiles:
                tile.live_view = isinstance(self._schedule, WallClockSchedule)
            return self._tiles[-1]

    def remove(self, name: str) -> None:
        """Removes a source's tile, and finishes the video with the last one; its sink must still be closed."""
        with self._changed:
            for sink in self._tiles:
                sink.tile.is_removed = sink.tile.is_removed or sink.tile.name == name
            left = tuple(sink for sink in self._tiles if not sink.tile.is_removed)
            if left != self._tiles:
                self._tiles = left
                if left and self._reporter not in left:
                    self._reporter = left[0]
                self._update_is_over()

    def close(self) -> None:
        """Finishes the video, whatever tiles are still open.

        Raises:
            SinkError: if it can't be finished. What was written before is playable.
        """
        with self._changed:
            for sink in self._tiles:
                sink.queue.is_over = True
            self._update_is_over()
            thread = self._thread
        if thread is not None:
            thread.join()
        else:
            self._sink.close()
        self._raise_error()

    def push(self, sink: _TileSink, frame: Frame) -> None:
        """Queues a tile's next picture; blocks until there is room. Raises SinkError if the video can't be written."""
        with self._changed:
            while self._error is None and not (self._is_over or sink.tile.is_removed):
                if self._schedule.push(sink.queue, frame):
                    break
                self._changed.wait()
            self._raise_error()
            if self._thread is None and sink.queue.waiting:
                self._thread = threading.Thread(target=self._run, name="tiles", daemon=True)
                self._thread.start()
            elif self._schedule.next_wakeup_s() is None:  # else the thread polls
                self._changed.notify_all()

    def end(self, sink: _TileSink) -> None:
        """Marks a tile as having no more pictures; raises SinkError if the video couldn't be written or finished."""
        with self._changed:
            sink.queue.is_over = True
            sink.tile.end()
            self._update_is_over()
            if not self._is_over:
                self._raise_error()
                return
        self.close()

    def written(self, sink: _TileSink) -> tuple[Path, ...]:
        """Returns the video's files to one of its tiles only, so that they are listed once."""
        return self._sink.written if sink is self._reporter else ()

    def disk_use(self, sink: _TileSink) -> DiskUse | None:
        """Returns what the video needs to one of its tiles only, so that it is counted once."""
        return self._sink.disk_use if sink is self._reporter else None

    def _update_is_over(self) -> None:
        self._is_over = self._is_over or all(sink.queue.is_over for sink in self._tiles)
        self._changed.notify_all()

    def _raise_error(self) -> None:
        """Raises the writing thread's failure on the calling thread."""
        if isinstance(self._error, SinkError):
            raise SinkError(str(self._error)) from self._error
        if self._error is not None:
            name = type(self._error).__name__
            raise RuntimeError(f"the tiled video failed: {name}: {self._error}") from self._error

    def _run(self) -> None:
        try:
            with self._sink:
                while (number := self._next_canvas()) is not None:
                    frame = Frame(self._painted(), "tiles", number, number / self._schedule.fps, time.perf_counter())
                    self._sink.write(frame, Detections.empty())
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_canvas(self) -> int | None:
        """Waits for the next canvas, updates the tiles and returns its number; None at the end."""
        with self._changed:
            while True:
                queues = [sink.queue for sink in self._tiles]
                number = self._schedule.next_canvas(queues, is_changed=self._tiles != self._shown)
                if number is not None:
                    break
                if self._is_over:
                    return None
                self._changed.wait(self._schedule.next_wakeup_s())
            self._shown = self._tiles
            for sink in self._shown:
                newest = self._schedule.pop(sink.queue)
                if newest is not None:
                    sink.tile.show(newest)
            self._changed.notify_all()
            return number

    def _painted(self) -> Yuv420:
        """Paints the tiles that have changed; returns a copy of the canvas."""
        if self._mosaic is None:
            canvas = self._new_canvas()
            self._mosaic = canvas, Mosaic(canvas)
        canvas, mosaic = self._mosaic
        mosaic.paint([sink.tile for sink in self._shown])
        return canvas.pixels.copy()

    def _new_canvas(self) -> YuvCanvas:
        """Returns a canvas whose size and colours suit the present pictures and the known sizes."""
        frames = [sink.tile.frame for sink in self._shown if sink.tile.frame is not None]
        planes = [frame.host_pixels for frame in frames if isinstance(frame.host_pixels, Yuv420)]
        return yuv_canvas(self._canvas_wh(self._shown), planes[0] if planes else None)

    def _canvas_wh(self, sinks: Sequence[_TileSink]) -> tuple[int, int]:
        sizes = [sink.tile.frame.shown_wh for sink in sinks if sink.tile.frame is not None]
        sizes += [sink.size_wh for sink in sinks if sink.size_wh]
        largest = max(sizes, key=lambda size_wh: size_wh[0] * size_wh[1], default=TILE_WH)
        return canvas_wh(len(sinks), largest, self._max_wh)

    def _expect_viewports(self) -> None:
        """Tells the tiles how large they will be, so that the first pictures are drawn for it."""
        for sink, box in zip(self._tiles, boxes(len(self._tiles), self._canvas_wh(self._tiles), 2), strict=True):
            if min(box.size_wh) > 0:
                sink.tile.viewport = viewport_of(sink.tile.name, box.size_wh)


class _TileSink(Sink):
    """One source's output in a tiled video: the tile, frames to show, and the picture's size, None if unknown."""

    def __init__(self, video: TiledVideo, source: SourceInfo) -> None:
        self.tile = Tile(source.name)
        self.queue = TileQueue()
        self.size_wh = source.size_wh
        self._video = video
        self._is_closed = self._has_failed = False

    def write(self, frame: Frame, detections: Detections) -> None:
        try:
            self._video.push(self, frame)
        except Exception:
            self._has_failed = True
            raise

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._video.end(self)
        except Exception:
            if not self._has_failed:
                raise

    @property
    def viewport(self) -> Viewport | None:
        return self.tile.viewport

    @property
    def written(self) -> tuple[Path, ...]:
        return self._video.written(self)

    @property
    def disk_use(self) -> DiskUse | None:
        return self._video.disk_use(self)
