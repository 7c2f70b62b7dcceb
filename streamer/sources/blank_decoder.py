"""Stands in for a decoder where only a video's packets are wanted."""

from __future__ import annotations

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from streamer.frames.frame import HostPixels
from streamer.frames.packet_decoder import CorruptPacketError, DecodedPicture, PacketDecoder
from streamer.frames.pixels import Orientation, orientation_of
from streamer.sources.cpu_decoder import raise_decode_error
from streamer.sources.options import MAX_PIXELS


class BlankDecoder(PacketDecoder):
    """Gives a black picture of the right size for each packet, as they come; only the first key frame is decoded.

    That one tells the size, the rotation, and that it is a video at all. A black picture takes no memory. Its time
    stamp is the packet's decoding time, moved so that the first one's is when it is shown: it rises where pictures are
    reordered too.

    Attributes:
        orientation: rotation and mirroring for display; None before the first picture.
    """

    def __init__(self, stream: VideoStream, tick_s: float, max_pixels: int = MAX_PIXELS) -> None:
        """Takes the packets' stream, the length of a tick of its time stamps, and the most pixels of a picture."""
        self._context = stream.codec_context
        self._tick_s, self._max_pixels = tick_s, max_pixels
        self._context.options = {**self._context.options, "max_pixels": str(max_pixels)}
        self.orientation: Orientation | None = None
        self._blank: HostPixels | None = None
        self._shown_after = 0  # ticks from the first picture's decoding to when it is shown

    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        if not packet.size:
            return []
        if self._blank is None:
            if not packet.is_keyframe:
                return []
            self._blank = self._first(packet)
            if packet.pts is not None and packet.dts is not None:
                self._shown_after = packet.pts - packet.dts
        stamp = packet.pts if packet.dts is None else packet.dts + self._shown_after
        stamp_s = None if stamp is None else stamp * self._tick_s
        return [DecodedPicture(self._blank, stamp_s, (packet.duration or 0) * self._tick_s, bool(packet.is_corrupt))]

    def close(self) -> None:
        self._context.flush_buffers()

    def _first(self, packet: Packet[VideoStream]) -> HostPixels:
        """Returns a black picture of the size of a key frame; raises as `decode`."""
        try:
            pictures = [*self._context.decode(packet), *self._context.decode(None)]
        except av.FFmpegError as error:
            raise_decode_error(error, self._context, self._max_pixels)
        finally:
            self._context.flush_buffers()
        if not pictures:
            raise CorruptPacketError("no picture comes of it")
        self.orientation = orientation_of(pictures[0])
        width, height = pictures[0].width, pictures[0].height
        if self.orientation[0]:
            width, height = height, width
        return np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
