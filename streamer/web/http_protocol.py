"""uvicorn's HTTP protocol with an end to patience: clients that send or read slowly don't keep their connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar

from h11 import IDLE, Data, EndOfMessage, Request, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamer.web.problems import Problem

MOST_HEADER_BYTES = 32 * 1024


class BoundedHttpProtocol(H11Protocol):
    """Closes connections that uvicorn keeps without a time limit.

    - A request's line and headers have to be there `head_s` after the connection was made, or after its first byte.
    - A client that reads nothing of an answer for `read_s` is gone, as is what it was answered.
    - Of more than `most_connections` at a time the newest are refused.

    uvicorn ends idle connections itself, and h11 bounds the headers' size.
    """

    head_s: ClassVar[float] = 10.0
    read_s: ClassVar[float] = 60.0
    most_connections: ClassVar[int] = 256

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Takes what uvicorn gives its protocols."""
        super().__init__(*arguments, **options)
        self.logger = _log  # what a client sends is no reason for a warning
        self._head = _Deadline(self._abort)
        self._reader = _Deadline(self._abort_unread)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._head.start(self.loop, self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        self._head.cancel()
        self._reader.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Starts the time for a request at its first byte, and ends it with its headers."""
        if not self._is_answering:
            self._head.start(self.loop, self.head_s)
        super().data_received(data)

    def handle_websocket_upgrade(self, event: Request) -> None:
        """Hands the connection over to the protocol of WebSockets."""
        self._head.cancel()
        super().handle_websocket_upgrade(event)

    def handle_events(self) -> None:
        """Handles what has come, which may be a request's last header, or the next request."""
        super().handle_events()
        if self._is_answering:
            self._head.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, and closes the connection; in the middle of an answer it can only be closed."""
        if self.conn.our_state is not IDLE:
            self._abort()
            return
        problem = Problem(400, "that is no request in HTTP/1.1")
        headers = [("content-type", "application/json"), ("content-length", str(len(problem.body)))]
        for event in (
            Response(status_code=400, headers=[*headers, ("connection", "close")], reason=b"Bad Request"),
            Data(data=problem.body),
            EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self._close()

    def on_response_complete(self) -> None:
        """Waits for the next request; and for the client to read the answer, but not for ever."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._reader.start(self.loop, self.read_s)

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection."""
        super().timeout_keep_alive_handler()
        self._close()

    def pause_writing(self) -> None:
        """The client doesn't read: waits for it, but not for ever."""
        self._reader.start(self.loop, self.read_s)
        super().pause_writing()  # type: ignore[no-untyped-call]

    def resume_writing(self) -> None:
        """The client reads again."""
        self._reader.cancel()
        super().resume_writing()  # type: ignore[no-untyped-call]

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _close(self) -> None:
        """Closes the connection once the client has read what is left, or after `read_s`."""
        self.transport.close()
        self._reader.start(self.loop, self.read_s)

    def _abort_unread(self) -> None:
        self._reader.cancel()
        if self.transport.get_write_buffer_size():
            self._abort()

    def _abort(self) -> None:
        self.transport.abort()


class _Deadline:
    """Calls a function once, unless it is cancelled before; starting it again while it runs changes nothing."""

    def __init__(self, on_late: Callable[[], None]) -> None:
        self._on_late = on_late
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, after_s: float) -> None:
        if self._timer is None:
            self._timer = loop.call_later(after_s, self._on_late)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_log = logging.getLogger(f"{__name__}.requests")
_log.setLevel(logging.ERROR)
