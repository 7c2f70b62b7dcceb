"""When a tiled video's next canvas is due, and which picture of each source it shows."""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from streamer.frames.frame import Frame

_MAX_AHEAD = 4  # pictures by which a source may be ahead of the slowest; two would do
_SAME_TIME_S = 1e-3  # containers round times to milliseconds
_MAX_INTERVAL_S = 1.0  # between canvases by the wall clock, so that the file on disk is never much older


@dataclass(eq=False)
class TileQueue:
    """The pictures of one source that no canvas has shown yet.

    Attributes:
        waiting: pictures, each with the number of its canvas; numbers increase.
        is_over: whether no more come.
        delay_s: added to a picture's time, so that the first falls on a canvas that isn't made yet.
    """

    waiting: deque[tuple[int, Frame]] = field(default_factory=deque)
    is_over: bool = False
    delay_s: float | None = None


class FrameSchedule(abc.ABC):
    """Canvas number n has the time n / fps. Not thread-safe.

    Attributes:
        fps: canvases a second.
        last: number of the last canvas, -1 before the first.
    """

    def __init__(self, fps: float, last: int = -1) -> None:
        self.fps = fps
        self.last = last

    @abc.abstractmethod
    def push(self, queue: TileQueue, frame: Frame) -> bool:
        """Queues a picture for its canvas; returns False if there is no room now."""

    @abc.abstractmethod
    def next_canvas(self, queues: Collection[TileQueue], *, is_changed: bool) -> int | None:
        """Returns the number of the next canvas once it is due and differs from the last, and counts it as made.

        `queues` are those of all sources shown; with `is_changed` it differs even without a new picture in them.
        """

    @abc.abstractmethod
    def next_wakeup_s(self) -> float | None:
        """Returns when to call `next_canvas` again without a new picture, in seconds; None for never."""

    @abc.abstractmethod
    def pop(self, queue: TileQueue) -> Frame | None:
        """Returns the picture that the canvas `last` shows first of a source; None if it shows the one before."""


class WallClockSchedule(FrameSchedule):
    """For live sources: a canvas shows the newest pictures; the first is due immediately."""

    def __init__(self, fps: float, clock: Callable[[], float], last: int = -1) -> None:
        """Continues the numbers after `last`; `clock` returns monotonic seconds."""
        super().__init__(fps, last)
        self._clock = clock
        self._zero_s: float | None = None

    def push(self, queue: TileQueue, frame: Frame) -> bool:
        queue.waiting.clear()
        queue.waiting.append((0, frame))
        return True

    def next_canvas(self, queues: Collection[TileQueue], *, is_changed: bool) -> int | None:
        """Skips canvases that are late, but makes at least one a second."""
        number = int(self._now())
        is_new = any(queue.waiting for queue in queues)
        if all(queue.is_over for queue in queues):
            number = max(number, self.last + 1)
        else:
            is_new = is_new or is_changed or number - self.last >= _MAX_INTERVAL_S * self.fps
        if not is_new or number <= self.last:
            return None
        self.last = number
        return number

    def pop(self, queue: TileQueue) -> Frame | None:
        newest = queue.waiting[-1][1] if queue.waiting else None
        queue.waiting.clear()
        return newest

    def next_wakeup_s(self) -> float:
        now = self._now()
        return (int(now) + 1 - now) / self.fps

    def _now(self) -> float:
        """Returns the time in canvases."""
        if self._zero_s is None:
            self._zero_s = self._clock() - (self.last + 1) / self.fps
        return (self._clock() - self._zero_s) * self.fps + _SAME_TIME_S


class PtsSchedule(FrameSchedule):
    """For files: a canvas shows of each source its newest picture of that time or before, once all are known.

    Of pictures that fall on one canvas the last is shown. A source that others wait for always has room.
    """

    def push(self, queue: TileQueue, frame: Frame) -> bool:
        if queue.delay_s is None:
            queue.delay_s = max(0.0, (self.last + 1) / self.fps - frame.pts_s)
        number = math.ceil((frame.pts_s + queue.delay_s - _SAME_TIME_S) * self.fps)
        if queue.waiting and queue.waiting[-1][0] >= number:
            number, _ = queue.waiting.pop()
        elif len(queue.waiting) >= _MAX_AHEAD:
            return False
        queue.waiting.append((max(number, self.last + 1), frame))
        return True

    def next_canvas(self, queues: Collection[TileQueue], *, is_changed: bool) -> int | None:
        """Ignores `is_changed`: sources that come and go are seen with the next picture."""
        numbers = [queue.waiting[0][0] for queue in queues if queue.waiting]
        if not numbers:
            return None
        number = min(numbers)
        if not all(queue.is_over or (queue.waiting and queue.waiting[-1][0] > number) for queue in queues):
            return None
        self.last = number
        return number

    def pop(self, queue: TileQueue) -> Frame | None:
        newest = None
        while queue.waiting and queue.waiting[0][0] <= self.last:
            _, newest = queue.waiting.popleft()
        return newest

    def next_wakeup_s(self) -> None:
        return None
