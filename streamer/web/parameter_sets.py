"""H.264 and H.265 as they come in packets: NAL units, parameter sets, and what these say to a browser."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from streamer.web.bits import BitReader

_H264_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128)  # profiles whose SPS says the chroma format
_CHROMA_STEPS = {0: (1, 1), 1: (2, 2), 2: (2, 1), 3: (1, 1)}  # luma samples to one of chroma, across and down
H264_SPS, H264_PPS = 7, 8
H265_VPS, H265_SPS, H265_PPS = 32, 33, 34
_H264_DROPPED = (9, 10, 11, 12)  # delimiters, ends, filler: MP4 has no use for them
_H265_DROPPED = (35, 36, 37, 38)


class UnplayableError(Exception):
    """No browser plays these packets; the message says why."""


def is_length_prefixed(extradata: bytes) -> bool:
    """Whether NAL units have their length before them, as in MP4 and RTMP, not start codes, as in RTSP (Annex B)."""
    return extradata[:1] == b"\x01"


def units_of(data: memoryview | bytes, length_bytes: int | None) -> list[bytes]:
    """Splits a packet into NAL units.

    Args:
        data: the packet.
        length_bytes: how many bytes each length has; None where there are start codes.
    """
    content = bytes(data)
    if length_bytes is None:
        parts = content.split(b"\x00\x00\x01")
        return [unit for part in parts[1:] if (unit := part.rstrip(b"\x00"))]
    units, at = [], 0
    while at + length_bytes < len(content):
        size = int.from_bytes(content[at : at + length_bytes], "big")
        at += length_bytes
        if size:
            units.append(content[at : at + size])
        at += size
    return units


@dataclass(frozen=True)
class ParameterSets:
    """What a decoder needs before the first picture.

    Attributes:
        codec: ``h264`` or ``hevc``.
        vps: of H.265.
        sps: one or more.
        pps: one or more.
    """

    codec: str
    vps: tuple[bytes, ...] = ()
    sps: tuple[bytes, ...] = ()
    pps: tuple[bytes, ...] = ()

    @classmethod
    def of_units(cls, codec: str, units: Iterable[bytes]) -> ParameterSets:
        """Returns those among NAL units, each once."""
        by_type: dict[int, dict[bytes, None]] = {}
        for unit in units:
            by_type.setdefault(unit_type(codec, unit), {})[unit] = None
        vps, sps, pps = (tuple(by_type.get(kind, ())) for kind in _set_types(codec))
        return cls(codec, vps if codec == "hevc" else (), sps, pps)

    @classmethod
    def of_extradata(cls, codec: str, extradata: bytes) -> ParameterSets:
        """Returns those of a stream's extradata: avcC, hvcC or Annex B."""
        if not is_length_prefixed(extradata):
            return cls.of_units(codec, units_of(extradata, None))
        return cls.of_units(codec, _avcc_units(extradata) if codec == "h264" else _hvcc_units(extradata))

    @property
    def is_complete(self) -> bool:
        """Whether a decoder can begin with them."""
        return bool(self.sps and self.pps and (self.vps or self.codec == "h264"))

    def updated(self, later: ParameterSets) -> ParameterSets:
        """Returns these with the kinds that `later` has replaced by its own."""
        return ParameterSets(self.codec, later.vps or self.vps, later.sps or self.sps, later.pps or self.pps)


def unit_type(codec: str, unit: bytes) -> int:
    """Returns the type of a NAL unit."""
    return unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F


def is_parameter_set(codec: str, unit: bytes) -> bool:
    """Whether a NAL unit is one of `ParameterSets`."""
    return unit_type(codec, unit) in _set_types(codec)


def is_dropped(codec: str, unit: bytes) -> bool:
    """Whether a NAL unit only separates or fills, so that MP4 doesn't need it."""
    return unit_type(codec, unit) in (_H264_DROPPED if codec == "h264" else _H265_DROPPED)


@dataclass(frozen=True)
class Picture:
    """What the first SPS says.

    Attributes:
        codec_string: as RFC 6381 has it, such as ``avc1.64001F``.
        size_wh: of the shown pictures, in pixels.
        chroma: 0 grey, 1 4:2:0, 2 4:2:2, 3 4:4:4.
        bits: of a sample of luma.
        box: the content of ``avcC`` or ``hvcC``.
    """

    codec_string: str
    size_wh: tuple[int, int]
    chroma: int
    bits: int
    box: bytes

    @property
    def plays_everywhere(self) -> bool:
        """Whether browsers in general decode it: 8-bit 4:2:0."""
        return self.chroma == 1 and self.bits == 8


def picture_of(sets: ParameterSets) -> Picture:
    """Reads parameter sets that are complete.

    Raises:
        UnplayableError: if they are damaged.
    """
    try:
        return _h264_picture(sets) if sets.codec == "h264" else _h265_picture(sets)
    except (ValueError, IndexError) as error:
        raise UnplayableError(f"its parameter sets can't be read: {error}") from error


def _h264_picture(sets: ParameterSets) -> Picture:
    """Reads an SPS as in ITU-T H.264, 7.3.2.1.1."""
    sps = sets.sps[0]
    profile, flags, level = sps[1:4]
    bits = BitReader(sps[4:])
    bits.ue()
    chroma, depth, depth_of_chroma, is_separate = 1, 8, 8, False
    if profile in _H264_WITH_CHROMA:
        chroma = bits.ue()
        is_separate = chroma == 3 and bits.flag()
        depth, depth_of_chroma = 8 + bits.ue(), 8 + bits.ue()
        bits.flag()
        if bits.flag():
            for number in range(8 if chroma != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    bits.ue()
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.flag()
        bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue()
    bits.flag()
    width, height = 16 * (bits.ue() + 1), 16 * (bits.ue() + 1)
    is_progressive = bits.flag()
    if not is_progressive:
        height *= 2
        bits.flag()
    bits.flag()
    if bits.flag():
        across, down = _CHROMA_STEPS[0 if is_separate else chroma]
        down *= 1 if is_progressive else 2
        left, right, top, bottom = (bits.ue() for _ in range(4))
        width, height = width - across * (left + right), height - down * (top + bottom)
    box = bytearray((1, profile, flags, level, 0xFF, 0xE0 | len(sets.sps)))
    for unit in sets.sps:
        box += struct.pack(">H", len(unit)) + unit
    box.append(len(sets.pps))
    for unit in sets.pps:
        box += struct.pack(">H", len(unit)) + unit
    if profile in (100, 110, 122, 144):
        box += bytes((0xFC | chroma, 0xF8 | (depth - 8), 0xF8 | (depth_of_chroma - 8), 0))
    return Picture(f"avc1.{profile:02X}{flags:02X}{level:02X}", (width, height), chroma, depth, bytes(box))


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _h265_picture(sets: ParameterSets) -> Picture:
    """Reads an SPS as in ITU-T H.265, 7.3.2.2 and 7.3.3; the codec string is as in ISO/IEC 14496-15, E.3."""
    bits = BitReader(sets.sps[0][2:])
    bits.read(4)
    sub_layers = bits.read(3)
    is_nested = bits.read(1)
    space, tier, profile = bits.read(2), bits.read(1), bits.read(5)
    compatible, constraints, level = bits.read(32), bits.read(48), bits.read(8)
    present = [(bits.flag(), bits.flag()) for _ in range(sub_layers)]
    if sub_layers:
        bits.read(2 * (8 - sub_layers))
    for has_profile, has_level in present:
        bits.read(88 * has_profile + 8 * has_level)
    bits.ue()
    chroma = bits.ue()
    is_separate = chroma == 3 and bits.flag()
    width, height = bits.ue(), bits.ue()
    if bits.flag():
        across, down = _CHROMA_STEPS[0 if is_separate else chroma]
        left, right, top, bottom = (bits.ue() for _ in range(4))
        width, height = width - across * (left + right), height - down * (top + bottom)
    depth, depth_of_chroma = 8 + bits.ue(), 8 + bits.ue()
    reversed_flags = int(f"{compatible:032b}"[::-1], 2)
    constrained = "".join(f".{byte:X}" for byte in constraints.to_bytes(6, "big").rstrip(b"\x00"))
    name = f"hvc1.{('', 'A', 'B', 'C')[space]}{profile}.{reversed_flags:X}.{'LH'[tier]}{level}{constrained}"
    box = bytearray((1, space << 6 | tier << 5 | profile))
    box += compatible.to_bytes(4, "big") + constraints.to_bytes(6, "big")
    box += bytes((level, 0xF0, 0, 0xFC, 0xFC | chroma, 0xF8 | (depth - 8), 0xF8 | (depth_of_chroma - 8), 0, 0))
    box += bytes(((sub_layers + 1) << 3 | is_nested << 2 | 3, 3))
    for kind, units in ((H265_VPS, sets.vps), (H265_SPS, sets.sps), (H265_PPS, sets.pps)):
        box += struct.pack(">BH", 0x80 | kind, len(units))
        for unit in units:
            box += struct.pack(">H", len(unit)) + unit
    return Picture(name, (width, height), chroma, depth, bytes(box))


def _set_types(codec: str) -> tuple[int, int, int]:
    return (-1, H264_SPS, H264_PPS) if codec == "h264" else (H265_VPS, H265_SPS, H265_PPS)


def _avcc_units(box: bytes) -> Iterable[bytes]:
    """Yields the NAL units of an ``avcC`` (ISO/IEC 14496-15, 5.3.3.1)."""
    at = 5
    for mask in (0x1F, 0xFF):
        count, at = box[at] & mask if at < len(box) else 0, at + 1
        for _ in range(count):
            size = int.from_bytes(box[at : at + 2], "big")
            yield box[at + 2 : at + 2 + size]
            at += 2 + size


def _hvcc_units(box: bytes) -> Iterable[bytes]:
    """Yields the NAL units of an ``hvcC`` (ISO/IEC 14496-15, 8.3.3.1)."""
    at = 23
    for _ in range(box[22] if len(box) > 22 else 0):
        count, at = int.from_bytes(box[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            size = int.from_bytes(box[at : at + 2], "big")
            yield box[at + 2 : at + 2 + size]
            at += 2 + size


def length_bytes_of(codec: str, extradata: bytes) -> int | None:
    """Returns how many bytes the length before each NAL unit has; None where there are start codes."""
    if not is_length_prefixed(extradata):
        return None
    at = 4 if codec == "h264" else 21
    return (extradata[at] & 3) + 1 if at < len(extradata) else 4
