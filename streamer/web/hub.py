"""The streams of a page by name."""

from __future__ import annotations

import threading

from streamer.web.live_stream import LiveStatus, LiveStream


class Hub:
    """Which streams there are, for any thread. A stream that has ended stays until it is removed or replaced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[str, LiveStream] = {}

    def add(self, stream: LiveStream) -> None:
        """Adds a stream; one of the same name is replaced, and ends."""
        with self._lock:
            before = self._streams.pop(stream.name, None)
            self._streams[stream.name] = stream
        if before is not None:
            before.end()

    def remove(self, name: str) -> None:
        """Removes the stream of that name, if there is one, which ends."""
        with self._lock:
            before = self._streams.pop(name, None)
        if before is not None:
            before.end()

    def get(self, name: str) -> LiveStream | None:
        """Returns the stream of that name, None if there is none."""
        with self._lock:
            return self._streams.get(name)

    @property
    def streams(self) -> tuple[LiveStream, ...]:
        """All streams, in the order in which they came."""
        with self._lock:
            return tuple(self._streams.values())

    def statuses(self) -> tuple[LiveStatus, ...]:
        """Returns all streams as they are now."""
        return tuple(stream.status() for stream in self.streams)

    def end_all(self) -> None:
        """Ends all streams, so that their viewers are sent away."""
        for stream in self.streams:
            stream.end()
