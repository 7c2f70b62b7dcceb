"""An ASGI application served over a real socket on a thread, and raw bytes to it, for the tests of the page."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from tests.fakes import WAIT_S, wait_for


@contextlib.contextmanager
def served(app: Any, **options: Any) -> Iterator[int]:
    """Serves an application on loopback until the block ends; yields the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, **options
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listening.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    """Connects; reading fails the test where nothing comes for a minute."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        yield client


def read_to_end(client: socket.socket) -> bytes:
    """Returns all that comes until the server closes the connection, however it does."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            found += part
    return found
