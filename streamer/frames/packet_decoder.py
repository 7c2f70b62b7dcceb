"""A video's packets to pictures: the interface between reading a file or stream and a decoder."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

from streamer.frames.frame import Pixels


class CorruptPacketError(Exception):
    """A packet couldn't be decoded; the text says why, without naming the source."""


@dataclass(frozen=True, slots=True)
class DecodedPicture:
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
    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        """Returns the pictures that are complete with this packet; all that are left for an empty one, the end.

        Raises:
            Damage: if the packet can't be decoded; the next may be.
            SourceError: if none can; the text goes on after "source 'x' ".
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go what it holds. Safe to call twice; pictures that were given stay valid."""
