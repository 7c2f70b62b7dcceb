"""Reads the orientation in a picture's EXIF data."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112  # Exif 3.0, table 4
_SHORT = 3
_SEGMENTS = range(0xE0, 0xF0)  # JPEG's APPn, of which EXIF is APP1
_MOST_TAGS = 1000

TURNED = range(5, 9)
"""Orientations that exchange width and height."""


def exif_orientation(content: bytes) -> int:
    """Returns 1 to 8 of a JPEG, PNG or WebP file, or of its start; 1, upright, where nothing is said."""
    try:
        block = _exif_block(content)
        return 1 if block is None else _orientation(block)
    except (struct.error, IndexError):  # data that is cut off, or has invalid offsets
        return 1


def _exif_block(content: bytes) -> bytes | None:
    if content.startswith(b"\xff\xd8"):
        return _in_jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _in_chunks(content, 8, b"eXIf", ">", kind_first=False)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _in_chunks(content, 12, b"EXIF", "<", kind_first=True)
    return None


def _in_jpeg(content: bytes) -> bytes | None:
    at = 2
    while content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (0xDA, 0xD9):  # the picture's data, or its end
            return None
        (length,) = struct.unpack_from(">H", content, at + 2)
        if marker in _SEGMENTS and content[at + 4 : at + 10] == b"Exif\0\0":
            return content[at + 10 : at + 2 + length]
        at += 2 + length
    return None


def _in_chunks(content: bytes, at: int, wanted: bytes, order: str, kind_first: bool) -> bytes | None:
    while at + 8 <= len(content):
        first, second = content[at : at + 4], content[at + 4 : at + 8]
        kind, size = (first, second) if kind_first else (second, first)
        (length,) = struct.unpack(order + "I", size)
        if kind == wanted:
            block = content[at + 8 : at + 8 + length]
            return block.removeprefix(b"Exif\0\0")
        at += 8 + length + (length % 2 if kind_first else 4)  # RIFF pads to even lengths, PNG has a checksum
    return None


def _orientation(block: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    (at,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, at)
    for number in range(min(count, _MOST_TAGS)):
        tag, kind = struct.unpack_from(order + "HH", block, at + 2 + 12 * number)
        if tag == _ORIENTATION and kind == _SHORT:
            (value,) = struct.unpack_from(order + "H", block, at + 10 + 12 * number)
            return value if 1 <= value <= 8 else 1
    return 1
