"""Viewers of a live page, for the tests of several files: real connections on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from streamer.common.closeable import Closeable
from streamer.frames.detections import Detections
from streamer.sinks.page_address import PageAddress
from streamer.sources.base import Source
from streamer.web.page import LivePage
from tests.fakes import WAIT_S


class Served(Protocol):
    """A page, in this process or another."""

    address: PageAddress


class Viewer(Closeable):
    """Reads a stream's WebSocket on a thread of its own, until it is closed or the stream ends.

    Attributes:
        formats: what was said before each init segment.
        fragments: for each of these, the init segment and what followed.
        said: the other messages, by type.
        closed: close code and reason, once the server has closed.
    """

    def __init__(self, page: Served, name: str, query: str = "") -> None:
        url = f"ws://127.0.0.1:{page.address.port}/api/streams/{name}/live{query}"
        self._stack = contextlib.ExitStack()
        self._connection = self._stack.enter_context(
            connect(url, max_size=None, open_timeout=WAIT_S, compression=None, ping_interval=None)
        )
        self.formats: list[dict[str, Any]] = []
        self.fragments: list[list[bytes]] = []
        self.said: dict[str, list[dict[str, Any]]] = {}
        self.closed: tuple[int, str] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def pictures(self) -> int:
        """Fragments so far."""
        return sum(len(group) - 1 for group in self.fragments.copy() if group)

    def close(self) -> None:
        self._stack.close()
        self._thread.join(WAIT_S)

    def _read(self) -> None:
        try:
            for message in self._connection:
                self._take(message)
        except ConnectionClosed:
            pass
        received = self._connection.protocol.close_rcvd
        self.closed = None if received is None else (received.code, received.reason)

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.fragments[-1].append(message)
            return
        said = json.loads(message)
        if said["type"] == "format":
            self.formats.append(said)
            self.fragments.append([])
        else:
            self.said.setdefault(said["type"], []).append(said)


@contextlib.contextmanager
def shown(page: LivePage, source: Source, detections: Callable[[int], Detections] | None = None) -> Iterator[None]:
    """Shows a source's frames on a page, on a thread, until it ends or the block does."""
    sink = page.open_sink(source.info, ("cat",), lambda: source.lost_s)

    def run() -> None:
        with sink:
            for frame in source:
                sink.write(frame, detections(frame.index) if detections is not None else Detections.empty())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        source.interrupt()
        thread.join(WAIT_S)
        source.close()
        assert not thread.is_alive()


def client(page: Served) -> httpx.Client:
    """Returns an HTTP client of a page."""
    return httpx.Client(base_url=str(page.address), timeout=WAIT_S)
