"""Cameras and streams that reconnect: each connection is read on its own thread, and replaced when it is lost."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from streamer.common.errors import SourceError, StreamerError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources.av_input import PYAV_MAJOR, collect_cycles
from streamer.sources.backoff import DEFAULT_BACKOFF, Backoff
from streamer.sources.base import Source, SourceInfo, as_source_error
from streamer.sources.live_audio import AudioFeed, LiveAudio
from streamer.sources.options import SourceOptions
from streamer.sources.packet_tap import PacketFeed, PacketTap
from streamer.sources.timeline import ContinuousTimeline

log = logging.getLogger(__name__)

Connect = Callable[[SourceOptions], Source]

_MAX_HANGING = 3  # abandoned connections whose library doesn't return
_HANGING_CHECK_S = 1.0
_CLOSE_TIMEOUT_S = 0.5


class LiveSource(Source):
    """Frames of a camera or stream across any number of connections.

    A connection that ends, fails, or gives no frame for `SourceOptions.stall_timeout_s` is replaced by a new one, up to
    `SourceOptions.reconnect` attempts in a row. `index` and `pts_s` continue; the outage is part of `pts_s`. With
    `SourceOptions.drops_stale` iteration gives the newest frame, and `index` counts those dropped. A stream that is a
    file on a server (`info.live` is False) ends with its end.

    A library's read may hang whatever its time-outs, so each connection has its own thread, which is abandoned when it
    hangs. While three hang, further attempts are made by `connect_isolated`, in a process that can be killed; without
    it, the next attempt waits until one returns.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        name: str,
        uri: str,
        options: SourceOptions,
        connect_isolated: Connect | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Starts to connect and returns at once: see `wait_ready`.

        Args:
            connect: opens one connection, and returns once it has a frame; called on other threads.
            name: the source's short name.
            uri: as shown in messages and reports, without any password.
            options: time-outs.
            connect_isolated: as `connect`, in a process that ends with the source; None where that isn't possible.
            backoff: delays between attempts.
            clock: seconds, monotonic; the clock of `Frame.captured_at_s`.
        """
        self._audio = LiveAudio() if options.audio else None
        self._packets = PacketTap(options.kept_packets_s) if options.kept_packets_s else None
        self.info = SourceInfo(name, uri, live=True, audio=self._audio, packets=self._packets)
        self._connect, self._connect_isolated, self._options = connect, connect_isolated, options
        self._backoff, self._clock = backoff, clock
        self._closed = threading.Event()
        self._first: Frame | None = None
        self._earlier_dropped = self._earlier_damaged = 0  # of the connections before this one
        self._reconnects = 0
        self._last_open_s: float | None = None
        self._last_frame_s = clock()
        self._is_lost = False
        self._delays = self._timeouts = 0
        self._hanging: list[_Connection] = []
        self._timeline = ContinuousTimeline()
        self._is_held = self._starts_over = False
        self._held_dropped = 0
        self._connection = _Connection(connect, options, name, uri, clock)

    def hold(self) -> None:
        if self.info.live and self._timeline.is_started:
            self._is_held = True
            self._connection.restart(OverflowPolicy.DROP_OLDEST)

    def wait_ready(self) -> None:
        if not self._timeline.is_started:
            self._read_first()

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames not yet read, in order, across reconnects.

        Raises:
            SourceError: when it was lost, and `SourceOptions.reconnect` attempts to reconnect failed.
        """
        if self._is_held:
            self._is_held, self._starts_over = False, True
            if self._options.reconnect != 0 or not self._connection.has_ended:  # else what came is all there is
                self._connection.restart(self._options.overflow_policy)
                self._first = None
            self._held_dropped = self.dropped
        while not self._closed.is_set():
            try:
                frame = self._read()
            except SourceError as cause:
                if self._closed.is_set():  # the connection was interrupted
                    return
                if not self.info.live:
                    raise
                self._reconnect(cause)
                continue
            if frame is None:
                if self._packets is not None:
                    self._packets.close()
                return
            yield frame

    def interrupt(self) -> None:
        self._closed.set()
        self._connection.stop()

    def close(self) -> None:
        """Ends iteration and closes the connection, which may hang: waits 0.5 s for it."""
        self.interrupt()
        if self._packets is not None:
            self._packets.close()
        self._connection.join(_CLOSE_TIMEOUT_S)

    @property
    def lost_s(self) -> float | None:
        return self._clock() - self._last_frame_s if self._is_lost else None

    @property
    def reconnects(self) -> int:
        return self._reconnects

    @property
    def utc_offset_s(self) -> float | None:
        offset_s = self._connection.utc_offset_s
        return None if offset_s is None else offset_s - self._timeline.base_pts_s

    @property
    def dropped(self) -> int:
        return self._earlier_dropped + self._connection.dropped - self._held_dropped

    @property
    def damaged(self) -> int:
        return self._earlier_damaged + self._connection.damaged

    def _read(self) -> Frame | None:
        """Returns the next frame of this connection, None at the end; raises when it is lost."""
        if not self._timeline.is_started:
            self._read_first()
        first, self._first = self._first, None
        frame = first or self._connection.read()
        if frame is None:
            return None
        self._last_frame_s = self._clock()
        if self._starts_over:
            self._starts_over = False
            self._timeline.restart(frame)
            self._attach()
        return self._timeline.apply(frame)

    def _read_first(self) -> None:
        """Reads the connection's first frame and continues the timeline with it; raises if there is none."""
        connection = self._connection
        first = connection.read()
        if first is None:
            return
        self._last_open_s, self._timeouts = connection.age_s, 0
        if not self._timeline.is_started:
            self.info = replace(
                connection.info or self.info, name=self.info.name, audio=self._audio, packets=self._packets
            )
        self._timeline.rebase(first)
        self._attach()
        self._first = first
        self._is_lost = False

    def _attach(self) -> None:
        """Puts the connection's sound and packets on the source's timeline."""
        if self._audio is not None:
            self._audio.attach(self._connection.audio_feed, self._timeline.base_pts_s)
        feed = self._connection.packet_feed
        if self._packets is not None and feed is not None:
            feed.attach(self._packets, self._timeline.base_pts_s)

    def _reconnect(self, cause: SourceError) -> None:
        """Connects until a connection gives a frame, or the source is closed.

        Raises `cause`, or the last attempt's error, once no attempt is left.
        """
        limit, was_seen = self._options.reconnect, self._timeline.is_started
        if self._connection.age_s > self._backoff.stable_s:
            self._delays = 0
        for attempt in itertools.count():
            if limit is not None and attempt >= limit:
                tried = f" (tried again {limit} time{'s' * (limit > 1)})" if limit else ""
                raise SourceError(f"{cause}{tried}") from None
            if not attempt:
                log.log(logging.WARNING if was_seen else logging.INFO, "%s; connecting again", cause)
            self._is_lost = True
            self._connection.stop()
            self._hanging.append(self._connection)
            if not self._wait_while_hanging() or self._closed.wait(self._next_delay_s()):
                return
            self._replace_connection()
            try:
                self._read_first()
            except SourceError as error:
                if self._closed.is_set():
                    return
                self._timeouts += self._connection.has_timed_out
                if str(error) != str(cause):
                    log.info("%s; trying again", error)
                cause = error
                continue
            if self._first is not None:
                self._reconnects += was_seen
                away_s = self._clock() - self._last_frame_s
                log.info("source %r is %s after %.1f s", self.info.name, "back" if was_seen else "reached", away_s)
            return

    def _replace_connection(self) -> None:
        connect, old = self._connect, self._connection
        if self._connect_isolated is not None and self._count_hanging() >= _MAX_HANGING:
            connect = self._connect_isolated
        limit_s = self._options.open_timeout_s
        timeout_s = self._backoff.open_timeout_s(limit_s, self._last_open_s, self._timeouts)
        options = replace(self._options, open_timeout_s=timeout_s)
        self._connection = _Connection(connect, options, self.info.name, self.info.uri, self._clock)
        self._earlier_dropped += old.dropped
        self._earlier_damaged += old.damaged
        if old.packet_feed is not None:
            old.packet_feed.stop()
        if self._closed.is_set():  # `interrupt` may have stopped the old one only
            self._connection.stop()
        if PYAV_MAJOR < 19:
            collect_cycles()

    def _next_delay_s(self) -> float:
        self._delays += 1
        return self._backoff.delay_s(self._delays - 1, self._clock() - self._last_frame_s)

    def _count_hanging(self) -> int:
        """Returns how many abandoned connections haven't returned from their library."""
        self._hanging = [connection for connection in self._hanging if connection.is_alive]
        return len(self._hanging)

    def _wait_while_hanging(self) -> bool:
        """Waits until another connection may be tried; returns False if the source was closed meanwhile."""
        most = _MAX_HANGING if self._connect_isolated is None else 2 * _MAX_HANGING
        is_logged = False
        while not self._closed.is_set() and self._count_hanging() >= most:
            if not is_logged:
                log.warning("source %r: %d attempts to open it hang; waiting for one to end", self.info.name, most)
                is_logged = True
            self._closed.wait(_HANGING_CHECK_S)
        return not self._closed.is_set()


class _Connection:
    """One connection, opened and read on its own thread."""

    def __init__(
        self, connect: Connect, options: SourceOptions, name: str, shown: str, clock: Callable[[], float]
    ) -> None:
        self._connect, self._options, self._name, self._shown, self._clock = connect, options, name, shown, clock
        self._started_s = clock()
        self._source: Source | None = None
        self._error: StreamerError | None = None
        self._has_frame = False
        self._frames: BoundedQueue[Frame] = BoundedQueue(1, OverflowPolicy.BLOCK)
        self._thread = threading.Thread(target=self._run, name=f"read {shown}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return self._clock() - self._started_s

    @property
    def has_timed_out(self) -> bool:
        """Whether opening it may take no longer."""
        return self.age_s >= self._options.open_timeout_s

    @property
    def info(self) -> SourceInfo | None:
        """The source's info, once it is open."""
        return self._source.info if self._source is not None else None

    @property
    def audio_feed(self) -> AudioFeed | None:
        """Its sound, once it is open."""
        return self._source.audio_feed if self._source is not None else None

    @property
    def utc_offset_s(self) -> float | None:
        """As `Source.utc_offset_s`, on its own timeline."""
        return self._source.utc_offset_s if self._source is not None else None

    @property
    def packet_feed(self) -> PacketFeed | None:
        """Its packets, once it is open."""
        return self._source.packet_feed if self._source is not None else None

    @property
    def dropped(self) -> int:
        """Frames dropped to stay fresh."""
        return self._source.dropped + self._frames.dropped if self._source is not None else 0

    @property
    def damaged(self) -> int:
        """Packets that couldn't be decoded."""
        return self._source.damaged if self._source is not None else 0

    def read(self) -> Frame | None:
        """Returns the next frame, or None at the end or when it was stopped.

        Raises:
            SourceError: if it can't be opened, fails, or gives no frame in time.
        """
        options = self._options
        if self._has_frame:
            limit_s = options.stall_timeout_s
        else:
            limit_s = options.open_timeout_s + max(options.key_frame_timeout_s, options.stall_timeout_s)
            limit_s += _CLOSE_TIMEOUT_S
        try:
            frame = self._frames.get(limit_s)
        except Closed:
            if self._error is not None:
                raise self._error from self._error.__cause__
            return None
        if frame is None:
            source = self._source
            is_file = source is not None and self._has_frame and not source.info.live
            advice = "check the server and the network to it" if is_file else "check its network and power"
            raise SourceError(f"source {self._shown!r} gave no picture for {limit_s:g} s; {advice}")
        self._has_frame = True
        return frame

    @property
    def has_ended(self) -> bool:
        """Whether it gives no more frames than those that wait to be read."""
        return self._frames.is_closed

    def restart(self, policy: OverflowPolicy) -> None:
        """Discards what waits to be read, and sets what happens to frames that aren't read in time."""
        self._frames.restart(policy)

    def stop(self) -> None:
        """Ends the thread, after its current read at the latest. Safe to call twice."""
        self._frames.abort()
        source = self._source
        if source is not None:
            source.interrupt()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            with self._connect(self._options) as source:
                self._source = source
                if self._options.drops_stale(live=source.info.live):
                    self._frames.policy = OverflowPolicy.DROP_OLDEST
                for frame in source:
                    self._frames.put(frame)
        except Closed:
            pass
        except Exception as error:  # raised by `read`
            self._error = as_source_error(error, self._name)
        finally:
            self._frames.close()
