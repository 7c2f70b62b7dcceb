"""A video's packets to pictures: the interface between reading a file or stream and a decoder."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

from streamer.frames.frame import Pixels


class CorruptPacketError(Exception):
    """A packet couldn't be decoded; the message doesn't name the source."""


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """One decoded, upright picture.

    Attributes:
        pixels: as `Frame.pixels`.
        stamp_s: presentation time stamp in seconds, or None.
        duration_s: display duration in seconds, 0 where unknown.
        is_corrupt: whether the decoder reports concealed errors.
    """

    pixels: Pixels
    stamp_s: float | None
    duration_s: float
    is_corrupt: bool


class PacketDecoder(abc.ABC):
    """Decodes one video's packets in order to pictures in presentation order; not thread-safe."""

    @abc.abstractmethod
    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        """Returns the pictures that this packet completes; an empty packet flushes the decoder.

        Raises:
            CorruptPacketError: this packet can't be decoded; the next may be.
            SourceError: no packet can; the message continues "source 'x' ".
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Releases resources; idempotent. Returned pictures stay valid."""
