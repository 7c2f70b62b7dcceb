"""A source's packets as the video of one WebRTC connection, passed through without decoding or encoding."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamer.common.queues import Closed
from streamer.frames.packets import MediaPacket
from streamer.sources.packet_tap import PacketReader
from streamer.web.parameter_sets import (
    ParameterSets,
    is_dropped,
    is_parameter_set,
    length_bytes_of,
    units_of,
)

CLOCK_HZ = 90_000
Packets = tuple[PacketReader, Callable[[], None]]
_START_CODE = b"\x00\x00\x00\x01"
_CATCH_UP_TICKS = 90  # between pictures that are sent to get to the newest one: a browser shows them by their stamps
_CATCH_UP_BYTES_A_S = 4e6  # more would be lost in the sockets' buffers


class PacketTrack(MediaStreamTrack):
    """Gives aiortc the packets of a tap, from the newest key frame on. Made and used on the server's event loop.

    It ends with the tap, and where its packets turn to another codec.

    A viewer can begin with a key frame only. The pictures from there to the newest one are sent at once, with stamps a
    millisecond apart, so that the browser decodes them but doesn't play them at their own speed, which would leave it
    behind for good.
    """

    kind = "video"

    def __init__(self, read: Callable[[Callable[[], None]], Packets], on_sent: Callable[[int], None]) -> None:
        """Begins with the newest key frame.

        Args:
            read: returns a reader of H.264 packets in the order in which they are shown, and what closes it; it is
                given what is to be called for each packet.
            on_sent: called after a picture is sent, with the stamp that aiortc was given: its time as `Frame.pts_s`, in
                ticks of `CLOCK_HZ`, or a little less for one before the newest.
        """
        super().__init__()
        self._server_loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._on_sent = on_sent
        self._reader, self._close = read(self._wake)
        self._sets = ParameterSets("h264")
        self._format: object = None
        self._length_bytes: int | None = None
        self._behind: deque[MediaPacket] = deque()
        self._last_ticks: int | None = None
        self._is_live = False
        self._sent: int | None = None

    async def recv(self) -> Any:
        """Returns the next picture as a packet that aiortc only splits.

        Raises:
            MediaStreamError: at the end.
        """
        if self._sent is not None:
            self._on_sent(self._sent)
        while self.readyState == "live":
            packet = self._next()
            if packet is None:
                await self._came.wait()
                self._came.clear()
                continue
            data = self._annex_b(packet)
            if not data:
                continue
            ticks = self._ticks(packet)
            out: av.Packet[Any] = av.Packet(data)
            out.pts, out.time_base = ticks, Fraction(1, CLOCK_HZ)
            if not self._is_live:
                await asyncio.sleep(len(data) / _CATCH_UP_BYTES_A_S)
            self._sent = ticks
            return out
        raise MediaStreamError

    def stop(self) -> None:
        """Ends it, on any turn of the event loop. Safe to call twice."""
        if self.readyState == "live":
            super().stop()
            self._close()
            self._came.set()

    def _wake(self) -> None:
        """Called on the thread that pushes packets."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._server_loop.call_soon_threadsafe(self._came.set)

    def _next(self) -> MediaPacket | None:
        """Returns the next packet of pictures, None if there is none yet."""
        try:
            while not self._behind or not self._is_live:  # all that wait, until the newest is reached
                packet = self._reader.read(0)
                if packet is None:
                    break
                if packet.is_video and packet.format.codec != "h264":
                    self.stop()
                elif packet.is_video:
                    self._behind.append(packet)
        except Closed:
            if not self._behind:
                self.stop()
        if not self._behind:
            return None
        packet = self._behind.popleft()
        self._is_live = self._is_live or not self._behind
        return packet

    def _ticks(self, packet: MediaPacket) -> int:
        """Returns a picture's stamp: its own time, or just before the newest's while it catches up."""
        newest = self._behind[-1] if self._behind else packet
        ticks = round(newest.time_s * CLOCK_HZ) - len(self._behind) * _CATCH_UP_TICKS
        if self._last_ticks is not None:
            ticks = max(ticks, self._last_ticks + 1)
        self._last_ticks = ticks
        return ticks

    def _annex_b(self, packet: MediaPacket) -> bytes:
        """Returns the packet's units with start codes, a key frame's after the parameter sets."""
        if packet.format is not self._format:
            self._format = packet.format
            self._sets = ParameterSets.of_extradata("h264", packet.format.extradata)
            self._length_bytes = length_bytes_of("h264", packet.format.extradata)
        units = units_of(packet.data, self._length_bytes)
        sets = [unit for unit in units if is_parameter_set("h264", unit)]
        if sets:
            self._sets = self._sets.updated(ParameterSets.of_units("h264", sets))
        pictures = [unit for unit in units if not (is_parameter_set("h264", unit) or is_dropped("h264", unit))]
        if packet.is_key:
            pictures = [*self._sets.sps, *self._sets.pps, *pictures]
        return b"".join(_START_CODE + unit for unit in pictures)
