"""The sound of a video file, copied as it is beside the pictures."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamer.av_input import open_input
from streamer.sinks.files import reason

log = logging.getLogger(__name__)

_HAVE_EDIT_LISTS = ("mp4", "mov")
_SAME_PICTURE_S = Fraction(1, 1000)


class Sound:
    """The packets of a file's first audio stream, taken one after the other by the files that are written of it.

    Attributes:
        name: the file.
        stream: where the packets come from.
        zero_s: time of the file's first picture on the axis of the packets.
        last_picture_s: time of the latest picture passed by so far, on the same axis.
        next: the packet to be taken next; None at the end.
    """

    def __init__(self, opened: av.container.InputContainer) -> None:
        """Takes over `opened`, which has an audio stream. Use `open_sound`."""
        self._input = opened
        self.name = opened.name
        self._packets = opened.demux()
        self.stream = opened.streams.audio[0]
        self.zero_s = Fraction(0)
        video = opened.streams.video[0] if opened.streams.video else None
        if video is not None and video.start_time is not None and video.time_base is not None:
            self.zero_s = video.start_time * video.time_base
        self.last_picture_s = self.zero_s - 1
        self.next: av.Packet[Any] | None = None
        self.take()

    def take(self) -> av.Packet[Any] | None:
        """Returns `next` and reads on to the packet after it."""
        taken, self.next = self.next, None
        try:
            for packet in self._packets:
                if packet.pts is None or packet.time_base is None:
                    continue
                if packet.stream.type == "video":
                    self.last_picture_s = max(self.last_picture_s, _time(packet))
                if packet.stream is self.stream:
                    self.next = packet
                    break
        except av.FFmpegError as error:
            log.warning("the sound of %s breaks off: %s", self.name, reason(error))
        return taken

    def close(self) -> None:
        """Lets the file go. Safe to call twice."""
        self.next = None
        self._packets = iter(())
        self._input.close()


class SoundCopy:
    """Copies sound into one container, without decoding, in step with the pictures.

    Times are seconds of the output. Packets that begin before its first picture are left out, but for a codec's lead-in
    where the container can tell players to skip it; another one would show every picture later for its sake.
    """

    def __init__(self, sound: Sound, container: av.container.OutputContainer, start_s: float) -> None:
        """Adds an audio stream to `container`.

        Args:
            sound: where to copy from; what is taken here, another copy doesn't get.
            container: where to copy to; its header isn't written yet.
            start_s: time of the output's first picture, counted from the first picture of the file with the sound.

        Raises:
            ValueError: if the container can't hold this kind of audio.
        """
        self._sound = sound
        self._container = container
        self._to = container.add_stream_from_template(sound.stream)
        self._zero_s = sound.zero_s + exact(start_s)
        self._keeps_lead_in = start_s <= 0 and container.format.name in _HAVE_EDIT_LISTS
        self._last_dts: int | None = None

    def copy_until(self, end_s: Fraction) -> None:
        """Copies the packets that begin before `end_s`.

        Raises:
            av.FFmpegError: if the container can't take one.
        """
        while self._sound.next is not None and _time(self._sound.next) - self._zero_s < end_s:
            self._mux(self._sound.take())

    def copy_rest(self, last_picture_s: Fraction, end_s: Fraction) -> None:
        """Copies up to `end_s`, and to the sound's own end where the file has no picture after `last_picture_s`.

        Raises:
            av.FFmpegError: if the container can't take a packet.
        """
        self.copy_until(end_s)
        cut_s = self._zero_s + last_picture_s + _SAME_PICTURE_S
        tail = []
        while self._sound.next is not None and self._sound.last_picture_s <= cut_s:
            tail.append(self._sound.take())
        if self._sound.last_picture_s <= cut_s:
            for packet in tail:
                self._mux(packet)

    def _mux(self, packet: av.Packet[Any] | None) -> None:
        """Writes a packet with its times moved to the output's, unless it begins too early."""
        assert packet is not None and packet.pts is not None and packet.time_base is not None
        shift = round(self._zero_s / packet.time_base)
        packet.dts = (packet.pts if packet.dts is None else packet.dts) - shift
        packet.pts -= shift
        if (packet.pts >= 0 or self._keeps_lead_in) and (self._last_dts is None or packet.dts > self._last_dts):
            self._last_dts = packet.dts
            packet.stream = self._to
            self._container.mux(packet)


def open_sound(path: Path | None) -> Sound | None:
    """Returns the sound of a file, or None where there is none or (a warning says why) it can't be read."""
    if path is None or path.is_dir():  # of pictures
        return None
    try:
        opened = open_input(str(path.absolute()))
    except (av.FFmpegError, OSError) as error:
        log.warning("no sound: %s can't be opened a second time: %s", path, reason(error))
        return None
    if opened.streams.audio:
        if opened.streams.audio[0].codec_context is not None:
            return Sound(opened)
        log.warning("no sound: the audio of %s is damaged, or in a codec this build of PyAV doesn't know", path)
    opened.close()
    return None


def exact(time_s: float) -> Fraction:
    """Returns a time so that the end of one file and the beginning of the next are the same number."""
    return Fraction(time_s).limit_denominator(1_000_000)


def _time(packet: av.Packet[Any]) -> Fraction:
    assert packet.pts is not None and packet.time_base is not None
    return packet.pts * packet.time_base
