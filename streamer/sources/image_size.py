"""Reads a picture's size from its header, without decoding it."""

from __future__ import annotations

import re
import struct

_JPEG_SOI = b"\xff\xd8\xff"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the frame headers, SOFn (ITU-T T.81, table B.1)
_JPEG_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_TIFF_FORMATS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_ISPE = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)  # ISO/IEC 23008-12, 6.5.3
_ISO_HEAD_BYTES = 1 << 20


def image_size(content: bytes) -> tuple[int, int] | None:
    """Returns width and height by a picture's header, None where it isn't one of these formats.

    Args:
        content: a JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIF file, or its start.
    """
    try:
        size_wh = _size_of(content)
    except (struct.error, IndexError, OverflowError):  # a header that is cut off, or has invalid offsets
        return None
    return size_wh if size_wh is not None and min(size_wh) > 0 else None


def _size_of(content: bytes) -> tuple[int, int] | None:
    if content.startswith(_JPEG_SOI):
        return _jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", content, 16)
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return struct.unpack_from("<HH", content, 6)
    if content.startswith(b"BM"):
        return _bmp(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(content)
    if content[4:8] == b"ftyp":
        return _iso(content)
    return None


def _jpeg(content: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        while content[at] == 0xFF and content[at + 1] == 0xFF:  # fill bytes
            at += 1
        if content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        at += 2 if marker in _JPEG_ALONE else 2 + struct.unpack_from(">H", content, at + 2)[0]


def _bmp(content: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", content, 14)[0] == 12:  # OS/2's header
        return struct.unpack_from("<HH", content, 18)
    width, height = struct.unpack_from("<ii", content, 18)
    return width, abs(height)  # a negative height lists the rows from the top


def _webp(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X":
        numbers = struct.unpack_from("<HBHB", content, 24)
        return 1 + numbers[0] + (numbers[1] << 16), 1 + numbers[2] + (numbers[3] << 16)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _tiff(content: bytes) -> tuple[int, int] | None:
    order = "<" if content[:2] == b"II" else ">"
    is_big = 43 in content[2:4]
    (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, at)
    at, entry_bytes, value_at = (at + 8, 20, 12) if is_big else (at + 2, 12, 8)
    found: dict[int, int] = {}
    for _ in range(min(count, 1 << 16)):
        tag, kind = struct.unpack_from(order + "HH", content, at)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_FORMATS:
            found[tag] = struct.unpack_from(order + _TIFF_FORMATS[kind], content, at + value_at)[0]
        at += entry_bytes
    if len(found) < 2:
        return None
    return found[_TIFF_WIDTH], found[_TIFF_HEIGHT]


def _iso(content: bytes) -> tuple[int, int] | None:
    sizes = [struct.unpack(">II", match[1]) for match in _ISPE.finditer(content, 0, _ISO_HEAD_BYTES)]
    return max(sizes, key=lambda size_wh: size_wh[0] * size_wh[1], default=None)
