"""Boxes of fragmented MP4 with one track of pictures (ISO/IEC 14496-12), for Media Source Extensions."""

from __future__ import annotations

import struct
from fractions import Fraction

TICKS_S = 90_000
"""Ticks of the track in a second."""

_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_KEY, _OTHER = 0x02000000, 0x01010000  # sample flags: depends on no other; depends on others, and isn't a sync sample
_TRUN = 0x000F01  # the offset of the data; of each sample: duration, size, flags, composition time
_HEAD = struct.Struct(">I4sI4sII" "I4s" "I4sII" "I4sIQ" "I4sIIiIIIi" "I4s")  # fmt: skip
_MOOF_BYTES = _HEAD.size - 8


def box(kind: str, *parts: bytes) -> bytes:
    """Returns a box."""
    size = 8 + sum(map(len, parts))
    return b"".join((struct.pack(">I4s", size, kind.encode()), *parts))


def full_box(kind: str, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    """Returns a box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def init_segment(entry: str, config: bytes, size_wh: tuple[int, int], pixel_aspect: Fraction) -> bytes:
    """Returns what a browser needs before the first fragment: ``ftyp`` and ``moov``.

    There is no ``mehd``, so that browsers take it as live and hold no frames back.

    Args:
        entry: the kind of the sample entry, ``avc1`` or ``hvc1``.
        config: the content of its ``avcC`` or ``hvcC``.
        size_wh: of the pictures, in pixels.
        pixel_aspect: width of a pixel over its height.
    """
    width, height = size_wh
    shown_w = round(width * pixel_aspect)
    sample_entry = box(
        entry,
        bytes(6),
        struct.pack(">H", 1),
        bytes(16),
        struct.pack(">HHIIIH", width, height, 0x480000, 0x480000, 0, 1),
        bytes(32),
        struct.pack(">Hh", 24, -1),
        box("avcC" if entry == "avc1" else "hvcC", config),
        box("pasp", struct.pack(">II", pixel_aspect.numerator, pixel_aspect.denominator)),
    )
    tables = (full_box(kind, bytes(4)) for kind in ("stts", "stsc", "stco"))
    samples = box(
        "stbl",
        full_box("stsd", struct.pack(">I", 1), sample_entry),
        *tables,
        full_box("stsz", bytes(8)),
    )
    media = box(
        "mdia",
        full_box("mdhd", struct.pack(">IIIIHH", 0, 0, TICKS_S, 0, 0x55C4, 0)),
        full_box("hdlr", bytes(4), b"vide", bytes(12), b"video\x00"),
        box(
            "minf",
            full_box("vmhd", bytes(8), flags=1),
            box("dinf", full_box("dref", struct.pack(">I", 1), full_box("url ", flags=1))),
            samples,
        ),
    )
    track_head = full_box(
        "tkhd",
        struct.pack(">IIIII", 0, 0, 1, 0, 0),
        bytes(16),
        _MATRIX,
        struct.pack(">II", shown_w << 16, height << 16),
        flags=3,
    )
    movie_head = full_box(
        "mvhd", struct.pack(">IIIIIHH", 0, 0, TICKS_S, 0, 0x10000, 0x100, 0), bytes(8), _MATRIX, bytes(24),
        struct.pack(">I", 2),
    )  # fmt: skip
    defaults = box("mvex", full_box("trex", struct.pack(">IIIII", 1, 1, 0, 0, 0)))
    brands = box("ftyp", b"iso5", struct.pack(">I", 1), b"iso5iso6mp41")
    return brands + box("moov", movie_head, box("trak", track_head, media), defaults)


def fragment_head(
    number: int, decode_ticks: int, duration_ticks: int, composition_ticks: int, size: int, *, is_key: bool
) -> bytes:
    """Returns what goes before one picture's data: ``moof`` and the head of ``mdat``.

    Args:
        number: of the fragment, from 1 on.
        decode_ticks: when it is decoded, in ticks from the beginning.
        duration_ticks: how long it lasts.
        composition_ticks: from its decoding to its showing.
        size: of its data in bytes.
        is_key: whether decoding can begin with it.
    """
    return _HEAD.pack(
        _MOOF_BYTES, b"moof",
        16, b"mfhd", 0, number & 0xFFFFFFFF,
        _MOOF_BYTES - 24, b"traf",
        16, b"tfhd", 0x020000, 1,
        20, b"tfdt", 1 << 24, decode_ticks,
        36, b"trun", 1 << 24 | _TRUN, 1, _HEAD.size, duration_ticks, size, _KEY if is_key else _OTHER,
        composition_ticks,
        8 + size, b"mdat",
    )  # fmt: skip
