"""Finds out whether a video that has ended lacks its end, or a part."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
from av.container import InputContainer

from streamer.common.errors import counted
from streamer.sources.av_input import open_input
from streamer.sources.diagnosis import bytes_missing

_LEAST_MISSING_S, _LEAST_LISTED_S, _BEFORE_END_S = 1.0, 0.5, 0.05
_INTERVALS, _GAP_INTERVALS, _REGULAR_SHARE = 49, 4.5, 0.9
# Containers whose header has the length of their longest stream. FFmpeg measures or estimates it in others.
_STATES_LENGTH = ("avi", "flv", "asf", "matroska", "mov")


def missing_end(path: Path, pictures_end_s: float, *, is_damaged: bool) -> str | None:
    """Returns what a video file lacks at its end, in words, or None if nothing is known to be missing.

    A file, which may be deleted by now, is whole if the packets of any of its streams reach the length in its header:
    sound may be longer than pictures, and pictures may start late. `pictures_end_s` counts from the first picture;
    `is_damaged` is whether packets couldn't be decoded.
    """
    missing = bytes_missing(path)
    if missing:
        return f"{counted(missing, 'byte')} of the file {'is' if missing == 1 else 'are'} missing"
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


def missing_at_end_s(container: InputContainer, last_stamp_s: float, *, is_damaged: bool) -> float:
    """Returns how many seconds at the end of a playlist, opened again, weren't read.

    Its length alone is no proof: sound may be longer than pictures, and old playlists round up each segment's length.
    `last_stamp_s` is of the last picture that was read; `is_damaged` as in `missing_end`.

    Raises:
        av.FFmpegError: if it can't be read.
    """
    began_s, length_s = (container.start_time or 0) / av.time_base, (container.duration or 0) / av.time_base
    missing_s = length_s - (last_stamp_s - began_s)
    if missing_s < _LEAST_LISTED_S:
        return 0.0
    container.seek(int((began_s + length_s - _BEFORE_END_S) * av.time_base))  # to the last segment
    is_there = False
    for packet in container.demux():
        if packet.pts is None or packet.time_base is None:
            continue
        is_there = True
        if packet.stream.type == "video" and packet.pts * packet.time_base > last_stamp_s:
            return missing_s
    return missing_s if is_damaged or not is_there else 0.0


class Coverage:
    """Measures how much of a playlist's length its pictures cover.

    FFmpeg silently skips segments that it can't read. A gap between pictures at regular intervals shows that, if the
    playlist is longer than what was covered by as much; if not, the sender's clock leapt between two segments.

    Attributes:
        last_s: the last picture's time stamp.
    """

    def __init__(self) -> None:
        self.last_s: float | None = None
        self._intervals_s: list[float] = []
        self._regular = self._count = 0
        self._covered_s = self._gaps_s = 0.0

    def add(self, stamp_s: float | None) -> None:
        """Adds a picture's time stamp, in order of presentation."""
        last_s, self.last_s = self.last_s, stamp_s
        if last_s is None or stamp_s is None:
            return
        step_s = stamp_s - last_s
        if len(self._intervals_s) < _INTERVALS:
            self._intervals_s.append(step_s)
        interval_s = statistics.median(self._intervals_s)
        is_gap = step_s > _GAP_INTERVALS * interval_s
        self._count += 1
        self._regular += 0.5 * interval_s < step_s < 1.5 * interval_s
        self._gaps_s += step_s - interval_s if is_gap else 0.0
        self._covered_s += interval_s if is_gap or step_s < 0 else step_s

    def missing_s(self, length_s: float) -> float:
        """Returns the seconds missing between the pictures of a video of this length."""
        is_regular = self._regular >= _REGULAR_SHARE * self._count
        is_shorter = length_s - self._covered_s > self._gaps_s / 2
        return self._gaps_s if is_regular and is_shorter else 0.0
