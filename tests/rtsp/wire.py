"""The wire to a simulated camera: a TCP forwarder on loopback that can be held, cut and disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_BUFFER = 128 * 1024  # of a socket, each way: near to a camera's, so that little waits here while the wire is held
_COMMAND_TIMEOUT_S = 10.0
_FRAME_HEADER, RTP_HEADER = 4, 12
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing throws away what is queued and resets the connection


def reserved_port(port: int = 0) -> socket.socket:
    """Returns a socket that holds a port of loopback (0: any free one) without listening: connecting is refused.

    Others can listen there with SO_REUSEADDR, and no other program gets the port by chance.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        holder.close()
        raise
    return holder


class Wire:
    """Forwards connections to a port of loopback, from construction to `close`; its methods are for any thread.

    Attributes:
        port: where to connect.
    """

    def __init__(self, to_port: int, port: int = 0) -> None:
        """Accepts connections on `port`, 0 for any free one, and makes one to `to_port` for each."""
        self._to_port = to_port
        self._holder = reserved_port(port)
        self.port: int = self._holder.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._damage = Damage(0.0, 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="camera-wire", daemon=True)
        self._thread.start()
        self.accept()

    def hold(self) -> None:
        """Lets nothing more pass, as when a cable is pulled; sockets stay open, new ones are never answered."""
        self._do(self._hold())

    def pass_on(self) -> None:
        """Ends `hold`: what was held, and what the camera still has for it, passes."""
        self._do(self._pass_on())

    def cut(self) -> None:
        """Resets all connections; new ones are accepted."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Refuses new connections; those that are open stay."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Ends `refuse`."""
        self._do(self._accept())

    def corrupt(self, share: float, seed: int = 0) -> None:
        """Flips bits in one byte of the payload of a share of the RTP packets that pass from now on.

        RTSP's replies, RTP's headers and RTCP stay whole, so that only pictures suffer.

        Args:
            share: 0 (none) to 1 (all of the packets).
            seed: the same one hits the same packets and bytes of the same stream.
        """
        self._damage = Damage(share, seed)

    def close(self) -> None:
        """Ends all connections and frees the port."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    def _do(self, command: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(command, self._loop).result(_COMMAND_TIMEOUT_S)

    async def _hold(self) -> None:
        self._passing.clear()

    async def _pass_on(self) -> None:
        self._passing.set()

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._forward, "127.0.0.1", self.port, reuse_address=True)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self) -> None:
        for end in tuple(self._ends):
            _reset(end)

    async def _end(self) -> None:
        await self._refuse()
        clients = tuple(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client to its end: the end or reset of one side is passed on to the other."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self._add(writer)
        try:
            await self._passing.wait()
            camera_reader, camera_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._add(camera_writer)
            try:
                await _first_of(
                    self._pass(reader, camera_writer, None), self._pass(camera_reader, writer, _Interleaved())
                )
            except OSError:
                _reset(camera_writer)
                raise
            finally:
                self._remove(camera_writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._remove(writer)
            self._clients.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, interleaved: _Interleaved | None
    ) -> None:
        try:
            while data := await reader.read(_BUFFER):
                await self._passing.wait()
                writer.write(data if interleaved is None else interleaved.disturbed(data, self._damage))
                await writer.drain()
        except OSError:
            await self._passing.wait()
            raise
        await self._passing.wait()

    def _add(self, end: asyncio.StreamWriter) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._ends.add(end)

    def _remove(self, end: asyncio.StreamWriter) -> None:
        self._ends.discard(end)
        end.close()


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs all until one ends or fails."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(end: asyncio.StreamWriter) -> None:
    if not end.transport.is_closing():
        with contextlib.suppress(OSError):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.transport.abort()


class Damage:
    """Flips bits in one byte of the payload of a share of RTP packets; see `Wire.corrupt`."""

    def __init__(self, share: float, seed: int) -> None:
        self._share, self._dice = share, random.Random(seed)

    def __call__(self, payload: bytes) -> bytes:
        """Returns a packet's payload, damaged or not."""
        damaged = bytearray(payload)
        if damaged and self._dice.random() < self._share:
            damaged[self._dice.randrange(len(damaged))] ^= self._dice.randrange(1, 256)
        return bytes(damaged)


class _Interleaved:
    """Tells RTP packets from RTSP's replies in the bytes that a camera sends (RFC 2326, 10.12)."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def disturbed(self, data: bytes, damage: Damage) -> bytes:
        """Returns all complete messages up to here, RTP packets damaged; keeps the beginning of the next."""
        self._rest += data
        ready = bytearray()
        while (size := self._message_size()) is not None and size <= len(self._rest):
            message = self._rest[:size]
            del self._rest[:size]
            if message[:1] == b"$" and message[1] % 2 == 0:  # odd channels carry RTCP
                header = _FRAME_HEADER + RTP_HEADER
                message[header:] = damage(bytes(message[header:]))
            ready += message
        return bytes(ready)

    def _message_size(self) -> int | None:
        if self._rest[:1] == b"$":
            return _FRAME_HEADER + struct.unpack_from(">H", self._rest, 2)[0] if len(self._rest) >= 4 else None
        head, end, _ = self._rest.partition(b"\r\n\r\n")
        if not end:
            return None
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return len(head) + len(end) + sum(map(int, lengths))
