"""Pictures as packets, for what reads packets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sinks.options import Encoding
from streamer.sinks.video.encoder import VideoEncoder

_TICK_S = Fraction(1, 90_000)
_KEY_EVERY_S = 1.0
_NOMINAL_FPS = 30


class PacketEncoder:
    """Turns pictures of one size into packets of one format, each at once, with a key frame every second."""

    def __init__(self, first: Frame, fps: float | None, encoding: Encoding) -> None:
        """Makes the encoder for frames like `first`, which isn't encoded yet.

        Args:
            first: a frame.
            fps: nominal frame rate, None if unknown.
            encoding: quality and encoder.

        Raises:
            SinkError: if the wanted encoder doesn't work.
        """
        rate = Fraction(fps).limit_denominator(1001) if fps else Fraction(_NOMINAL_FPS)
        self._size_wh, self._pixel_aspect = first.size_wh, first.pixel_aspect
        self._origin_s, self._last_pts = first.pts_s, -1
        self._content = io.BytesIO()
        self._container = av.open(self._content, "w", format="nut", container_options={"flush_packets": "1"})
        self._encoder = VideoEncoder(
            self._container, first, rate, _TICK_S, encoding, key_every_s=_KEY_EVERY_S, at_once=True
        )
        self._format: PacketFormat | None = None
        self._captured_at_s: dict[int, tuple[float, float]] = {}  # of pictures that the encoder still has

    def suits(self, frame: Frame) -> bool:
        """Whether a picture continues the format."""
        return (frame.size_wh, frame.pixel_aspect) == (self._size_wh, self._pixel_aspect)

    def encode(self, frame: Frame) -> Iterator[MediaPacket]:
        """Encodes a frame that suits and yields the packets that it completes.

        Raises:
            av.FFmpegError: if the encoder fails.
        """
        pts = max(self._last_pts + 1, round((frame.pts_s - self._origin_s) / _TICK_S))
        self._last_pts = pts
        self._captured_at_s[pts] = frame.pts_s, frame.captured_at_s
        for packet in self._encoder.encode(frame, pts):
            if self._format is None:
                self._format = self._describe(packet.stream)
            time_s, captured_at_s = self._captured_at_s.pop(packet.pts or 0, (frame.pts_s, frame.captured_at_s))
            yield MediaPacket(self._format, bytes(packet), time_s, time_s, 0.0, packet.is_keyframe, captured_at_s)

    def _describe(self, stream: av.VideoStream) -> PacketFormat:
        """Returns the format, once the encoder is open."""
        first: av.Packet[Any] = av.Packet(bytes(16))
        first.stream, first.time_base, first.pts, first.dts, first.is_keyframe = stream, _TICK_S, 0, 0, True
        self._container.mux(first)
        context = stream.codec_context
        return PacketFormat(
            "video",
            context.codec.canonical_name,
            bytes(context.extradata or b""),
            (context.width, context.height),
            self._pixel_aspect,
            template=self._content.getvalue(),
        )
