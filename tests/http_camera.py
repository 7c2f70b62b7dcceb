"""A camera over HTTP on loopback that answers with any bytes, as tests plan them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import cv2

from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions
from tests.media import picture

Reply = Callable[[str, Callable[[bytes], None]], None]
"""Gets the request's head and what sends bytes; the connection is closed when it returns."""


def head(content_type: str, *lines: str) -> bytes:
    """Returns an answer's head, of status 200."""
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {content_type}", *lines, "", ""]).encode()


class HttpCamera:
    """Answers each connection by `reply`, on a thread of its own."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                data = connection.recv(65536)
                if not data:
                    return
                request += data
            self.requests.append(request.decode("latin-1"))
            self._reply(self.requests[-1], connection.sendall)
            connection.shutdown(socket.SHUT_RDWR)


MIXED = "multipart/x-mixed-replace; boundary=b"


EVERY = SourceOptions(
    overflow_policy=OverflowPolicy.BLOCK,
    reconnect=0,
    open_timeout_s=30.0,
    key_frame_timeout_s=30.0,
    stall_timeout_s=30.0,
)


HURRY = SourceOptions(reconnect=0, open_timeout_s=0.5, key_frame_timeout_s=0.5, stall_timeout_s=0.5)


def jpeg(number: int, *parameters: int) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(number), parameters)[1])


def stream(content_type: str, part: Callable[[bytes], bytes], *, first: bytes = b"", count: int = 6) -> Reply:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head(content_type) + first)
        for number in range(count):
            send(part(jpeg(number)))

    return reply


def part_of(
    *lines: str, boundary: str = "--b", end: bytes = b"\r\n", line_end: str = "\r\n"
) -> Callable[[bytes], bytes]:
    def part(content: bytes) -> bytes:
        shown = [line.replace("LENGTH", str(len(content))) for line in lines]
        return line_end.join([boundary, *shown, "", ""]).encode() + content + end

    return part
