"""One stream as its viewers get it: packets become fragments once, for any number of viewers."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
from collections.abc import AsyncGenerator, Callable, Collection

from streamer.common.queues import Closed
from streamer.sources.packet_tap import PacketReader, PacketTap
from streamer.web.fragments import PLAYABLE_CODECS, Fragmenter, MediaFormat
from streamer.web.live_encoder import LiveEncoder
from streamer.web.live_stream import LiveStream
from streamer.web.message_log import Message, MessageLog, Place
from streamer.web.messages import (
    detections_message,
    end_message,
    format_message,
    skipped_message,
    state_message,
)
from streamer.web.parameter_sets import UnplayableError

log = logging.getLogger(__name__)

_POLL_S = 0.5  # whether the source is lost
_AT_ONCE = 32  # packets until other viewers get their turn


class View(enum.Enum):
    """What viewers see."""

    PACKETS = "packets"
    """The source's own packets."""

    ENCODED = "encoded"
    """Its pictures, encoded without boxes."""

    BOXES = "boxes"
    """Its pictures, encoded with boxes."""


class NotPlayable(Exception):
    """The browser can't play what the packets have become; another view can be shown."""


class Broadcast:
    """Makes a stream's messages on the event loop from `start` until `stop`; `watch` is each viewer's."""

    def __init__(self, stream: LiveStream, view: View) -> None:
        self._stream, self._view = stream, view
        self._log = MessageLog()
        self._news = asyncio.Event()
        self._encoder: LiveEncoder | None = None
        self._task: asyncio.Task[None] | None = None
        self._found = 0
        self._fragmenter = Fragmenter()
        self._state = ""
        self._is_over = False
        self._problem: str | None = None

    def start(self) -> None:
        """Begins to make messages."""
        if self._view is not View.PACKETS:
            self._encoder = LiveEncoder(self._stream, has_boxes=self._view is View.BOXES)
        self._task = asyncio.create_task(self._run(), name=f"live {self._stream.name}")

    def stop(self) -> None:
        """Makes no more; the last viewer has left."""
        if self._task is not None:
            self._task.cancel()
        if self._encoder is not None:
            self._encoder.close()

    async def watch(self, entries: Collection[str], place: Place) -> AsyncGenerator[bytes | str]:
        """Yields what one viewer is sent, from the newest key frame on, until the stream ends.

        Args:
            entries: sample entries that its browser plays, such as ``avc1``.
            place: counts what it misses.

        Raises:
            NotPlayable: once its browser can't play what comes.
        """
        sent: MediaFormat | None = None
        if self._state:
            yield self._state
        while True:
            news = self._news
            message, missed = self._log.next(place)
            if missed:
                yield skipped_message(missed)
            if message is None:
                if self._problem is not None:
                    raise NotPlayable(self._problem)
                if self._is_over:
                    return
                await news.wait()
                continue
            about = message.format
            if about is not None and about is not sent:
                if PLAYABLE_CODECS[about.codec] not in entries:
                    raise NotPlayable(about.codec)
                sent = about
                yield format_message(about, self._stream.labels, self._shown_view)
                yield about.init
            yield message.data

    @property
    def _shown_view(self) -> str:
        return "packets" if self._view is View.PACKETS else "encoded"

    async def _run(self) -> None:
        stream = self._stream
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(woken.set)

        tap = stream.info.packets if self._encoder is None else self._encoder.tap
        assert tap is not None, "a stream is shown by its packets only where it has some"
        async with _watching(stream, tap, wake) as reader:
            if self._encoder is not None:
                self._encoder.start()
            while True:
                woken.clear()
                is_over = stream.is_ended
                await self._take_packets(reader)
                self._take_detections(tap)
                self._take_state()
                self._tell()
                if self._problem is not None:
                    return
                if is_over:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await woken.wait()
        self._log.add(Message(end_message()))
        self._is_over = True
        self._tell()

    async def _take_packets(self, reader: PacketReader) -> None:
        """Turns the packets that are there into fragments."""
        taken = 0
        try:
            while (packet := reader.read(0)) is not None:
                fragment = self._fragmenter.write(packet)
                if fragment is not None:
                    self._log.add(Message(fragment.data, fragment.format, fragment.is_key))
                taken += 1
                if taken % _AT_ONCE == 0:
                    self._tell()
                    await asyncio.sleep(0)
        except Closed:
            pass
        except UnplayableError as error:
            log.info("source %r is encoded for the live page: %s", self._stream.name, error)
            self._problem = str(error)

    def _take_detections(self, tap: PacketTap) -> None:
        """Adds what was detected since, at first what belongs to the pictures that viewers begin with."""
        key = tap.newest_key if self._found == 0 else None
        for found in self._stream.found_after(self._found):
            self._found = found.number
            if key is None or tap.time_of(found.pts_s) >= key.time_s:
                self._log.add(Message(detections_message(found, tap)))

    def _take_state(self) -> None:
        state = state_message(self._stream.lost_s, has_frames=self._stream.newest is not None)
        if state != self._state:
            self._state = state
            self._log.add(Message(state))

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


@contextlib.asynccontextmanager
async def _watching(stream: LiveStream, tap: PacketTap, wake: Callable[[], None]) -> AsyncGenerator[PacketReader]:
    """Has `wake` called for each packet and each frame; yields a reader that begins with the newest key frame."""
    reader = tap.read_from(math.inf, wake=wake)
    unwatch = stream.watch(wake)
    try:
        yield reader
    finally:
        unwatch()
        reader.close()


class Broadcasts:
    """The broadcasts of a page: one for each stream and view, only while somebody watches. Used on the event loop."""

    def __init__(self) -> None:
        self._running: dict[tuple[LiveStream, View], tuple[Broadcast, int]] = {}

    @contextlib.asynccontextmanager
    async def joined(self, stream: LiveStream, view: View) -> AsyncGenerator[Broadcast]:
        """Within the block one more viewer watches: the first starts the broadcast, the last one ends it."""
        key = stream, view
        broadcast, viewers = self._running.get(key) or (Broadcast(stream, view), 0)
        if not viewers:
            broadcast.start()
        self._running[key] = broadcast, viewers + 1
        try:
            yield broadcast
        finally:
            left = self._running[key][1] - 1
            if left:
                self._running[key] = broadcast, left
            else:
                del self._running[key]
                broadcast.stop()
