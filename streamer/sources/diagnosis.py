"""Finds out why a video can't be opened, or a picture can't be read, from the file itself.

FFmpeg says "Invalid data found when processing input" for most of these causes.
"""

from __future__ import annotations

import http.client
import io
import os
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from streamer.common.tls import Trust, tls_context
from streamer.sources.spec import WEB_SCHEMES

_TEXT_BYTES = bytes(range(0x20, 0x7F)) + b"\t\n\r\f"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
_WEB_HEAD_BYTES = 4096


def why_unplayable(path: Path) -> str | None:
    """Returns what is wrong with a video file, as the end of "source 'x' ...", or None if unknown."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
            size = file.seek(0, os.SEEK_END)
            boxes = list(_boxes(file, size))
    except PermissionError:
        return "can't be read: permission denied; give yourself read access to it"
    except OSError as error:
        return f"can't be read: {error.strerror}; check the disk"
    if not head:
        return "is empty (0 bytes); copy or record it again"
    if not head.strip(b"\0"):
        return "holds only zeros at its start; copy it again"
    if not head.translate(None, _TEXT_BYTES):
        return "holds text, not a video; give a video file"
    if boxes and not any(kind == b"moov" for kind, _ in boxes):
        return "is cut off: its index (the moov box) is missing; copy it again or let its recorder finish it"
    if boxes and boxes[-1][1] > size:
        return f"is cut off: {boxes[-1][1] - size} bytes are missing at its end; copy it again"
    return None


def why_unplayable_at(url: str, timeout_s: float, trust: Trust = True) -> str | None:
    """Returns what is wrong with a web server's file, as `why_unplayable`; requests its start once more.

    None for other schemes than HTTP, and where a password would have to be sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in WEB_SCHEMES or "@" in parts.netloc:
        return None
    request = urllib.request.Request(url, headers={"Range": "bytes=0-"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=tls_context(trust)) as response:
            head, serves_ranges = response.read(_WEB_HEAD_BYTES), response.status == 206
    except (OSError, ValueError, http.client.HTTPException):
        return None
    if b"<MPD" in head:
        return "is a DASH manifest, which PyAV can't read; give the address of an HLS playlist or a file"
    kinds = [kind for kind, _ in _boxes(io.BytesIO(head), len(head))]
    if b"mdat" in kinds and b"moov" not in kinds and not serves_ranges:
        return (
            "is an MP4 file with its index (the moov box) at the end, and the server can't seek (it serves no byte"
            " ranges); write the file with the index first (ffmpeg -movflags +faststart), or copy it here"
        )
    return None


def why_broken_off(error: Exception, timeout_s: float, sent: str = "nothing for") -> str:
    """Returns why a connection broke off, as the end of "source 'x' ..."; `sent` is what came in the time-out."""
    if isinstance(error, TimeoutError):
        return f"sent {sent} {timeout_s:.3g} s; check its network and power"
    return f"broke off ({getattr(error, 'strerror', None) or error}); check its network and power"


def bytes_missing(path: Path) -> int | None:
    """Returns how many bytes an MP4 or MOV file lacks by its own headers, 0 for a whole one.

    None for other formats, and where the file is gone by now.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends = [end for _, end in _boxes(file, size)]
            return max(0, ends[-1] - size) if ends else None
    except OSError:
        return None


def why_unreadable(content: bytes) -> str | None:
    """Returns what is wrong with a picture file, or None if unknown; only empty and PNG files are checked.

    A PNG's chunks have a length and, those that a picture needs, a checksum (PNG specification, 5.3).
    """
    if not content:
        return "0 bytes"
    if not content.startswith(_PNG_SIGNATURE):
        return None
    start, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        if end > len(content):
            return f"cut off, or damaged at byte {start}"
        is_needed = kind[:1].isupper()
        if is_needed and zlib.crc32(content[start + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            return f"damaged between bytes {start} and {end}"
        start = end
    return None


def _boxes(file: BinaryIO, file_size: int) -> Iterator[tuple[bytes, int]]:
    """Yields kind and end offset of an MP4's outermost boxes (ISO/IEC 14496-12, 4.2); nothing for another format."""
    start = 0
    while start < file_size:
        file.seek(start)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if start == 0 and kind not in _MP4_FIRST_BOXES:
            return
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:  # to the end of the file
            size = file_size - start
        if size < 8:
            return
        start += size
        yield kind, start
