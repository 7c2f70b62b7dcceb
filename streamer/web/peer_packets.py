"""Which packets a viewer by WebRTC gets: the source's own where it can take them, else those of one encoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from streamer.common.queues import Closed
from streamer.frames.packets import MediaPacket
from streamer.sources.packet_tap import PacketReader, PacketTap
from streamer.web.live_encoder import LiveEncoder
from streamer.web.live_stream import LiveStream
from streamer.web.parameter_sets import ParameterSets, UnplayableError, length_bytes_of, picture_of, units_of


class NoPicturesYet(Exception):
    """The stream has no picture yet."""


@dataclass
class _Shared:
    encoder: LiveEncoder
    viewers: int = 0


class PeerPackets:
    """The packets for WebRTC of each stream. Used on the server's event loop."""

    def __init__(self) -> None:
        self._encoders: dict[LiveStream, _Shared] = {}

    def read(self, stream: LiveStream, wake: Callable[[], None]) -> tuple[PacketReader, Callable[[], None]]:
        """Returns a reader of H.264 pictures in the order in which they are shown, and what closes it.

        It begins with the newest key frame. An encoder begins with the first reader, is shared by all, and ends with
        the last one.

        Args:
            stream: what is watched.
            wake: called for each packet on the thread that pushes it; it must not block.

        Raises:
            NoPicturesYet: if the stream has none yet.
        """
        own = stream.info.packets
        if own is not None and stream.shows_packets(("avc1",)) and is_for_webrtc(kept_pictures(own)):
            reader = own.read_from(math.inf, wake=wake)
            return reader, reader.close
        if stream.newest is None:
            raise NoPicturesYet("there is no picture yet")
        shared = self._encoders.setdefault(stream, _Shared(LiveEncoder(stream, has_boxes=False)))
        reader = shared.encoder.tap.read_from(math.inf, wake=wake)
        if not shared.viewers:
            shared.encoder.start()
        shared.viewers += 1

        def close() -> None:
            reader.close()
            shared.viewers -= 1
            if not shared.viewers:
                self._encoders.pop(stream, None)
                shared.encoder.close()

        return reader, close


def kept_pictures(tap: PacketTap) -> list[MediaPacket]:
    """Returns the pictures that a tap keeps, from a key frame on."""
    reader = tap.read_from(-math.inf)
    packets: list[MediaPacket] = []
    try:
        while (packet := reader.read(0)) is not None:
            packets.append(packet)
    except Closed:
        pass
    finally:
        reader.close()
    return [packet for packet in packets if packet.is_video]


def is_for_webrtc(packets: list[MediaPacket]) -> bool:
    """Whether browsers take packets by WebRTC: 8-bit 4:2:0 H.264 whose pictures come in the order they are shown."""
    newest = next((packet for packet in reversed(packets) if packet.is_key), None)
    if newest is None or newest.format.codec != "h264":
        return False
    if any(after.time_s < before.time_s for before, after in itertools.pairwise(packets)):
        return False
    extradata = newest.format.extradata
    sets = ParameterSets.of_extradata("h264", extradata)
    units = units_of(newest.data, length_bytes_of("h264", extradata))
    sets = sets.updated(ParameterSets.of_units("h264", units))
    try:
        return sets.is_complete and picture_of(sets).plays_everywhere
    except UnplayableError:
        return False
