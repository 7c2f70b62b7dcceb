"""Packets of H.264 and H.265 to fragmented MP4, a fragment for each picture, written as soon as its packet is there."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.web.mp4 import TICKS_S, fragment_head, init_segment
from streamer.web.parameter_sets import (
    ParameterSets,
    UnplayableError,
    is_dropped,
    is_parameter_set,
    length_bytes_of,
    picture_of,
    units_of,
)

PLAYABLE_CODECS = {"h264": "avc1", "hevc": "hvc1"}
"""FFmpeg's names of the codecs that can be played, and those of their sample entries."""

DURATION_S = 0.5


@dataclass(frozen=True)
class MediaFormat:
    """What a browser needs before fragments.

    Attributes:
        codec: FFmpeg's name.
        codec_string: as RFC 6381 has it.
        size_wh: of the pictures, in pixels.
        origin_s: the source's time at which the fragments' time is 0.
        init: the init segment.
    """

    codec: str
    codec_string: str
    size_wh: tuple[int, int]
    origin_s: float
    init: bytes

    @property
    def mime(self) -> str:
        """What ``MediaSource.isTypeSupported`` takes."""
        return f'video/mp4; codecs="{self.codec_string}"'


@dataclass(frozen=True)
class Fragment:
    """One picture as ``moof`` and ``mdat``.

    Attributes:
        format: what has to be known before it.
        data: the two boxes.
        is_key: whether decoding can begin with it.
        time_s: when it is shown, as `Frame.pts_s`.
    """

    format: MediaFormat
    data: bytes
    is_key: bool
    time_s: float


class Fragmenter:
    """Makes fragments of a stream's packets, from a key frame on. Sound is left out.

    A new format begins with a key frame whose parameter sets differ, or whose packets are of another codec; fragments
    then count from it. A fragment says that its picture lasts `DURATION_S`: how long it does is known only with the
    next packet, and Media Source Extensions drop pictures up to the next key frame where two are further apart than
    twice that, as where a camera pauses. A browser shows the next picture at its own time all the same.
    """

    def __init__(self) -> None:
        self._packet_format: PacketFormat | None = None
        self._sets = ParameterSets("")
        self._length_bytes: int | None = None
        self._format: MediaFormat | None = None
        self._decode_ticks = -1
        self._number = 0

    def write(self, packet: MediaPacket) -> Fragment | None:
        """Returns the fragment of a packet; None for sound, and until a key frame with its parameter sets has come.

        Raises:
            UnplayableError: if browsers can't play it.
        """
        if not packet.is_video or (self._format is None and not packet.is_key):
            return None
        if packet.format is not self._packet_format:
            self._begin_packets(packet.format)
        codec = self._sets.codec
        units = units_of(packet.data, self._length_bytes)
        if packet.is_key:
            self._read_sets(packet, units)
        if self._format is None:
            return None
        known = {*self._sets.vps, *self._sets.sps, *self._sets.pps}
        kept = [
            unit
            for unit in units
            if not is_dropped(codec, unit) and not (is_parameter_set(codec, unit) and unit in known)
        ]
        return self._fragment(packet, kept, self._format) if kept else None

    def _begin_packets(self, about: PacketFormat) -> None:
        if about.codec not in PLAYABLE_CODECS:
            raise UnplayableError(f"no browser plays {about.codec} in MP4")
        before, self._packet_format = self._packet_format, about
        if before is not None and before.codec != about.codec:
            self._format = None
        self._length_bytes = length_bytes_of(about.codec, about.extradata)
        self._sets = ParameterSets.of_extradata(about.codec, about.extradata)

    def _read_sets(self, packet: MediaPacket, units: Sequence[bytes]) -> None:
        """Begins a new format where a key frame's parameter sets aren't those before."""
        sets = self._sets.updated(ParameterSets.of_units(self._sets.codec, units))
        if not sets.is_complete:
            return
        self._sets = sets
        picture = picture_of(sets)
        if not picture.plays_everywhere:
            raise UnplayableError(f"its pictures aren't 8-bit 4:2:0 ({picture.codec_string})")
        entry = PLAYABLE_CODECS[sets.codec]
        init = init_segment(entry, picture.box, picture.size_wh, packet.format.pixel_aspect)
        if self._format is None or self._format.init != init:
            self._format = MediaFormat(
                sets.codec, picture.codec_string, picture.size_wh, packet.decode_time_s, init
            )  # fmt: skip
            self._decode_ticks = -1

    def _fragment(self, packet: MediaPacket, units: Sequence[bytes], about: MediaFormat) -> Fragment:
        size = sum(map(len, units)) + 4 * len(units)
        decode_ticks = round((packet.decode_time_s - about.origin_s) * TICKS_S)
        self._decode_ticks = decode_ticks = max(decode_ticks, self._decode_ticks + 1)
        composition_ticks = round((packet.time_s - about.origin_s) * TICKS_S) - decode_ticks
        self._number += 1
        head = fragment_head(
            self._number, decode_ticks, round(DURATION_S * TICKS_S), composition_ticks, size, is_key=packet.is_key
        )  # fmt: skip
        parts = [head]
        for unit in units:
            parts += (struct.pack(">I", len(unit)), unit)
        return Fragment(about, b"".join(parts), packet.is_key, packet.time_s)
