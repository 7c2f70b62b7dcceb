"""A video's packets to pictures: the seam between reading a file or stream and whatever decodes it."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import av
from av.packet import Packet
from av.video.stream import VideoStream

from streamer.errors import SourceError
from streamer.frame import Pixels
from streamer.sources.options import MAX_PIXELS, too_large
from streamer.sources.pixels import Turn, pixels_of, turn_of


class Damage(Exception):
    """A packet couldn't be decoded; the text says why, without naming the source."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture, the right way up.

    Attributes:
        pixels: as `Frame.pixels`.
        stamp_s: its own time stamp in seconds, None where it has none.
        duration_s: how long it is shown by its own account, 0 where it doesn't say.
        is_corrupt: whether the decoder filled in what was missing, as far as it tells.
    """

    pixels: Pixels
    stamp_s: float | None
    duration_s: float
    is_corrupt: bool


class PacketDecoder(abc.ABC):
    """Takes the packets of one video in order, gives its pictures in order of presentation. One thread at a time."""

    @abc.abstractmethod
    def decode(self, packet: Packet[VideoStream]) -> list[Picture]:
        """Returns the pictures that are complete with this packet; all that are left for an empty one, the end.

        Raises:
            Damage: if the packet can't be decoded; the next may be.
            SourceError: if none can; the text goes on after "source 'x' ".
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go what it holds. Safe to call twice; pictures that were given stay valid."""


class CpuPackets(PacketDecoder):
    """Decodes with FFmpeg.

    Attributes:
        turn: how pictures are turned for display; None until the first.
    """

    def __init__(self, stream: VideoStream, tick_s: float, max_pixels: int = MAX_PIXELS) -> None:
        """Takes the stream that the packets are of, the seconds a tick of its time stamps, and the largest picture."""
        self._context = stream.codec_context
        self._tick_s, self._max_pixels = tick_s, max_pixels
        self._context.options = {**self._context.options, "max_pixels": str(max_pixels)}
        self.turn: Turn | None = None

    def decode(self, packet: Packet[VideoStream]) -> list[Picture]:
        try:
            return [self._picture(decoded) for decoded in packet.decode()]
        except av.EOFError:  # the decoder was flushed before
            return []
        except av.FFmpegError as error:
            context = self._context
            problem = too_large((context.width, context.height), self._max_pixels)
            if problem is not None:  # FFmpeg says of such a picture only that it is invalid
                raise SourceError(f"is too large: {problem}") from None
            raise Damage(str(error.strerror)) from error

    def _picture(self, decoded: av.VideoFrame) -> Picture:
        if self.turn is None:
            self.turn = turn_of(decoded)
        tick_s = self._tick_s
        stamp_s = None if decoded.pts is None else decoded.pts * tick_s
        return Picture(pixels_of(decoded, self.turn), stamp_s, decoded.duration * tick_s, bool(decoded.is_corrupt))

    def close(self) -> None:
        self._context.flush_buffers()
