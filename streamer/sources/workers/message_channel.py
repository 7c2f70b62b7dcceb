"""Python objects over a socket pair, through `multiprocessing.connection`, with the kernel's time-outs."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import threading
from multiprocessing.connection import Connection

_MAX_MESSAGE_BYTES = 1 << 30


class GarbledMessageError(Exception):
    """The data received is no message."""


class MessageChannel:
    """One end of a socket pair. Any thread may send, one receives.

    Attributes:
        is_unread: whether the other end didn't read in time.
    """

    is_unread = False

    def __init__(self, end: socket.socket, timeout_s: float | None = None) -> None:
        """Takes ownership of a connected, blocking socket.

        `timeout_s` is the longest time without a byte in `receive`, and without space in `send`; None is unlimited.
        """
        if timeout_s is not None:
            timeval = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                end.setsockopt(socket.SOL_SOCKET, option, timeval)
        self._socket = end
        self._connection = Connection(os.dup(end.fileno()))
        self._lock = threading.Lock()

    def poll(self, timeout_s: float) -> bool:
        """Waits until there is something to receive; returns False when there isn't in time."""
        return self._connection.poll(timeout_s)

    def send(self, *messages: object) -> None:
        """Sends objects together.

        Raises:
            OSError: if the other end is closed, or doesn't read in time; the channel is shut down then.
        """
        data = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            try:
                self._connection.send_bytes(data)
            except OSError as error:  # maybe in the middle of a message
                self.is_unread = self.is_unread or isinstance(error, BlockingIOError)  # SO_SNDTIMEO
                self.shutdown()
                raise

    def receive(self) -> tuple[object, ...]:
        """Waits for the objects of one `send`.

        Raises:
            EOFError, OSError: if the other end is closed.
            TimeoutError: if nothing comes in time, also in the middle of a message.
            GarbledMessageError: if the data received isn't what `send` sends.
        """
        try:
            data = self._connection.recv_bytes(_MAX_MESSAGE_BYTES)
        except BlockingIOError as error:  # SO_RCVTIMEO
            raise TimeoutError("nothing received in time") from error
        except OSError as error:
            if not self._connection.readable:  # the header's length is above the limit
                raise GarbledMessageError(str(error)) from error
            raise
        try:
            messages = pickle.loads(data)
        except Exception as error:  # pickle raises any kind on foreign bytes
            raise GarbledMessageError(f"{type(error).__name__}: {error}") from error
        if not isinstance(messages, tuple):
            raise GarbledMessageError(f"{type(messages).__name__} in place of messages")
        return messages

    def shutdown(self) -> None:
        """Ends the connection for both ends, and wakes the threads that send or receive."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Frees the descriptors. Safe to call twice."""
        with self._lock:
            self._socket.close()
            self._connection.close()
