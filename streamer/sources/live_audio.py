"""The sound of a live source, from its connections to its recordings."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from streamer.frames.audio import AudioChunk, AudioFormat

_KEPT_S = 10.0  # for a recording that starts with a frame some time after it was captured
_WAITING_S = 60.0  # most that a recording may be behind


class AudioFeed:
    """The sound of one connection, on that connection's own timeline.

    Attributes:
        format: what it is.
    """

    def __init__(self, format: AudioFormat) -> None:
        self.format = format
        self._lock = threading.Lock()
        self._waiting: _Chunks = _Chunks(_KEPT_S)
        self._consumer: Callable[[AudioChunk], None] | None = None

    def push(self, chunk: AudioChunk) -> None:
        """Adds what comes next; on the thread that reads the connection."""
        with self._lock:
            if self._consumer is None:
                self._waiting.append(chunk)
            else:
                self._consumer(chunk)

    def start(self, consumer: Callable[[AudioChunk], None]) -> None:
        """Gives `consumer` what was pushed so far, and all that follows."""
        with self._lock:
            self._consumer = consumer
            for chunk in self._waiting.take_all():
                consumer(chunk)

    def stop(self) -> None:
        """Gives nothing more."""
        with self._lock:
            self._consumer = None


class LiveAudio:
    """The sound of one source across its connections. Any number of recordings read it, each at its own pace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._feed: AudioFeed | None = None
        self._format: AudioFormat | None = None
        self._base_s = 0.0
        self._recent = _Chunks(_KEPT_S)
        self._readers: list[AudioSubscription] = []

    @property
    def format(self) -> AudioFormat | None:
        """What it is on the latest connection that has sound; None until there is one."""
        return self._format

    def attach(self, feed: AudioFeed | None, base_s: float) -> None:
        """Continues with the sound of a connection whose time 0 is `base_s` on the source's timeline.

        The same one again moves what it has given so far.
        """
        with self._lock:
            before, self._feed = self._feed, feed
            moved_s, self._base_s = base_s - self._base_s, base_s
            if feed is not None and feed is before:
                for chunks in (self._recent, *(reader.chunks for reader in self._readers)):
                    chunks.move(moved_s)
                return
            self._format = feed.format if feed is not None else self._format
        if before is not None:
            before.stop()
        if feed is not None:
            feed.start(self._push)

    def subscribe(self) -> AudioSubscription:
        """Returns a reader, which begins with the last ten seconds."""
        with self._lock:
            reader = AudioSubscription(self._lock, self._unsubscribe)
            for chunk in self._recent:
                reader.chunks.append(chunk)
            self._readers.append(reader)
            return reader

    def _push(self, chunk: AudioChunk) -> None:
        with self._lock:
            placed = chunk.moved(self._base_s)
            for chunks in (self._recent, *(reader.chunks for reader in self._readers)):
                chunks.append(placed)

    def _unsubscribe(self, reader: AudioSubscription) -> None:
        with self._lock:
            self._readers = [other for other in self._readers if other is not reader]


class AudioSubscription:
    """One reader of a `LiveAudio`; on one thread at a time.

    Attributes:
        chunks: what it hasn't taken yet; with the lock held.
    """

    def __init__(self, lock: threading.Lock, close: Callable[[AudioSubscription], None]) -> None:
        self._lock, self._close = lock, close
        self.chunks = _Chunks(_WAITING_S)

    def take_until(self, end_s: float) -> list[AudioChunk]:
        """Returns what has come of the sound before `end_s`, in order; cuts a chunk in two there."""
        taken = []
        with self._lock:
            for chunk in self.chunks.take_all():
                before, rest = chunk.split(end_s)
                if before is not None:
                    taken.append(before)
                if rest is not None:
                    self.chunks.append(rest)
        return taken

    def close(self) -> None:
        """Reads no more. Safe to call twice."""
        self._close(self)


class _Chunks(deque[AudioChunk]):
    """Chunks in order, the oldest of which are dropped beyond a length."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._limit_s = limit_s
        self._length_s = 0.0

    def append(self, chunk: AudioChunk) -> None:
        super().append(chunk)
        self._length_s += chunk.end_s - chunk.time_s
        while self._length_s > self._limit_s and len(self) > 1:
            dropped = self.popleft()
            self._length_s -= dropped.end_s - dropped.time_s

    def take_all(self) -> list[AudioChunk]:
        taken = list(self)
        self.clear()
        self._length_s = 0.0
        return taken

    def move(self, by_s: float) -> None:
        moved = [chunk.moved(by_s) for chunk in self]
        self.clear()
        self.extend(moved)
