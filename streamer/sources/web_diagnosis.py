"""Why a file on a web server can't be read, told from its beginning and what the server says of it."""

from __future__ import annotations

import http.client
import urllib.request
from urllib.parse import urlsplit

from streamer.common.tls import Trust, tls_context

_HEAD_BYTES = 4096


def why_unreadable_there(url: str, timeout_s: float, trust: Trust = True) -> str | None:
    """Returns what is wrong with a web server's file that FFmpeg refuses, as the end of "source 'x' ...".

    It is asked for once more. None where nothing is known: also where a user and password would have to be sent.

    Args:
        url: where it is; anything but HTTP gives None.
        timeout_s: how long the server may take.
        trust: whose certificates are.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" in parts.netloc:
        return None
    request = urllib.request.Request(url, headers={"Range": "bytes=0-"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=tls_context(trust)) as answer:
            head, serves_ranges = answer.read(_HEAD_BYTES), answer.status == 206
    except (OSError, ValueError, http.client.HTTPException):
        return None
    if b"<MPD" in head:
        return "is a DASH manifest, which PyAV can't read; give the address of an HLS playlist or a file"
    kinds = _first_boxes(head)
    if "mdat" in kinds and "moov" not in kinds and not serves_ranges:
        return (
            "is an MP4 file with its index (the moov box) at the end, and the server can't seek (it serves no byte"
            " ranges); write the file with the index first (ffmpeg -movflags +faststart), or copy it here"
        )
    return None


def _first_boxes(head: bytes) -> list[str]:
    """Returns the kinds of an MP4's outermost boxes (ISO/IEC 14496-12, 4.2) that begin in its first bytes."""
    kinds: list[str] = []
    start = 0
    while start + 8 <= len(head) and (kinds or head[4:8] in (b"ftyp", b"mdat", b"free", b"wide", b"skip")):
        kinds.append(head[start + 4 : start + 8].decode("latin-1"))
        size = int.from_bytes(head[start : start + 4], "big")
        if size < 8:  # it goes to the end, or its size is beyond 4 GiB
            break
        start += size
    return kinds
