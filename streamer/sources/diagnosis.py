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

from streamer.common.errors import counted
from streamer.common.file_content import TEXT, text_instead
from streamer.common.tls import Trust, tls_context
from streamer.sources.spec import WEB_SCHEMES

NEEDS_PASSWORD = (
    "requires a user and password, or others than these; write USER:${CAM_PASSWORD}@ before its host, and the password"
    " into that environment variable"
)
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
    if text := text_instead(head):
        return f"{text}, not a video; give a video file" if text == TEXT else text
    if boxes and not any(kind == b"moov" for kind, _ in boxes):
        return "is cut off: its index (the moov box) is missing; copy it again or let its recorder finish it"
    if boxes and boxes[-1][1] > size:
        lost = boxes[-1][1] - size
        return f"is cut off: {counted(lost, 'byte')} {'is' if lost == 1 else 'are'} missing at its end; copy it again"
    return None


def why_stream_unplayable(head: bytes) -> str | None:
    """Returns what is wrong with a video on standard input, as `why_unplayable`, by its start."""
    if not head:
        return "is empty: nothing was written to it; look at the command before the |"
    if text_instead(head):
        return "holds text, not a video; look at the command before the |"
    if _has_index_behind(head):
        return (
            "is an MP4 file with its index (the moov box) at the end, which can't be read from a pipe; give the file by"
            " its path, or write MPEG-TS or Matroska (ffmpeg -f mpegts -)"
        )
    return None


def _has_index_behind(head: bytes) -> bool:
    kinds = [kind for kind, _ in _boxes(io.BytesIO(head), len(head))]
    return b"mdat" in kinds and b"moov" not in kinds


def why_unplayable_at(url: str, timeout_s: float, trust: Trust = True) -> str | None:
    """Returns what is wrong with a web server's file, as `why_unplayable`; requests its start once more.

    None for other schemes than HTTP, and where a password would have to be sent.
    """
    start = _start_of(url, timeout_s, trust)
    if start is None:
        return None
    head, serves_ranges = start
    if b"<MPD" in head:
        return "is a DASH manifest, which PyAV can't read; give the address of an HLS playlist or a file"
    if _has_index_behind(head) and not serves_ranges:
        return (
            "is an MP4 file with its index (the moov box) at the end, and the server can't seek (it serves no byte"
            " ranges); write the file with the index first (ffmpeg -movflags +faststart), or copy it here"
        )
    return None


def why_file_broken_off(error: Exception, timeout_s: float, url: str, trust: Trust = True) -> str:
    """Returns why reading a web server's file broke off, as the end of "source 'x' ..."; asks the server once more."""
    start = _start_of(url, timeout_s, trust)
    if start is not None and not start[1]:
        return (
            f"broke off ({_reason(error)}), and its server can't continue it: it serves no byte ranges; run it again,"
            " or copy the file here"
        )
    return why_broken_off(error, timeout_s, advice="check the server and the network to it, and run it again")


def why_broken_off(
    error: Exception, timeout_s: float, sent: str = "nothing for", *, advice: str = "check its network and power"
) -> str:
    """Returns why a connection broke off, as the end of "source 'x' ..."; `sent` is what came in the time-out."""
    if isinstance(error, TimeoutError):
        return f"sent {sent} {timeout_s:.3g} s; {advice}"
    return f"broke off ({_reason(error)}); {advice}"


def _reason(error: Exception) -> str:
    return "nothing more came" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)


def _start_of(url: str, timeout_s: float, trust: Trust) -> tuple[bytes, bool] | None:
    """Returns the start of a web server's file, and whether the server serves byte ranges.

    None for other schemes than HTTP, where a password would have to be sent, and where the server doesn't answer.
    """
    parts = urlsplit(url)
    if parts.scheme not in WEB_SCHEMES or "@" in parts.netloc:
        return None
    request = urllib.request.Request(url, headers={"Range": "bytes=0-"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=tls_context(trust)) as response:
            return response.read(_WEB_HEAD_BYTES), response.status == 206
    except (OSError, ValueError, http.client.HTTPException):
        return None


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
    """Returns what is wrong with a picture file, or None if unknown; only empty files, text and PNG are checked.

    A PNG's chunks have a length and, those that a picture needs, a checksum (PNG specification, 5.3).
    """
    if not content:
        return "0 bytes"
    text = text_instead(content[:512])
    if text not in (None, TEXT):
        return text
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
