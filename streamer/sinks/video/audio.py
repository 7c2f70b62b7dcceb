"""The audio of a video file, read beside the pictures and put on the same timeline."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from streamer.sinks.files import reason
from streamer.sources.av_input import RAW_CLOCK, open_input
from streamer.sources.base import SourceInfo
from streamer.sources.presentation_clock import PresentationClock

log = logging.getLogger(__name__)

_USUAL_FPS = 25.0
_SAME_OFFSET_S = Fraction(1, 1000)
_BACK_S, _AHEAD_S = Fraction(1, 10), Fraction(1)  # time stamps further from the end of the packet before are a jump
_LOOK_AHEAD_S, _MAX_AHEAD = 3, 2000
_MAX_APART_S = 10
_RECENT_PACKETS = 8


class TimedPacket(NamedTuple):
    """A packet of audio and its start in seconds on the source's timeline, as `Frame.pts_s`."""

    packet: av.Packet[Any]
    time_s: Fraction


class AudioReader:
    """Reads the audio packets of a file once, for all files that are recorded from it one after the other.

    Where the time stamps of the pictures start over (TS files joined end to end), those of the audio do too, and both
    continue together.

    Attributes:
        name: the file.
        stream: the audio stream.
        recent: the packets read last, oldest first.
    """

    def __init__(
        self,
        opened: av.container.InputContainer,
        video: av.VideoStream | None,
        audio: av.AudioStream,
        first_stamp_s: float | None,
    ) -> None:
        """Takes over an opened file; use `open_audio`.

        `video` is the stream that is shown, if any, `first_stamp_s` the time stamp of the first frame, None if unknown.
        """
        self._input = opened
        self.name = opened.name
        self.stream = audio
        self._packets = opened.demux([stream for stream in (video, audio) if stream is not None])
        self._pictures = _PictureTimes(video, first_stamp_s)
        self._offset_s = self._pictures.offsets_s[0]
        self._read: deque[av.Packet[Any]] = deque()
        self._placed: deque[TimedPacket] = deque()
        self._end_s: Fraction | None = None
        self.recent: deque[TimedPacket] = deque(maxlen=_RECENT_PACKETS)
        self._advance()

    @property
    def codec(self) -> str:
        """FFmpeg's name of its codec."""
        return self.stream.codec_context.name

    @property
    def next(self) -> TimedPacket | None:
        """The packet that `take` returns next; None at the end."""
        return self._placed[0] if self._placed else None

    @property
    def last_picture_s(self) -> Fraction:
        """Time of the latest picture read so far."""
        return self._pictures.last_s

    def peek(self, count: int) -> list[TimedPacket]:
        """Returns up to `count` of the next packets without taking them."""
        while len(self._placed) < count and self._advance():
            pass
        return list(itertools.islice(self._placed, count))

    def take(self) -> TimedPacket:
        """Returns `next`, which must not be None, and advances."""
        taken = self._placed.popleft()
        self.recent.append(taken)
        if not self._placed:
            self._advance()
        return taken

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        self._placed.clear()
        self._read.clear()
        self._packets = iter(())
        self._input.close()

    def _advance(self) -> bool:
        """Reads the next audio packet and computes its time; returns False at the end."""
        while not self._read:
            if not self._read_one():
                return False
        packet = self._read.popleft()
        stamp_s = _time(packet)
        if self._end_s is not None and not -_BACK_S <= stamp_s + self._offset_s - self._end_s <= _AHEAD_S:
            self._find_offset(stamp_s, self._end_s)
        time_s = stamp_s + self._offset_s
        self._end_s = time_s + (packet.duration or 0) * _base(packet)
        self._placed.append(TimedPacket(packet, time_s))
        return True

    def _find_offset(self, stamp_s: Fraction, expected_s: Fraction) -> None:
        """Finds the time offset of the pictures that the audio follows after its time stamps have jumped."""
        while self.last_picture_s < expected_s + _LOOK_AHEAD_S and len(self._read) < _MAX_AHEAD and self._read_one():
            pass
        known = [self._offset_s, *self._pictures.offsets_s]
        self._offset_s = min(known, key=lambda offset_s: abs(stamp_s + offset_s - expected_s))
        if not expected_s - _AHEAD_S <= stamp_s + self._offset_s <= self.last_picture_s + _MAX_APART_S:
            self._offset_s = expected_s - stamp_s  # no picture has such an offset

    def _read_one(self) -> bool:
        """Reads a packet of either stream; returns False at the end."""
        try:
            packet = next(self._packets, None)
        except av.FFmpegError as error:
            log.warning("the sound of %s breaks off: %s", self.name, reason(error))
            packet = None
        if packet is None:
            self._packets = iter(())
            self._pictures.finish()
            return False
        if packet.time_base is None or packet.pts is None:
            return True
        if packet.stream.index == self.stream.index:
            self._read.append(packet)
        else:
            self._pictures.add(packet)
        return True


class _PictureTimes:
    """Maps the time stamps of a file's pictures to the timeline of its frames, as the source that decodes them does.

    Attributes:
        offsets_s: the latest offsets from time stamp to timeline, newest last.
        last_s: time of the latest picture.
    """

    def __init__(self, stream: av.VideoStream | None, first_stamp_s: float | None) -> None:
        """Takes the stream and the time stamp of the first frame, where known."""
        begins = Fraction(0)
        if first_stamp_s is not None:
            begins = exact(first_stamp_s)
        elif stream is not None and stream.start_time is not None and stream.time_base is not None:
            begins = Fraction(stream.start_time) * Fraction(stream.time_base)
        rate = stream.average_rate if stream is not None else None
        self._clock = PresentationClock(1 / float(rate or _USUAL_FPS))
        self._clock.at(float(begins))
        self._begins, self._has_begun = begins, False
        self._waiting: list[Fraction] = []
        self._last_dts_s: Fraction | None = None
        self.offsets_s: deque[Fraction] = deque([-begins], maxlen=4)
        self.last_s = Fraction(-1)

    def add(self, packet: av.Packet[Any]) -> None:
        """Takes a packet with a time stamp, in decoding order."""
        stamp_s = _time(packet)
        dts_s = stamp_s if packet.dts is None else packet.dts * _base(packet)
        if self._last_dts_s is not None and dts_s < self._last_dts_s:
            self._place(self._waiting, went_back=True)
        self._last_dts_s = dts_s
        self._place([stamp for stamp in self._waiting if stamp < dts_s])
        self._waiting.append(stamp_s)

    def finish(self) -> None:
        """Marks the end of the packets."""
        self._place(self._waiting)

    def _place(self, stamps_s: list[Fraction], *, went_back: bool = False) -> None:
        """Maps pictures; one whose time stamp leaps ahead before they go back has none, as in `VideoSource`."""
        self._waiting = [stamp for stamp in self._waiting if stamp not in stamps_s]
        for stamp_s in sorted(stamps_s):
            self._has_begun = self._has_begun or stamp_s >= self._begins
            if not self._has_begun:  # not decodable: no frame
                continue
            is_damaged = went_back and self._clock.leaps(float(stamp_s))
            time_s = exact(self._clock.at(None if is_damaged else float(stamp_s)))
            self.last_s = max(self.last_s, time_s)
            if not is_damaged and abs(time_s - stamp_s - self.offsets_s[-1]) > _SAME_OFFSET_S:
                self.offsets_s.append(time_s - stamp_s)


def open_audio(source: SourceInfo) -> AudioReader | None:
    """Returns the audio of a source, None if it has none or (with a warning) it can't be read.

    Of several tracks it is the one that FFmpeg's players choose, and of several programmes that of the pictures.
    """
    path = source.path
    if path is None or path.is_dir():  # of pictures
        return None
    try:
        opened = open_input(str(path.absolute()), options=RAW_CLOCK)
    except (av.FFmpegError, OSError) as error:
        log.warning("no sound: %s can't be opened a second time: %s", path, reason(error))
        return None
    if (found := _pick(opened, path)) is None:
        opened.close()
        return None
    return AudioReader(opened, *found, source.first_stamp_s)


def _pick(opened: av.container.InputContainer, path: Path) -> tuple[av.VideoStream | None, av.AudioStream] | None:
    """Returns the video stream that is shown and its audio, None if it has no audio."""
    video = opened.streams.best("video")
    audio = opened.streams.best("audio", related=video)
    if audio is None:
        return None
    if video is not None and opened.streams.best("video", related=audio) is not video:
        return None  # FFmpeg offers the audio of another programme
    if audio.codec_context is None:
        log.warning("no sound: the audio of %s is damaged, or in a codec this build of PyAV doesn't know", path)
        return None
    assert isinstance(audio, av.AudioStream)
    return video if isinstance(video, av.VideoStream) else None, audio


def exact(time_s: float | Fraction) -> Fraction:
    """Returns a time rounded so that the end of one file equals the start of the next."""
    return Fraction(time_s).limit_denominator(1_000_000)


def _base(packet: av.Packet[Any]) -> Fraction:
    assert packet.time_base is not None
    return Fraction(packet.time_base)


def _time(packet: av.Packet[Any]) -> Fraction:
    assert packet.pts is not None
    return packet.pts * _base(packet)
