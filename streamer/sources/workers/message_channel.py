"""A socket between two processes of this program, for Python objects."""

from __future__ import annotations

import pickle
import socket
import struct
import threading

_LENGTH = struct.Struct("!Q")
_MOST_AT_ONCE = 1 << 18
_MOST_IN_A_CALL = 1 << 23
_MOST_IN_A_MESSAGE = 1 << 30


class Garbled(Exception):
    """What came is no message: nothing behind it can be read either."""


class MessageChannel:
    """One end. Any thread may send; one receives.

    Over a socket that doesn't block neither waits: what isn't whole yet, or not sent yet, is kept.
    """

    def __init__(self, end: socket.socket) -> None:
        """Takes over a connected stream socket."""
        self._socket = end
        self._blocks = end.getblocking()
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        """Returns the descriptor that is readable when there is something to receive."""
        return self._socket.fileno()

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._buffer)

    @property
    def is_sending(self) -> bool:
        """Whether there is something to `flush`."""
        return bool(self._unsent)

    def send(self, *messages: object) -> None:
        """Sends objects, in one go; what the other end doesn't read yet is kept where the socket doesn't block.

        Raises:
            OSError: if the other end is gone.
        """
        parts: list[bytes] = []
        for message in messages:
            data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
            parts += (_LENGTH.pack(len(data)), data)
        with self._lock:
            if self._blocks:
                self._socket.sendall(b"".join(parts))
            else:
                self._unsent += b"".join(parts)
                self._flush()

    def flush(self) -> None:
        """Sends what was kept, as far as the other end reads it.

        Raises:
            OSError: if the other end is gone.
        """
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()
            raise

    def receive(self) -> list[object]:
        """Returns the objects that have come whole, in order.

        Waits for at least one where the socket blocks; else returns at once, also with none, and leaves what is more
        than 8 MiB to the next call.

        Raises:
            EOFError, OSError: if the other end is gone, and all that came whole was returned.
            Garbled: if something comes that `send` doesn't send.
        """
        found: list[object] = []
        size = 0
        while size < _MOST_IN_A_CALL and not (found and self._blocks):
            try:
                came = self._socket.recv(_MOST_AT_ONCE)
            except BlockingIOError:
                break
            except OSError:
                if found:
                    break
                raise
            if not came:
                if found:
                    break
                raise EOFError
            size += len(came)
            self._buffer += came
            found += self._whole()
        return found

    def _whole(self) -> list[object]:
        """Takes the objects that are whole out of the buffer."""
        found, at = [], 0
        with memoryview(self._buffer) as buffer:
            while (body := at + _LENGTH.size) <= len(buffer):
                size = _LENGTH.unpack_from(buffer, at)[0]
                if size > _MOST_IN_A_MESSAGE:
                    raise Garbled(f"a message of {size} bytes")
                if body + size > len(buffer):
                    break
                try:
                    found.append(pickle.loads(buffer[body : body + size]))
                except Exception as error:  # of any kind: it depends on what is taken for a pickle
                    raise Garbled(type(error).__name__) from error
                at = body + size
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
