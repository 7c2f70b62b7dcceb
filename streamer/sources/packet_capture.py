"""The packets of a connection as they are read, with parameters that outlive it, on the timeline of its pictures."""

from __future__ import annotations

import io
import logging
import time
from collections import deque
from dataclasses import replace
from fractions import Fraction
from typing import Any

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.frames.pixels import Orientation
from streamer.sources.audio_clock import AudioClock
from streamer.sources.packet_clock import PacketClock
from streamer.sources.packet_tap import PacketFeed, moved

log = logging.getLogger(__name__)

_MAX_WAITING = 2000  # packets that wait for the first picture


def format_of(stream: VideoStream | AudioStream, pixel_aspect: Fraction = Fraction(1)) -> PacketFormat:
    """Returns what the packets of a stream of an open container are.

    NUT keeps the parameter sets in the form of the packets, with or without start codes, which MP4 and Matroska change.

    Raises:
        av.FFmpegError, ValueError: if FFmpeg can't write packets of this codec.
    """
    name, extradata = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
    if isinstance(stream, VideoStream):
        size_wh = stream.codec_context.width, stream.codec_context.height
        return PacketFormat("video", name, extradata, size_wh, pixel_aspect, template=_template(stream))
    rate, channels = stream.codec_context.sample_rate or 0, stream.codec_context.layout.nb_channels
    return PacketFormat("audio", name, extradata, rate=rate, channels=channels, template=_template(stream))


def _template(stream: VideoStream | AudioStream) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="nut") as container:
        to = container.add_stream_from_template(stream)
        packet: av.Packet[Any] = av.Packet(bytes(16))
        packet.time_base, packet.pts, packet.dts, packet.is_keyframe = Fraction(1, 1000), 0, 0, True
        packet.stream = to
        container.mux(packet)
    return content.getvalue()


class PacketCapture:
    """Takes one connection's packets as they are read, and feeds them on the timeline of its pictures.

    Attributes:
        feed: where they go.
    """

    def __init__(
        self, pictures: VideoStream, sound: AudioStream | None, pixel_aspect: Fraction, *, live: bool, has_stamps: bool
    ) -> None:
        """Takes the streams of an open container.

        Args:
            pictures: the video stream.
            sound: the audio stream, or None.
            pixel_aspect: width of a pixel over its height.
            live: whether sound is placed by its arrival where its stamps don't fit.
            has_stamps: whether the container has time stamps; packets of others are timed by their arrival.

        Raises:
            av.FFmpegError, ValueError: if packets of this codec can't be written to any file.
        """
        self._formats = {pictures.index: format_of(pictures, pixel_aspect)}
        self._picture_clock = PacketClock()
        self._clocks = {pictures.index: self._picture_clock}
        self._ticks_s = {
            stream.index: float(stream.time_base or 0) for stream in (pictures, sound) if stream is not None
        }
        self._has_stamps = has_stamps
        if sound is not None:
            try:
                self._formats[sound.index] = format_of(sound)
                self._clocks[sound.index] = PacketClock()
            except (av.FFmpegError, ValueError) as error:
                log.warning("no sound in recordings: %s", error)
        self.feed = PacketFeed(has_sound=len(self._formats) > 1)
        self._sound_clock = AudioClock(live=live)
        self._offset_s: float | None = None  # from a stamp to the connection's time
        self._waiting: deque[MediaPacket] = deque(maxlen=_MAX_WAITING)

    def add(self, packet: av.Packet[Any]) -> None:
        """Takes the next packet of either stream; those before the first picture are held back."""
        about = self._formats.get(packet.stream.index)
        if about is None or not packet.size or packet.is_corrupt:
            return
        arrived_s = time.perf_counter()
        tick_s = self._ticks_s[packet.stream.index]
        if self._has_stamps:
            pts_s = None if packet.pts is None else packet.pts * tick_s
            dts_s = None if packet.dts is None else packet.dts * tick_s
        else:
            pts_s = dts_s = arrived_s
        duration_s = (packet.duration or 0) * tick_s
        times = self._clocks[packet.stream.index].at(pts_s, dts_s, duration_s)
        is_key = bool(packet.is_keyframe) or about.kind == "audio"
        taken = MediaPacket(
            about, memoryview(packet), times.time_s, times.decode_time_s, duration_s, is_key, arrived_s
        )  # fmt: skip
        if self._offset_s is None:
            self._waiting.append(taken)
        else:
            self._feed(taken)

    def turn(self, orientation: Orientation) -> None:
        """Takes how pictures are turned for display, before the first one's time."""
        video = next(index for index, about in self._formats.items() if about.kind == "video")
        before = self._formats[video]
        self._formats[video] = about = replace(before, orientation=orientation)
        self._waiting = deque(
            (replace(each, format=about) if each.format is before else each for each in self._waiting), _MAX_WAITING
        )

    def add_picture(self, stamp_s: float | None, pts_s: float, arrived_s: float) -> None:
        """Takes the time of a decoded picture: its stamp, its time on the connection, and when it was read."""
        self._sound_clock.add_picture(stamp_s, pts_s, arrived_s)
        if self._offset_s is None:
            first_s = next((each.time_s for each in self._waiting if each.is_video), pts_s)
            self._offset_s = pts_s - (first_s if stamp_s is None or not self._has_stamps else stamp_s)
            for packet in self._waiting:
                self._feed(packet)
            self._waiting.clear()
        if stamp_s is not None and self._has_stamps:
            shown_s = stamp_s + self._picture_clock.shift_s + self._offset_s
            self.feed.note_lead(pts_s, pts_s - shown_s)

    def _feed(self, packet: MediaPacket) -> None:
        assert self._offset_s is not None
        by_s = self._offset_s
        if not packet.is_video and self._has_stamps:
            by_s = self._sound_clock.at(packet.time_s, packet.captured_at_s) - packet.time_s
        self.feed.push(moved(packet, by_s))
