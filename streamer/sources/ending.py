"""Whether a video file that has come to its end ends too early, told from the file itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer

from streamer.av_input import open_input
from streamer.sources.diagnosis import bytes_missing

_LEAST_MISSING_S = 1.0
# Containers whose header states how long the longest of their streams is. FFmpeg measures or estimates it in others.
_STATES_LENGTH = ("avi", "flv", "asf", "matroska", "mov")


def missing_end(path: Path, pictures_end_s: float, *, is_damaged: bool) -> str | None:
    """Returns what a video file lacks at its end, in words, or None where nothing is known to be missing.

    A file is whole if the packets of any of its streams reach the length that its header states: sound may go on
    longer than pictures, and pictures may begin later.

    Args:
        path: the file; it may be gone by now.
        pictures_end_s: when its pictures end, in seconds from the first.
        is_damaged: whether packets couldn't be decoded.
    """
    missing = bytes_missing(path)
    if missing:
        return f"{missing} bytes of the file are missing"
    if missing == 0 and not is_damaged:
        return None
    try:
        with open_input(f"file:{path}") as container:
            stated_s = (container.duration or 0) / av.time_base
            if stated_s < pictures_end_s + _LEAST_MISSING_S or not container.format.name.startswith(_STATES_LENGTH):
                return None
            if any(stream.disposition & stream.disposition.attached_pic for stream in container.streams.video):
                return None
            container.seek(int(pictures_end_s * av.time_base))
            last_s = max(_packet_ends_s(container), default=None)
    except (av.FFmpegError, OSError, ValueError):
        return None
    if last_s is None or last_s + _LEAST_MISSING_S >= stated_s:
        return None
    return f"pictures stop at {pictures_end_s:.1f} s of {stated_s:.1f} s"


def _packet_ends_s(container: InputContainer) -> Iterator[float]:
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                yield float((packet.pts + (packet.duration or 0)) * packet.time_base)
