"""HTTP answers within a time for all of them: a socket's own time-out begins anew with each byte that drips in."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any


class Deadline:
    """When what is being waited for must have come."""

    def __init__(self, seconds: float) -> None:
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """Counts anew from now."""
        self._at_s = time.monotonic() + seconds

    def credit(self, seconds: float) -> None:
        """Adds to what is left."""
        self._at_s += seconds

    def left_s(self) -> float:
        """Returns how long is left; raises TimeoutError if nothing is."""
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s


class _TimedReader(io.RawIOBase):
    """What comes through a socket until a deadline: the socket's own time-out is for each byte anew."""

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
    """Returns a connection's `response_class` that reads head and body until a deadline, then raises TimeoutError."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, **options: Any) -> None:
            super().__init__(sock, **options)
            self.fp.close()
            self.fp = io.BufferedReader(_TimedReader(sock, deadline))

    return Response
