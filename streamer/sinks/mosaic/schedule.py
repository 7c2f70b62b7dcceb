"""When a tiled video's next canvas is due, and which picture of each source it shows: by a clock, or by their times."""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from streamer.frames.frame import Frame

_MOST_WAITING = 4  # pictures that a source may be ahead of the slowest by; two would do
_SAME_TIME_S = 1e-3  # containers round times to milliseconds
_LONGEST_STILL_S = 1.0  # of the clock: what is on the disk is never much older


@dataclass(eq=False)
class TileQueue:
    """One source's pictures that no canvas has shown yet.

    Attributes:
        waiting: each with the number of the canvas that it is for, both growing.
        is_over: whether no more come.
        delay_s: what is added to a picture's time, so that the first falls on a canvas that isn't made yet.
    """

    waiting: deque[tuple[int, Frame]] = field(default_factory=deque)
    is_over: bool = False
    delay_s: float | None = None


class FrameSchedule(abc.ABC):
    """Canvas number n is that of the time n / fps. Not safe for several threads at once.

    Attributes:
        fps: canvases a second.
        last: number of the last canvas, -1 before the first.
    """

    def __init__(self, fps: float, last: int = -1) -> None:
        self.fps = fps
        self.last = last

    @abc.abstractmethod
    def push(self, queue: TileQueue, frame: Frame) -> bool:
        """Has a picture wait for its canvas; returns False where there is no room for it now."""

    @abc.abstractmethod
    def next_canvas(self, queues: Collection[TileQueue], *, is_changed: bool) -> int | None:
        """Returns the next canvas's number once it is due and differs from the last, and counts it as made.

        Args:
            queues: all sources shown.
            is_changed: whether it differs even without a new picture.
        """

    @abc.abstractmethod
    def pop(self, queue: TileQueue) -> Frame | None:
        """Returns the picture that the canvas `last` shows newly of a source; None leaves it what it shows."""

    @abc.abstractmethod
    def next_wakeup_s(self) -> float | None:
        """Returns after how many seconds to look again though nothing has happened; None is never."""


class WallClockSchedule(FrameSchedule):
    """A canvas shows the newest pictures that there are; the first is due when it is first asked for."""

    def __init__(self, fps: float, clock: Callable[[], float], last: int = -1) -> None:
        """Counts canvases on from `last`; `clock` gives seconds that go on evenly."""
        super().__init__(fps, last)
        self._clock = clock
        self._zero_s: float | None = None

    def push(self, queue: TileQueue, frame: Frame) -> bool:
        """Has a picture wait in place of the one before."""
        queue.waiting.clear()
        queue.waiting.append((0, frame))
        return True

    def next_canvas(self, queues: Collection[TileQueue], *, is_changed: bool) -> int | None:
        """See `FrameSchedule.next_canvas`; skips canvases that are late, but makes at least one a second."""
        number = int(self._now())
        is_different = any(queue.waiting for queue in queues)
        if all(queue.is_over for queue in queues):
            number = max(number, self.last + 1)
        else:
            is_different = is_different or is_changed or number - self.last >= _LONGEST_STILL_S * self.fps
        if not is_different or number <= self.last:
            return None
        self.last = number
        return number

    def pop(self, queue: TileQueue) -> Frame | None:
        """See `FrameSchedule.pop`."""
        newest = queue.waiting[-1][1] if queue.waiting else None
        queue.waiting.clear()
        return newest

    def next_wakeup_s(self) -> float:
        """Returns how long it is to the next canvas's time."""
        now = self._now()
        return (int(now) + 1 - now) / self.fps

    def _now(self) -> float:
        """Returns the time in canvases."""
        if self._zero_s is None:
            self._zero_s = self._clock() - (self.last + 1) / self.fps
        return (self._clock() - self._zero_s) * self.fps + _SAME_TIME_S


class PtsSchedule(FrameSchedule):
    """A canvas shows of each source its newest picture of that time or before, as soon as all are known.

    Of pictures that fall on one canvas the last is shown. There is always room for the pictures of a source that
    others wait for: it has at most one waiting.
    """

    def push(self, queue: TileQueue, frame: Frame) -> bool:
        """Has a picture wait, unless its source is far ahead of another."""
        if queue.delay_s is None:
            queue.delay_s = max(0.0, (self.last + 1) / self.fps - frame.pts_s)
        number = math.ceil((frame.pts_s + queue.delay_s - _SAME_TIME_S) * self.fps)
        if queue.waiting and queue.waiting[-1][0] >= number:
            number, _ = queue.waiting.pop()
        elif len(queue.waiting) >= _MOST_WAITING:
            return False
        queue.waiting.append((max(number, self.last + 1), frame))
        return True

    def next_canvas(self, queues: Collection[TileQueue], *, is_changed: bool) -> int | None:
        """See `FrameSchedule.next_canvas`; sources that come and go are seen with the next picture."""
        numbers = [queue.waiting[0][0] for queue in queues if queue.waiting]
        if not numbers:
            return None
        number = min(numbers)
        if not all(queue.is_over or (queue.waiting and queue.waiting[-1][0] > number) for queue in queues):
            return None
        self.last = number
        return number

    def pop(self, queue: TileQueue) -> Frame | None:
        """See `FrameSchedule.pop`."""
        newest = None
        while queue.waiting and queue.waiting[0][0] <= self.last:
            _, newest = queue.waiting.popleft()
        return newest

    def next_wakeup_s(self) -> None:
        """Nothing but pictures changes what is due."""
