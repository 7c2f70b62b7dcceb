"""Decodes a video's packets with FFmpeg."""

from __future__ import annotations

from typing import NoReturn

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.common.errors import SourceError
from streamer.frames.packet_decoder import CorruptPacketError, DecodedPicture, PacketDecoder
from streamer.frames.pixels import Orientation, orientation_of, pixels_of
from streamer.sources.options import MAX_PIXELS, too_large


class CpuDecoder(PacketDecoder):
    """Decodes with FFmpeg.

    Attributes:
        orientation: rotation and mirroring for display; None before the first picture.
    """

    def __init__(self, stream: VideoStream, tick_s: float, max_pixels: int = MAX_PIXELS) -> None:
        """Takes the packets' stream, the length of a tick of its time stamps, and the most pixels of a picture."""
        self._context = stream.codec_context
        self._tick_s, self._max_pixels = tick_s, max_pixels
        self._context.options = {**self._context.options, "max_pixels": str(max_pixels)}
        self.orientation: Orientation | None = None

    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        try:
            return [self._picture(decoded) for decoded in packet.decode()]
        except av.EOFError:  # the decoder was flushed before
            return []
        except av.FFmpegError as error:
            raise_decode_error(error, self._context, self._max_pixels)

    def _picture(self, decoded: av.VideoFrame) -> DecodedPicture:
        if self.orientation is None:
            self.orientation = orientation_of(decoded)
        tick_s = self._tick_s
        stamp_s = None if decoded.pts is None else decoded.pts * tick_s
        return DecodedPicture(
            pixels_of(decoded, self.orientation), stamp_s, decoded.duration * tick_s, bool(decoded.is_corrupt)
        )

    def close(self) -> None:
        self._context.flush_buffers()


def raise_decode_error(error: av.FFmpegError, context: VideoCodecContext, max_pixels: int) -> NoReturn:
    """Raises what FFmpeg's error is: SourceError for a picture that is too large, else CorruptPacketError."""
    problem = too_large((context.width, context.height), max_pixels)
    if problem is not None:  # FFmpeg only says that it is invalid
        raise SourceError(f"is too large: {problem}") from None
    raise CorruptPacketError(str(error.strerror)) from error
