"""A socket between two processes of this program, for Python objects."""

from __future__ import annotations

import pickle
import socket
import struct
import threading

_LENGTH = struct.Struct("!Q")
_MOST_AT_ONCE = 1 << 18


class Wire:
    """One end. Any thread may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        """Takes over a connected stream socket that blocks, if with a time-out: then `TimeoutError` is raised."""
        self._socket = end
        self._lock = threading.Lock()
        self._buffer = bytearray()

    def fileno(self) -> int:
        """Returns the descriptor that is readable when there is something to receive."""
        return self._socket.fileno()

    def send(self, *messages: object) -> None:
        """Sends objects, in one go.

        Raises:
            OSError: if the other end is gone.
        """
        parts: list[bytes] = []
        for message in messages:
            data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            parts += (_LENGTH.pack(len(data)), data)
        with self._lock:
            self._socket.sendall(b"".join(parts))

    def receive(self) -> list[object]:
        """Waits until something comes, and until it is whole, and returns it: at least one object.

        Raises:
            EOFError, OSError: if the other end is gone, and all that came whole was returned.
        """
        found: list[object] = []
        while not found or self._buffer:
            try:
                came = self._socket.recv(_MOST_AT_ONCE)
            except OSError:
                if found:
                    return found
                raise
            if not came:
                if found:
                    return found
                raise EOFError
            self._buffer += came
            found += self._whole()
        return found

    def _whole(self) -> list[object]:
        """Takes the objects that are whole out of the buffer."""
        found, at = [], 0
        with memoryview(self._buffer) as buffer:
            while (body := at + _LENGTH.size) <= len(buffer):
                end = body + _LENGTH.unpack_from(buffer, at)[0]
                if end > len(buffer):
                    break
                found.append(pickle.loads(buffer[body:end]))
                at = end
        del self._buffer[:at]
        return found

    def end(self) -> None:
        """Ends the conversation, for both ends; what waits here for something to come goes on."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster

    def close(self) -> None:
        """Frees the descriptor. Safe to call twice."""
        with self._lock:
            self._socket.close()
