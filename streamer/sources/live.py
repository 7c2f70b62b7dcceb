"""Cameras and streams that come back: a source that is read on a thread of its own, watched, and reached again."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from streamer.common.errors import SourceError, StreamerError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources.base import Source, SourceInfo, as_source_error, damage_phrase
from streamer.sources.options import SourceOptions
from streamer.sources.timeline import ContinuousTimeline

log = logging.getLogger(__name__)

Connect = Callable[[SourceOptions], Source]

# Between attempts, exponential with jitter. After a short outage pictures are to be back within 2 s, after a long one
# within 10 s; neither leaves a server that has thousands of such clients without rest.
_FIRST_DELAY_S = 0.25
_MOST_DOUBLINGS = 16
_LONG_OUTAGE_S = 60.0
_MAX_DELAY_S, _MAX_DELAY_OF_LONG_OUTAGE_S = 1.0, 6.0
_JITTER = 0.25
_STEADY_S = 10.0  # a connection that lived shorter is no reason to begin the delays anew
# An attempt may take a few times as long as the last one that succeeded, since a frozen server would hold it up for
# ever, and twice as long after each attempt that ran out of time, since the source may have become slow.
_PATIENCE, _LEAST_PATIENCE_S = 3.0, 1.5
_MOST_HANGING = 3  # abandoned connections of a source whose library doesn't return
_LET_GO_S = 0.5
_COLLECT_S = 10.0
_collected_s = float("-inf")


class LiveSource(Source):
    """Frames of a camera or a stream, across as many connections as it takes.

    A connection that ends, breaks off, or gives no frame for `SourceOptions.stall_timeout_s` is let go, and a new one
    is tried until it gives a frame, or `SourceOptions.reconnect` attempts in a row failed. `index` and `pts_s` go on
    across connections, `pts_s` by the time that the outage took. Asked for its next frame late, it gives the newest
    (`SourceOptions.freshest`), and `index` counts those passed over. A stream that turns out to be a file on a server
    (`info.live` is False) ends with its end.

    Every connection is read on a thread of its own, since a library's read may hang however its time-outs are set: a
    thread that hangs is left behind, and ends when its library lets it. While three of them hang, further attempts are
    made by `connect_apart`, in a process that can be killed; without it, the next attempt waits until one ends.
    """

    def __init__(
        self, connect: Connect, *, name: str, uri: str, options: SourceOptions, connect_apart: Connect | None = None
    ) -> None:
        """Begins to connect, and returns at once: see `wait_ready`.

        Args:
            connect: opens one connection, which has its first frame when it returns; called on other threads.
            name: the source's short name.
            uri: what it is called in messages and reports, without any password.
            options: patience.
            connect_apart: as `connect`, in a process that ends when the source it returns is closed; None where there
                is no such thing.
        """
        self.info = SourceInfo(name, uri, live=True)
        self._connect, self._connect_apart, self._options = connect, connect_apart, options
        self._closed = threading.Event()
        self._first: Frame | None = None
        self._taken = _Counts()
        self._reconnects = 0
        self._usual_open_s: float | None = None
        self._began_s = time.perf_counter()
        self._last_seen_s = self._began_s
        self._is_lost = False
        self._doublings = 0
        self._timeouts = 0
        self._hanging: list[_Connection] = []
        self._axes = ContinuousTimeline()
        self._connection = _Connection(connect, options, name, uri)

    def wait_ready(self) -> None:
        """Waits for the first frame.

        Raises:
            SourceError: if the source can't be opened, or gives none. Iterating then goes on trying.
        """
        if self._first is None and not self._axes.is_started:
            self._take_first()

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames not yet taken, in order, reaching the source again as often as it is lost.

        Raises:
            SourceError: when it was lost, and `SourceOptions.reconnect` attempts to reach it again failed.
        """
        while not self._closed.is_set():
            try:
                frame = self._next()
            except SourceError as cause:
                if self._closed.is_set():  # its interrupted connection says that it broke off
                    return
                if not self.info.live:
                    raise
                self._reach_again(cause)
                continue
            if frame is None:
                return
            yield frame

    def interrupt(self) -> None:
        """Ends iteration and lets the connection go, from any thread."""
        self._closed.set()
        self._connection.let_go()

    def close(self) -> None:
        """Does what `interrupt` does, and waits a moment for the connection, which may hang."""
        self.interrupt()
        self._connection.join(_LET_GO_S)

    @property
    def lost_s(self) -> float | None:
        """Seconds since the last frame (or the beginning) while the source is being reached again, else None."""
        return time.perf_counter() - self._last_seen_s if self._is_lost else None

    @property
    def reconnects(self) -> int:
        """How often it was lost and reached again."""
        return self._reconnects

    @property
    def dropped(self) -> int:
        """Pictures passed over to stay fresh, over all connections."""
        return self._taken.dropped + self._connection.counts().dropped

    @property
    def damaged(self) -> int:
        """Packets that couldn't be decoded, over all connections."""
        return self._taken.damaged + self._connection.counts().damaged

    @property
    def skipped(self) -> tuple[str, ...]:
        """Damaged packets as one phrase."""
        damaged = self.damaged
        return (damage_phrase(damaged),) if damaged else ()

    def _next(self) -> Frame | None:
        """Returns the next frame of the present connection, None at the end; raises when it is lost."""
        first, self._first = self._first, None
        if first is None and not self._axes.is_started:
            self._take_first()
            first, self._first = self._first, None
        frame = first or self._connection.read()
        if frame is None:
            return None
        self._last_seen_s = time.perf_counter()
        return self._axes.apply(frame)

    def _take_first(self) -> None:
        """Takes the connection's first frame and lays the axes of index and time through it; raises if it has none."""
        connection = self._connection
        first = connection.read()
        if first is None:
            return
        self._usual_open_s = time.perf_counter() - connection.began_s
        self._timeouts = 0
        if not self._axes.is_started:
            self.info = replace(connection.info or self.info, name=self.info.name)
        self._axes.rebase(first)
        self._first = first
        self._is_lost = False

    def _reach_again(self, cause: SourceError) -> None:
        """Connects until a connection gives a frame.

        Raises:
            SourceError: `cause`, or what the last attempt failed with, once no attempt is left.
        """
        name, limit = self.info.name, self._options.reconnect
        was_seen = self._axes.is_started
        if time.perf_counter() - self._connection.began_s > _STEADY_S:
            self._doublings = 0
        for attempt in itertools.count():
            if limit is not None and attempt >= limit:
                tried = f" (tried again {limit} time{'s' * (limit > 1)})" if limit else ""
                raise SourceError(f"{cause}{tried}") from None
            if not attempt:
                log.log(logging.WARNING if was_seen else logging.INFO, "%s; connecting again", cause)
            self._is_lost = True
            self._connection.let_go()
            self._hanging.append(self._connection)
            if not self._wait_for_thread() or self._closed.wait(self._delay_s()):
                return
            self._connect_anew()
            if self._closed.is_set():  # `interrupt` may not have seen this connection
                self._connection.let_go()
                return
            try:
                self._take_first()
            except SourceError as error:
                self._timeouts += self._connection.has_timed_out
                if str(error) != str(cause):
                    log.info("%s; trying again", error)
                cause = error
                continue
            if self._first is not None:
                away_s = time.perf_counter() - self._last_seen_s
                self._reconnects += was_seen
                log.warning("source %r is %s after %.1f s", name, "back" if was_seen else "reached", away_s)
            return

    def _connect_anew(self) -> None:
        """Puts a new connection in the old one's place, whose counts it keeps."""
        counts = self._connection.counts()
        connect = self._connect
        if self._connect_apart is not None and self._count_hanging() >= _MOST_HANGING:
            connect = self._connect_apart
        self._connection = _Connection(connect, self._hurried(), self.info.name, self.info.uri)
        self._taken = _Counts(self._taken.dropped + counts.dropped, self._taken.damaged + counts.damaged)
        _collect_circles()

    def _count_hanging(self) -> int:
        """Returns how many abandoned connections are still in their library."""
        self._hanging = [connection for connection in self._hanging if connection.is_alive]
        return len(self._hanging)

    def _wait_for_thread(self) -> bool:
        """Waits until one more connection may be tried; returns False if the source was closed meanwhile."""
        most = _MOST_HANGING if self._connect_apart is None else 2 * _MOST_HANGING
        is_told = False
        while not self._closed.is_set() and self._count_hanging() >= most:
            if not is_told:
                log.warning("source %r: %d attempts to open it hang; waiting for one to end", self.info.name, most)
                is_told = True
            self._closed.wait(_MAX_DELAY_S)
        return not self._closed.is_set()

    def _delay_s(self) -> float:
        """Returns how long to wait before the next attempt, longer each time."""
        is_long = time.perf_counter() - self._last_seen_s > _LONG_OUTAGE_S
        longest_s = _MAX_DELAY_OF_LONG_OUTAGE_S if is_long else _MAX_DELAY_S
        delay_s = min(longest_s, _FIRST_DELAY_S * 2.0**self._doublings)
        self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)
        return delay_s * random.uniform(1 - _JITTER, 1)

    def _hurried(self) -> SourceOptions:
        """Returns the options for an attempt to come back: the time-out follows the last successful connect."""
        if self._usual_open_s is None:
            return self._options
        next_wakeup_s = max(_LEAST_PATIENCE_S, _PATIENCE * self._usual_open_s)
        next_wakeup_s *= 2.0 ** min(self._timeouts, _MOST_DOUBLINGS)
        return replace(self._options, open_timeout_s=min(self._options.open_timeout_s, next_wakeup_s))


def _collect_circles() -> None:
    """Frees earlier connections, whose decoders keep pictures: PyAV's objects refer to each other in circles.

    It holds up every thread, by some 20 ms where much is loaded (`gc.freeze` spares that), so not at every attempt.
    """
    global _collected_s
    now_s = time.monotonic()
    if now_s - _collected_s > _COLLECT_S:
        _collected_s = now_s
        gc.collect()


class _Counts:
    def __init__(self, dropped: int = 0, damaged: int = 0) -> None:
        self.dropped, self.damaged = dropped, damaged


class _Connection:
    """One connection, opened and read on a thread of its own."""

    def __init__(self, connect: Connect, options: SourceOptions, name: str, shown: str) -> None:
        self.began_s = time.perf_counter()
        self._connect, self._options, self._name, self._shown = connect, options, name, shown
        self._source: Source | None = None
        self._error: StreamerError | None = None
        self._has_given = False
        self._frames: BoundedQueue[Frame] = BoundedQueue(1, OverflowPolicy.BLOCK)
        self._thread = threading.Thread(target=self._run, name=f"read {shown}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    @property
    def has_timed_out(self) -> bool:
        """Whether the time that it may take to open has passed."""
        return time.perf_counter() - self.began_s >= self._options.open_timeout_s

    @property
    def info(self) -> SourceInfo | None:
        """What the connection found, once it has its first frame."""
        return self._source.info if self._source is not None else None

    def counts(self) -> _Counts:
        """Returns what was passed over so far."""
        source = self._source
        return _Counts(source.dropped + self._frames.dropped, source.damaged) if source is not None else _Counts()

    def read(self) -> Frame | None:
        """Returns the next frame, or None at the end and when the connection was let go.

        Raises:
            SourceError: if it can't be opened, breaks off, or gives no frame in time.
        """
        options = self._options
        if self._has_given:
            limit_s = options.stall_timeout_s
        else:
            limit_s = options.open_timeout_s + max(options.key_frame_timeout_s, options.stall_timeout_s) + _LET_GO_S
        try:
            frame = self._frames.get(limit_s)
        except Closed:
            if self._error is not None:
                raise self._error from self._error.__cause__
            return None
        if frame is None:
            raise SourceError(f"source {self._shown!r} gave no picture for {limit_s:g} s; check its network and power")
        self._has_given = True
        return frame

    def let_go(self) -> None:
        """Has the thread end, at the latest after the read it is in; safe to call twice."""
        self._frames.abort()
        source = self._source
        if source is not None:
            source.interrupt()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread to end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            with self._connect(self._options) as source:
                self._source = source
                if source.info.live and self._options.freshest:
                    self._frames.policy = OverflowPolicy.DROP_OLDEST
                for frame in source:
                    self._frames.put(frame)
        except Closed:
            pass
        except Exception as error:  # for `read` to raise
            self._error = as_source_error(error, self._name)
        finally:
            self._frames.close()
