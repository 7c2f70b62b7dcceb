"""Several sources in one video."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.base import Sink
from streamer.sinks.mosaic.schedule import FrameSchedule, PtsSchedule, TileQueue, WallClockSchedule
from streamer.sinks.mosaic.tiles import TILE_WH, Mosaic, Tile, YuvCanvas, canvas_wh
from streamer.sources.base import SourceInfo

MOST_WH = (1920, 1080)


class TiledVideo:
    """One video of all sources, as a grid of panes, each with its picture in its own ratio and its name.

    Canvases are put together and written on a thread of their own, which begins with the first picture; canvas number n
    is that of the time n / fps, and one in which nothing has changed is left out.

    By the clock, a canvas shows every pane's newest picture, and no pane ever waits: where writing is slow, canvases
    are left out. By the pictures' own times (`Frame.pts_s`), it shows of every pane the newest picture of that time or
    before, and a pane that is ahead of the others waits in its `write`: how fast each is read makes no difference.

    A pane that is closed keeps its last picture, one that is removed goes, and with the last of them the video is
    finished. All methods may be called on any thread. The canvas keeps the size that it began with.
    """

    def __init__(
        self,
        recording: Sink,
        fps: float,
        *,
        by_clock: bool,
        most_wh: tuple[int, int] = MOST_WH,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begins nothing yet.

        Args:
            recording: an open output for the video; it is closed here.
            fps: canvases a second at most.
            by_clock: whether canvases go by the clock; False goes by the pictures' own times.
            most_wh: width and height that the canvas has at most, even. It is smaller where pictures are.
            clock: seconds that go on evenly.
        """
        self._recording = recording
        self._most_wh = most_wh
        self._clock = clock
        self._mosaic: tuple[YuvCanvas, Mosaic] | None = None  # the thread's own
        self._changed = threading.Condition()  # guards what follows
        self._schedule: FrameSchedule = WallClockSchedule(fps, clock) if by_clock else PtsSchedule(fps)
        self._panes: tuple[_Pane, ...] = ()
        self._shown: tuple[_Pane, ...] = ()
        self._speaker: _Pane | None = None
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether its last pane has gone, or it was closed: no other can be added."""
        with self._changed:
            return self._is_over

    def add_tile(self, source: SourceInfo) -> Sink:
        """Returns the output for one more source. With a live source, the video goes by the clock from now on.

        Args:
            source: its name is written into its tile; its size has a say in the canvas's.

        Raises:
            SinkError: if the video is finished, since all other panes were closed.
        """
        with self._changed:
            if self._is_over:
                raise SinkError(f"the tiled video ended with its last source: {source.name!r} can't be added to it")
            pane = _Pane(self, source)
            self._panes = (*self._panes, pane)
            self._speaker = self._speaker or pane
            if source.live and isinstance(self._schedule, PtsSchedule):
                self._schedule = WallClockSchedule(self._schedule.fps, self._clock, self._schedule.last)
                self._changed.notify_all()
            for each in self._panes:
                each.live_view = isinstance(self._schedule, WallClockSchedule)
            return pane

    def remove(self, name: str) -> None:
        """Takes a source's tile away, and finishes the video with the last one; its pane is still to be closed."""
        with self._changed:
            for pane in self._panes:
                pane.is_removed = pane.is_removed or pane.tile.name == name
            if any(pane.is_removed for pane in self._panes):
                self._panes = tuple(pane for pane in self._panes if not pane.is_removed)
                if self._panes and self._speaker not in self._panes:
                    self._speaker = self._panes[0]
                self._look_whether_over()

    def close(self) -> None:
        """Finishes the video, whatever panes are still open.

        Raises:
            SinkError: if it can't be finished. What was written before can be played.
        """
        with self._changed:
            for pane in self._panes:
                pane.queue.is_over = True
            self._look_whether_over()
            thread = self._thread
        if thread is not None:
            thread.join()
        else:
            self._recording.close()
        if self._error is not None:
            raise _again(self._error)

    def take(self, pane: _Pane, frame: Frame) -> None:
        """Takes a pane's next picture, once there is room for it.

        Raises:
            SinkError: if the video can't be written.
        """
        with self._changed:
            while self._error is None and not (self._is_over or pane.is_removed):
                if self._schedule.push(pane.queue, frame):
                    break
                self._changed.wait()
            if self._error is not None:
                raise _again(self._error)
            if self._thread is None and pane.queue.waiting:
                self._thread = threading.Thread(target=self._run, name="tiles", daemon=True)
                self._thread.start()
            elif self._schedule.next_wakeup_s() is None:  # it looks by itself otherwise
                self._changed.notify_all()

    def end(self, pane: _Pane) -> None:
        """Takes notice that a pane has no more pictures; the last one waits until the video is finished.

        Raises:
            SinkError: if the video couldn't be written or finished.
        """
        with self._changed:
            pane.queue.is_over = pane.tile.is_over = True
            pane.tile.is_changed = pane.tile.is_changed or pane.tile.frame is None
            self._look_whether_over()
            is_over, error = self._is_over, self._error
        if is_over:
            self.close()
        elif error is not None:
            raise _again(error)

    def written(self, pane: _Pane) -> tuple[Path, ...]:
        """Returns the video's files to one of its panes, so that they are named once."""
        return self._recording.written if pane is self._speaker else ()

    def _look_whether_over(self) -> None:
        self._is_over = self._is_over or all(pane.queue.is_over for pane in self._panes)
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            with self._recording:
                while (number := self._next()) is not None:
                    frame = Frame(self._painted(), "tiles", number, number / self._schedule.fps, time.perf_counter())
                    self._recording.write(frame, Detections.empty())
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next(self) -> int | None:
        """Waits for the next canvas, sees that tiles have their pictures, and returns its number; None at the end."""
        with self._changed:
            while True:
                queues = [pane.queue for pane in self._panes]
                number = self._schedule.next_canvas(queues, is_changed=self._panes != self._shown)
                if number is not None:
                    break
                if self._is_over:
                    return None
                self._changed.wait(self._schedule.next_wakeup_s())
            self._shown = self._panes
            for pane in self._shown:
                newest = self._schedule.pop(pane.queue)
                if newest is not None:
                    pane.tile.frame, pane.tile.is_changed = newest, True
            self._changed.notify_all()
            return number

    def _painted(self) -> Yuv420:
        """Returns a picture of the tiles, painted again where they have changed."""
        if self._mosaic is None:
            canvas = self._new_canvas()
            self._mosaic = canvas, Mosaic(canvas)
        canvas, mosaic = self._mosaic
        mosaic.paint([pane.tile for pane in self._shown])
        return canvas.picture()

    def _new_canvas(self) -> YuvCanvas:
        """Returns a canvas of the size and the colours that suit the pictures there are and those known to come."""
        frames = [pane.tile.frame for pane in self._shown if pane.tile.frame is not None]
        known = [frame.shown_wh for frame in frames] + [
            pane.size_wh for pane in self._shown if pane.size_wh is not None
        ]
        largest = max(known, key=lambda size_wh: size_wh[0] * size_wh[1], default=TILE_WH)
        planes = [frame.host_pixels for frame in frames if isinstance(frame.host_pixels, Yuv420)]
        size_wh = canvas_wh(len(self._shown), largest, self._most_wh)
        return YuvCanvas(size_wh, like=planes[0] if planes else None)


class _Pane(Sink):
    """One source's output in a tiled video.

    Attributes:
        tile: what is shown of it.
        queue: what is to be shown.
        size_wh: the source's picture size, or None if it isn't known.
        is_removed: whether its tile has gone.
    """

    def __init__(self, video: TiledVideo, source: SourceInfo) -> None:
        self.tile = Tile(source.name)
        self.queue = TileQueue()
        self.size_wh = source.size_wh
        self.is_removed = False
        self._video = video
        self._is_closed = self._has_failed = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Takes the frame, which must have the boxes drawn on it already; waits with it as `TiledVideo` says.

        Raises:
            SinkError: if the video can't be written. What was written before can be played.
        """
        try:
            self._video.take(self, frame)
        except Exception:
            self._has_failed = True
            raise

    def close(self) -> None:
        """Leaves the last picture where it is; the last pane finishes the video.

        Raises:
            SinkError: if it can't be finished, unless `write` has said so. What was written before can be played.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._video.end(self)
        except Exception:
            if not self._has_failed:
                raise

    @property
    def written(self) -> tuple[Path, ...]:
        """The video's files, for one of its panes."""
        return self._video.written(self)


def _again(error: BaseException) -> Exception:
    """Returns what a failure of the video's thread is on another thread."""
    if isinstance(error, SinkError):
        again: Exception = SinkError(str(error))
    else:
        again = RuntimeError(f"the tiled video failed: {type(error).__name__}: {error}")
    again.__cause__ = error
    return again
