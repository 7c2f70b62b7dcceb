"""A source that another process reads and decodes, and the next one when that is gone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from streamer.common.errors import SourceError, StreamerError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources.base import FrameConsumer, PushSource, SourceInfo, damage_phrase
from streamer.sources.options import SourceOptions
from streamer.sources.timeline import ContinuousTimeline
from streamer.sources.workers.messages import Begin, Given, LetGo, Looks, Open, Status
from streamer.sources.workers.shared_counters import AHEAD

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.cuda.ipc import ImportedSurface
    from streamer.cuda.staging import BufferLease

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a source is read.

    Attributes:
        number: of the source in the process.
        send: says something to the process, which may be gone.
        taken: (n,) uint64, by source, where to say how many frames were taken.
    """

    number: int
    send: Callable[[object], None]
    taken: npt.NDArray[np.uint64]


class RemoteSource(PushSource):
    """Frames of a source in another process; what it says of itself is up to a tenth of a second old.

    A live one outlives its process: another takes it, as often as `SourceOptions.reconnect` allows without a frame
    between; `index` and `pts_s` go on.

    The run's side: `wait_ready`, `feed` and the rest of `Source`. The processes': methods that take what becomes of it,
    called on one thread once it has a place.
    """

    def __init__(self, uri: str, info: SourceInfo, options: SourceOptions) -> None:
        """Has no place yet: see `settle`.

        Args:
            uri: where it reads from, with its password.
            info: what is known of it so far.
            options: for the process that opens it.
        """
        self.info = info
        self.max_unacknowledged = AHEAD
        self._uri, self._options = uri, options
        self._place: Place | None = None
        self._consumer: FrameConsumer | None = None
        self._paced = False
        self._inbox: _Inbox | None = None
        self._answered, self._is_let_go = threading.Event(), False
        self._refusal: StreamerError | None = None
        self._error: StreamerError | None = None
        self._has_ended = False
        self._lock = threading.Lock()  # between the source's places, its end, and who counts on it
        self._told = _Told(Status(), Status())
        self._looks: Looks | None = None
        self._axes, self._is_first = ContinuousTimeline(), True
        self._seen_at_s = time.perf_counter()
        self._away_at_s: float | None = None
        self._moved = 0
        self._uncounted = self._void = 0

    def wait_ready(self) -> None:
        """Waits for the first frame.

        Raises:
            ConfigError: if there can be no such source.
            SourceError: if it can't be opened, or gives none; one that is live may still be iterated.
        """
        self._answered.wait()
        error = self._error or self._refusal
        if error is not None:
            raise error

    def start(self, consumer: FrameConsumer, *, paced: bool) -> None:
        with self._lock:
            self._consumer, self._paced = consumer, paced
            has_ended = self._has_ended
            if self._place is not None:
                self._place.send(Begin(self._place.number, paced))
        if has_ended:
            consumer.on_end(self._error)

    def acknowledge(self) -> None:
        with self._lock:
            if self._void:
                self._void -= 1
                return
            self._uncounted -= 1
            if self._place is not None:
                self._place.taken[self._place.number] += 1

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames, in order.

        Raises:
            SourceError: when the source, or the process, breaks off.
        """
        if self._inbox is None:
            self._inbox = _Inbox(self.max_unacknowledged)
            self.start(self._inbox, paced=False)
        for frame in self._inbox.frames():
            self.acknowledge()
            yield frame

    @property
    def is_wanted(self) -> bool:
        """Whether it hasn't ended and wasn't let go."""
        return not (self._has_ended or self._is_let_go)

    def interrupt(self) -> None:
        if not self._let_go():
            self.ended(None)  # nobody else will say so
        if self._inbox is not None:
            self._inbox.abort()

    def _let_go(self) -> bool:
        """Has its process end it; returns False where it has none."""
        with self._lock:
            is_new, self._is_let_go = not self._is_let_go, True
            if self._place is None:
                return False
            if is_new:
                self._place.send(LetGo(self._place.number))
            return True

    def close(self) -> None:
        self.interrupt()

    @property
    def lost_s(self) -> float | None:
        at_s = self._told.now.lost_at_s if self._away_at_s is None else self._away_at_s
        return None if at_s is None else time.perf_counter() - at_s

    @property
    def reconnects(self) -> int:
        return self._told.total.reconnects

    @property
    def dropped(self) -> int:
        return self._told.total.dropped

    @property
    def damaged(self) -> int:
        return self._told.total.damaged

    @property
    def skipped(self) -> tuple[str, ...]:
        told = self._told
        return (damage_phrase(told.total.damaged),) if told.earlier.damaged else told.now.skipped

    def settle(self, place: Place) -> bool:
        """A process takes it; returns False if nobody wants it any more."""
        with self._lock:
            if not self.is_wanted:
                return False
            place.taken[place.number] = 0
            self._place, self._is_first = place, True
            place.send(Open(place.number, self._uri, self.info.name, self._options))
            if self._consumer is not None:
                place.send(Begin(place.number, self._paced))
            return True

    def lose(self, error: StreamerError) -> bool:
        """Its process is no more; returns whether another is to take it, else it has ended with the error."""
        limit = self._options.reconnect
        with self._lock:
            self._place = None
            if self.is_wanted and self.info.live and (limit is None or self._moved < limit):
                self._moved += 1
                self._void, self._uncounted = self._void + self._uncounted, 0
                told = self._told
                if self._away_at_s is None:
                    self._away_at_s = self._seen_at_s if told.now.lost_at_s is None else told.now.lost_at_s
                self._told = _Told(told.total, Status())
                if not self._answered.is_set():
                    self._refusal = error
                    self._answered.set()
                return True
        self.ended(None if self._is_let_go else error)
        return False

    def fail(self, error: StreamerError) -> None:
        """What it gives can't be taken: it ends."""
        self._let_go()
        self.ended(error)

    def opened(self, info: SourceInfo, status: Status) -> None:
        """The source has its first frame."""
        self.told(info, status)
        self._answered.set()

    def refused(self, info: SourceInfo, error: StreamerError) -> None:
        """The source couldn't be opened, and will be tried again."""
        self._refusal = error
        self.told(info, self._told.now)
        self._answered.set()

    def told(self, info: SourceInfo, status: Status) -> None:
        """The process says how the source is."""
        self._told = self._told._replace(now=status)
        if self._away_at_s is None or info.size_wh is not None:  # a new process knows less, until it has a frame
            self.info = info

    def looks(self, looks: Looks) -> None:
        """The pictures that come now are of this kind."""
        self._looks = looks

    def lent(self, given: Given, loan: BufferLease[ImportedSurface]) -> None:
        """A frame came whose pixels lie in another process's memory."""
        from streamer.cuda.nv12 import Nv12

        assert self._looks is not None, "the process tells how pictures look before it gives the first"
        pixels = Nv12(loan, self._looks.size_wh, self._looks.tags)
        name, aspect = self.info.name, self.info.pixel_aspect
        frame = Frame(pixels, name, given.frame_index, given.pts_s, given.captured_at_s, pixel_aspect=aspect)
        self.arrive(frame, given.capture_ms)

    def arrive(self, frame: Frame, capture_ms: float) -> None:
        """A frame came."""
        consumer = self._consumer
        if consumer is None or not self.is_wanted:
            return
        self._refusal = None
        self._seen_at_s = frame.captured_at_s
        if self._is_first:
            self._is_first, self._moved = False, 0
            self._begin(frame)
        with self._lock:
            self._uncounted += 1
        consumer.on_frame(self._axes.place(frame), capture_ms)

    def _begin(self, first: Frame) -> None:
        was_seen, away_at_s = self._axes.is_started, self._away_at_s
        self._axes.begin(first)
        self._away_at_s = None
        if away_at_s is not None:
            how, away_s = "back" if was_seen else "reached", self._seen_at_s - away_at_s
            log.warning("source %r is %s after %.1f s", self.info.name, how, away_s)
        if away_at_s is not None and was_seen:
            earlier = self._told.earlier
            self._told = self._told._replace(earlier=earlier._replace(reconnects=earlier.reconnects + 1))

    def ended(self, error: StreamerError | None, status: Status | None = None) -> None:
        """No more will come."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
            self._error = error
            consumer = self._consumer
        if status is not None:
            self._told = self._told._replace(now=status)
        self._answered.set()
        if consumer is not None:
            consumer.on_end(error)

    def gone(self) -> None:
        """Nothing is left of it in the process: its number may be another's now."""
        with self._lock:
            self._place = None


class _Told(NamedTuple):
    """What processes have said of a source.

    Attributes:
        earlier: the counts of those that had it before.
        now: what the one says that has it.
    """

    earlier: Status
    now: Status

    @property
    def total(self) -> Status:
        """The counts of all of them."""
        earlier, now = self.earlier, self.now
        return Status(
            reconnects=earlier.reconnects + now.reconnects,
            dropped=earlier.dropped + now.dropped,
            damaged=earlier.damaged + now.damaged,
        )


class _Inbox(FrameConsumer):
    """Takes frames for who iterates."""

    def __init__(self, ahead: int) -> None:
        self._frames: BoundedQueue[Frame] = BoundedQueue(ahead, OverflowPolicy.BLOCK)
        self._error: StreamerError | None = None

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        try:
            self._frames.put(frame)
        except Closed:
            pass  # aborted meanwhile

    def abort(self) -> None:
        self._frames.abort()

    def on_end(self, error: StreamerError | None) -> None:
        self._error = error
        self._frames.close()

    def frames(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self._frames.get()
            except Closed:
                if self._error is not None:
                    raise self._error from None
                return
            if frame is not None:
                yield frame


def broken_off(info: SourceInfo, how: str) -> SourceError:
    """Returns why a source ends whose process is no more."""
    return SourceError(f"source {info.uri!r} broke off: the process that decoded it {how}; start the run again")
