"""HTTP responses with a deadline: a socket's own time-out restarts with each byte that arrives."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any


class Deadline:
    """A point in time until which to wait."""

    def __init__(self, seconds: float) -> None:
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """Restarts it from now."""
        self._at_s = time.monotonic() + seconds

    def credit(self, seconds: float) -> None:
        """Adds time."""
        self._at_s += seconds

    def left_s(self) -> float:
        """Returns the time left; raises TimeoutError if there is none."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._socket, self._deadline = connection, deadline
        self._file = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._deadline.left_s())
        return self._file.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def response_within(deadline: Deadline) -> type[http.client.HTTPResponse]:
    """Returns a `response_class` for a connection, which raises TimeoutError at the deadline."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, **options: Any) -> None:
            super().__init__(sock, **options)
            self.fp.close()
            self.fp = io.BufferedReader(_TimedReader(sock, deadline))

    return Response
