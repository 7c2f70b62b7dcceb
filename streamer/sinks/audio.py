"""The sound of a video file, copied as it is beside the pictures."""

from __future__ import annotations

import logging
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamer.sinks.files import reason

log = logging.getLogger(__name__)

_HAVE_EDIT_LISTS = ("mp4", "mov")
_SAME_PICTURE_S = Fraction(1, 1000)


class AudioCopy:
    """Copies the packets of a file's first audio stream, without decoding, in step with the pictures.

    Times are seconds of the output. Packets that begin before its first picture are left out, but for a codec's lead-in
    where the container can tell players to skip it; another one would show every picture later for its sake.
    """

    def __init__(
        self, opened: av.container.InputContainer, container: av.container.OutputContainer, start_s: float
    ) -> None:
        """Adds an audio stream to `container`. Use `open_audio`.

        Args:
            opened: the file to copy from, with an audio stream; taken over.
            container: where to copy to; its header isn't written yet.
            start_s: time of the output's first picture, counted from the first picture of `opened`.

        Raises:
            ValueError: if the container can't hold this kind of audio.
        """
        self._input = opened
        self._container = container
        self._from = opened.streams.audio[0]
        self._to = container.add_stream_from_template(self._from)
        self._zero_s = Fraction(start_s).limit_denominator(1_000_000)
        video = opened.streams.video[0] if opened.streams.video else None
        if video is not None and video.start_time is not None and video.time_base is not None:
            self._zero_s += video.start_time * video.time_base
        self._keeps_lead_in = start_s <= 0 and container.format.name in _HAVE_EDIT_LISTS
        self._last_picture_s = Fraction(-1)
        self._packets = self._read()
        self._next = next(self._packets, None)

    def copy_until(self, end_s: Fraction) -> None:
        """Copies the packets that begin before `end_s`.

        Raises:
            av.FFmpegError: if the container can't take one.
        """
        while self._next is not None and _time(self._next) < end_s:
            packet, self._next = self._next, next(self._packets, None)
            self._container.mux(packet)

    def copy_rest(self, last_picture_s: Fraction, end_s: Fraction) -> None:
        """Copies up to `end_s`, and to the sound's own end where the file has no picture after `last_picture_s`.

        Raises:
            av.FFmpegError: if the container can't take a packet.
        """
        self.copy_until(end_s)
        cut_s = last_picture_s + _SAME_PICTURE_S
        tail = []
        while self._next is not None and self._last_picture_s <= cut_s:
            tail.append(self._next)
            self._next = next(self._packets, None)
        if self._last_picture_s <= cut_s:
            self._container.mux(tail)

    def close(self) -> None:
        """Lets the file go."""
        self._next = None
        self._packets.close()
        self._input.close()

    def _read(self) -> Generator[av.Packet[Any], None, None]:
        """Yields audio packets with their times moved to the output's; notes the pictures that it passes by."""
        last_dts = None
        try:
            for packet in self._input.demux():
                if packet.pts is None or packet.time_base is None:
                    continue
                if packet.stream.type == "video":
                    self._last_picture_s = max(self._last_picture_s, _time(packet) - self._zero_s)
                if packet.stream is not self._from:
                    continue
                shift = round(self._zero_s / packet.time_base)
                packet.dts = (packet.pts if packet.dts is None else packet.dts) - shift
                packet.pts -= shift
                if (packet.pts >= 0 or self._keeps_lead_in) and (last_dts is None or packet.dts > last_dts):
                    last_dts = packet.dts
                    packet.stream = self._to
                    yield packet
        except av.FFmpegError as error:
            log.warning("the sound of %s breaks off: %s", self._input.name, reason(error))


def open_audio(path: Path, container: av.container.OutputContainer, start_s: float) -> AudioCopy | None:
    """Returns a copier of the audio of `path`, or None where it has none or (a warning says why) none can be copied.

    Args:
        path: the file to copy from.
        container: where to copy to; its header isn't written yet.
        start_s: time of the output's first picture, counted from the first picture of `path`.
    """
    if path.is_dir():  # of pictures
        return None
    try:
        opened = av.open(str(path.absolute()), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        log.warning("no sound: %s can't be opened a second time: %s", path, reason(error))
        return None
    codec = opened.streams.audio[0].codec_context if opened.streams.audio else None
    try:
        if codec is not None:
            return AudioCopy(opened, container, start_s)
        if opened.streams.audio:
            log.warning("no sound: the audio of %s is damaged, or in a codec this build of PyAV doesn't know", path)
    except ValueError:
        assert codec is not None
        log.warning("no sound: %s can't hold the %s audio of %s; write .mkv", container.format.name, codec.name, path)
    opened.close()
    return None


def _time(packet: av.Packet[Any]) -> Fraction:
    assert packet.pts is not None and packet.time_base is not None
    return packet.pts * packet.time_base
