"""JPEG pictures of a camera as the packets of a stream."""

from __future__ import annotations

import io
from collections import deque
from fractions import Fraction
from typing import Any

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av

from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sources.packet_tap import PacketFeed, moved

_MAX_WAITING = 100  # pictures before the first that could be decoded
_LEAST_APART_S = 1e-3


class JpegPackets:
    """Feeds one connection's pictures, each a key frame, by their arrival.

    Attributes:
        feed: where they go.
    """

    def __init__(self) -> None:
        self.feed = PacketFeed()
        self._format: PacketFormat | None = None
        self._zero_s: float | None = None
        self._last_s = float("-inf")
        self._waiting: deque[MediaPacket] = deque(maxlen=_MAX_WAITING)

    def add(self, jpeg: bytes, size_wh: tuple[int, int], arrived_s: float) -> None:
        """Takes the next picture, its size, and when it arrived by `time.perf_counter`."""
        if self._format is None or self._format.size_wh != size_wh:
            self._format = jpeg_format(size_wh)
        self._last_s = time_s = max(arrived_s, self._last_s + _LEAST_APART_S)
        packet = MediaPacket(self._format, jpeg, time_s, time_s, 0.0, is_key=True, captured_at_s=arrived_s)
        if self._zero_s is None:
            self._waiting.append(packet)
        else:
            self.feed.push(moved(packet, -self._zero_s))

    def begin(self) -> None:
        """Feeds from now on; the first picture that has come is at time 0, as the connection's first frame."""
        zero_s = self._zero_s = self._waiting[0].time_s
        for packet in self._waiting:
            self.feed.push(moved(packet, -zero_s))
        self._waiting.clear()


def jpeg_format(size_wh: tuple[int, int]) -> PacketFormat:
    """Returns what JPEG pictures of a size are as packets."""
    content = io.BytesIO()
    with av.open(content, "w", format="nut") as container:
        stream = container.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuvj420p"
        container.start_encoding()
        packet: av.Packet[Any] = av.Packet(bytes(16))
        packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 1000), 0, 0
        packet.is_keyframe = True
        container.mux(packet)
    return PacketFormat("video", "mjpeg", b"", size_wh, template=content.getvalue())
