"""Connections that a server would keep for ever: slow heads, slow readers, too many, and what is no HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from streamer.web.http_protocol import MOST_HEADER_BYTES, BoundedHttpProtocol
from tests.fakes import wait_for
from tests.web_server import connection, read_to_end, served

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"x" * (16 << 20)  # more than the kernel holds


class Impatient(BoundedHttpProtocol):
    """Waits as long as a test does, and keeps what is open."""

    head_s: ClassVar[float] = 0.1
    read_s: ClassVar[float] = 0.1
    most_connections: ClassVar[int] = 8
    open: ClassVar[list[Impatient]] = []

    def connection_made(self, transport: Any) -> None:
        self.open.append(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.open.remove(self)


class Patient(Impatient):
    """Waits for longer than a test lasts."""

    head_s: ClassVar[float] = 600.0
    read_s: ClassVar[float] = 600.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers ok; ``/large`` more than a client's buffers hold; ``/endless`` never ends."""
    body = LARGE if scope["path"] == "/large" else b"ok"
    is_endless = scope["path"] == "/endless"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": is_endless})
    while is_endless and (await receive())["type"] != "http.disconnect":
        pass


@pytest.fixture
def impatient() -> Iterator[int]:
    with served(app, http=Impatient, h11_max_incomplete_event_size=MOST_HEADER_BYTES) as port:
        yield port
    assert not Impatient.open


@pytest.fixture
def patient() -> Iterator[int]:
    with served(app, http=Patient, h11_max_incomplete_event_size=MOST_HEADER_BYTES) as port:
        yield port


def test_a_request_is_answered(impatient: int) -> None:
    with connection(impatient) as client:
        client.sendall(GET)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(impatient: int, sent: bytes) -> None:
    with connection(impatient) as client:
        client.sendall(sent)
        assert read_to_end(client) == b""


def test_a_head_that_comes_byte_by_byte_ends_the_connection(impatient: int) -> None:
    with connection(impatient) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(100_000_000):
            client.sendall(b"G")
            client.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                if not client.recv(1):
                    break


def test_a_second_request_has_the_same_time(impatient: int) -> None:
    with connection(impatient) as client:
        client.sendall(GET)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        client.sendall(GET[:10])
        read_to_end(client)


@pytest.mark.parametrize("path", [b"/large", b"/large HTTP/1.1\r\nConnection: close\r\nX: x"])
def test_a_client_that_reads_nothing_is_sent_away(impatient: int, path: bytes) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", impatient))
        request = b"GET " + path + (b"" if b"HTTP" in path else b" HTTP/1.1") + b"\r\nHost: x\r\n\r\n"
        client.sendall(request)
        wait_for(lambda: Impatient.open)
        wait_for(lambda: not Impatient.open)


def test_a_client_that_reads_gets_all(patient: int) -> None:
    with connection(patient) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert LARGE in read_to_end(client)


def test_the_newest_of_too_many_connections_are_refused(patient: int) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connection(patient)) for _ in range(Patient.most_connections)]
        wait_for(lambda: len(Patient.open) == Patient.most_connections)
        with connection(patient) as one_more:
            assert read_to_end(one_more) == b""
        clients[-1].sendall(GET)
        assert clients[-1].recv(1000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"\0" * 100,
     b"GET / HTTP/1.1\r\nX-A: " + b"a" * (2 * MOST_HEADER_BYTES) + b"\r\n\r\n"],
    ids=["tls", "words", "header", "zeros", "long"],
)  # fmt: skip
def test_what_is_no_http_is_answered_in_json(patient: int, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with connection(patient) as client:
        client.sendall(sent + b"\r\n\r\n")
        head, _, body = read_to_end(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_nonsense_within_an_answer_ends_the_connection(patient: int, caplog: pytest.LogCaptureFixture) -> None:
    with connection(patient) as client:
        client.sendall(b"POST /endless HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(b"nonsense\r\n\r\n")
        read_to_end(client)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
