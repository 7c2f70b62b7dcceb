"""One opened video, file or stream: pictures in order, damage counted, every wait with a time-out."""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, cast

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
from av.packet import Packet
from av.video.stream import VideoStream

from streamer.common.errors import SourceError
from streamer.frames.packet_decoder import CorruptPacketError, DecodedPicture
from streamer.frames.pixels import UPRIGHT
from streamer.sources.arrival_clock import ArrivalClock
from streamer.sources.audio_decoder import AudioDecoder
from streamer.sources.blank_decoder import BlankDecoder
from streamer.sources.cpu_decoder import CpuDecoder
from streamer.sources.diagnosis import (
    why_broken_off,
    why_file_broken_off,
    why_unplayable_at,
)
from streamer.sources.gpu_decoder import GpuFirstDecoder
from streamer.sources.opening import PLAYLISTS, Body, ContainerOpener
from streamer.sources.options import SourceOptions
from streamer.sources.packet_capture import PacketCapture
from streamer.sources.spec import WEB_SCHEMES, SourceSpec
from streamer.sources.stale_packets import WAITED_S, StalePacketFilter
from streamer.sources.stream_choice import pick_audio, pick_video
from streamer.sources.truncation import Coverage, missing_at_end_s

log = logging.getLogger(__name__)

_NOMINAL_FPS = 25
_AVFMT_NOTIMESTAMPS = 0x0080
_MAX_ASPECT = 8
_MAX_BAD_IN_A_ROW = 100
_MIN_UNREAD_S = 0.5
_REFERENCE_TIME: Final = "prft"  # FFmpeg's, which RTSP has from RTCP


class VideoDecoder:
    """Opens a video and decodes it. Open, read and close on one thread at a time.

    Attributes:
        stream: PyAV's video stream: rates, time base.
        frame_count: number of pictures by the file's header, or None.
        duration_s: length in seconds by the container, or None.
        is_live: whether it is a live stream; a file on a web server, of known length or size, isn't.
        has_timestamps: False where the format has none and FFmpeg makes them up (MJPEG over HTTP, raw H.264).
        damaged: packets that couldn't be read or decoded, not counting a stream's before its first picture.
        dropped: packets of a stream left undecoded to catch up.
        waited: whether reading the last picture had to wait for data.
        audio: the sound of a stream, if it is wanted and there is any.
        utc_offset_s: what turns time stamps into seconds since 1970 by the camera's clock, as its latest RTCP report
            says; None where there was none.
        packets: what takes the packets, if they are wanted and can be written to a file.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions, body: Body | None = None) -> None:
        """Opens a file or a stream and finds its video; `body` is what it is read from in its place.

        Raises:
            SourceError: if it can't be opened or holds no video; the message says why.
        """
        self._shown, self._options = str(spec), options
        self._path, self._body = spec.path, body
        self._is_local = not spec.kind.is_live
        self._opener = ContainerOpener(spec, options, body)
        started = time.perf_counter()
        try:
            self._container = self._opener.open()
        except SourceError:  # from `body`
            self._close_body()
            raise
        except (av.FFmpegError, ValueError) as error:
            self._close_body()
            waited_s = time.perf_counter() - started
            # Without the cause, whose text has the password.
            problem = self._opener.why_closed(error, waited_s)
            raise SourceError(f"source {self._shown!r} {problem}{spec.delimiters_hint}") from None
        try:
            self.stream = pick_video(self._container, self._shown, self._path, options.max_pixels)
            hears = options.audio and self._path is None
            self._audio_stream = (
                pick_audio(self._container, self.stream, self._shown) if hears or options.kept_packets_s else None
            )
            self._packets = self._demux()
        except BaseException:
            self._container.close()
            self._close_body()
            raise
        self.frame_count = self.stream.frames or None
        self.duration_s = self._container.duration / 1e6 if self._container.duration else None
        self.is_live = not self._is_local and not (spec.scheme in WEB_SCHEMES and self._has_end())
        decoded = self._audio_stream if hears else None
        self.audio = None if decoded is None else AudioDecoder(decoded, live=self.is_live)
        self.has_timestamps = not self._container.format.flags & _AVFMT_NOTIMESTAMPS
        self._tick_s = float(self.stream.time_base or 0)
        self._decoder: BlankDecoder | CpuDecoder | GpuFirstDecoder
        if options.packets_only:
            self._decoder = BlankDecoder(self.stream, self._tick_s, options.max_pixels)
        elif options.gpu is None:
            self._decoder = CpuDecoder(self.stream, self._tick_s, options.max_pixels)
        else:
            self._decoder = GpuFirstDecoder(self.stream, self._tick_s, self._shown, options, live=self.is_live)
        self.packets = self._capture() if options.kept_packets_s else None
        self.utc_offset_s: float | None = None
        self.damaged = 0
        self.dropped = 0
        drops_stale = self.has_timestamps and options.drops_stale(live=self.is_live)
        self._stale_filter = StalePacketFilter() if drops_stale else None
        self._arrival_clock = ArrivalClock(float(1 / (self.stream.average_rate or _NOMINAL_FPS)))
        self.waited = False
        self._coverage = Coverage() if self._is_playlist and not self.is_live else None
        self._bad_in_a_row = 0
        self._last_packet_end_s = 0.0
        self._has_picture = False
        self._ready: deque[DecodedPicture] = deque()

    def read(self) -> DecodedPicture | None:
        """Returns the next picture, or None at the end.

        Raises:
            SourceError: if the video breaks off or can't be decoded.
        """
        started = time.perf_counter()
        self.waited = False
        while not self._ready:
            asked_s = time.perf_counter()
            packet = self._next_packet()
            self.waited |= time.perf_counter() - asked_s > WAITED_S
            if packet is None:
                return None
            if self._stale_filter is not None and self._is_stale(packet, self._stale_filter, asked_s):
                self.dropped += 1
                continue
            try:
                self._ready.extend(self._decoder.decode(packet))
            except CorruptPacketError as damage:
                self._note_damage(str(damage), bounded=not self.is_live)
            except SourceError as error:
                raise SourceError(f"source {self._shown!r} {error}") from error
            if self.is_live and not self._ready:
                self._check_timeout(time.perf_counter() - started)
        self._bad_in_a_row = 0
        orientation = self._decoder.orientation
        if not self._has_picture and self.packets is not None and orientation not in (None, UPRIGHT):
            self.packets.turn(orientation)
        self._has_picture = True
        picture = self._ready.popleft()
        self.damaged += picture.is_corrupt
        if self._coverage is not None:
            self._coverage.add(picture.stamp_s)
        return picture

    def missing_s(self) -> float:
        """Returns, at the end, how many seconds of a playlist weren't read: FFmpeg skips them silently.

        Raises:
            SourceError: if the playlist can't be read any more.
        """
        coverage = self._coverage
        if self._is_of_unknown_size and self.damaged:
            return self._unread_s if self._unread_s >= _MIN_UNREAD_S else 0.0
        if coverage is None or coverage.last_s is None or self.duration_s is None:
            return 0.0
        try:
            with self._opener.open() as container:
                at_end_s = missing_at_end_s(container, coverage.last_s, is_damaged=self.damaged > 0)
        except av.FFmpegError as error:
            raise SourceError(f"source {self._shown!r} {self._why_broken(error)}") from None
        return coverage.missing_s(self.duration_s - at_end_s) + at_end_s

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel over its height, once there is a picture; 1 where the video has no plausible value."""
        stated = self.stream.sample_aspect_ratio
        aspect = Fraction(stated) if stated else Fraction(1)
        if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
            return Fraction(1)
        return 1 / aspect if self._decoder.orientation is not None and self._decoder.orientation[0] else aspect

    def close(self) -> None:
        """Closes the file or connection. Safe to call twice."""
        self._ready.clear()
        self._decoder.close()
        self._container.close()
        self._close_body()

    def _close_body(self) -> None:
        if self._body is not None:
            self._body.close()

    def _has_end(self) -> bool:
        """Whether its length or size is known; a playlist's own size isn't that of what it lists."""
        return bool(self.duration_s) or ((self._container.size or 0) > 0 and not self._is_playlist)

    @property
    def _is_of_unknown_size(self) -> bool:
        """Whether it is a file whose server doesn't state its size: FFmpeg takes its end for a failed connection."""
        is_file = not (self._is_local or self.is_live or self._is_playlist)
        return is_file and (self._container.size or 0) <= 0

    @property
    def _unread_s(self) -> float:
        """The container's length after the last packet; negative for a part of a longer file."""
        return (self.duration_s or 0.0) + (self._container.start_time or 0) / 1e6 - self._last_packet_end_s

    @property
    def _is_playlist(self) -> bool:
        return self._container.format.name in PLAYLISTS

    def _is_stale(self, packet: Packet[VideoStream], backlog: StalePacketFilter, asked_s: float) -> bool:
        if not packet.size:  # the end
            return False
        stamp = packet.dts if packet.dts is not None else packet.pts
        now_s = time.perf_counter()
        waited_s = now_s - asked_s
        stamp_s = None
        if stamp is not None:  # corrected: a stray stamp would look like a late reader
            stamp_s = self._arrival_clock.at(stamp * self._tick_s, now_s, waited=waited_s > WAITED_S)
        return backlog.should_skip(stamp_s, packet.is_keyframe, now_s, waited_s)

    def _demux(self) -> Iterator[Packet[Any]]:
        return self._container.demux([stream for stream in (self.stream, self._audio_stream) if stream is not None])

    def _next_packet(self) -> Packet[VideoStream] | None:
        """Returns the next packet of pictures, None at the end; decodes the audio before it."""
        started_s = time.perf_counter()
        while True:
            if self._body is not None:
                self._body.extend(self._options.stall_timeout_s)
            try:
                packet = next(self._packets, None)
                if packet is not None and self.packets is not None:
                    self.packets.add(packet)
                if packet is not None and packet.stream.index != self.stream.index:
                    if self.audio is not None:
                        self.audio.add(packet)
                    if self.is_live:
                        self._check_timeout(time.perf_counter() - started_s)
                    continue
                if packet is not None and packet.pts is not None:
                    if packet.has_sidedata(_REFERENCE_TIME):
                        self.utc_offset_s = _utc_s(packet) - packet.pts * self._tick_s
                    self._last_packet_end_s = max(
                        self._last_packet_end_s, (packet.pts + (packet.duration or 0)) * self._tick_s
                    )
                return packet
            except av.FFmpegError as error:
                if error.errno == errno.EIO and self._is_of_unknown_size and abs(self._unread_s) < _MIN_UNREAD_S:
                    self._packets = iter(())
                    end = cast("Packet[VideoStream]", Packet())
                    end.stream = self.stream
                    return end
                if not self._is_local and not isinstance(error, av.InvalidDataError):
                    raise SourceError(f"source {self._shown!r} {self._why_broken(error)}") from None
                self._note_damage(str(error.strerror), bounded=True)
                self._packets = self._demux()

    def _why_broken(self, error: av.FFmpegError) -> str:
        url = str(self._opener.target)
        if not self._has_picture and (problem := why_unplayable_at(url, self._options.open_timeout_s)):
            return problem
        cause, timeout_s = TimeoutError() if isinstance(error, av.ExitError) else error, self._options.stall_timeout_s
        if self.is_live:
            return why_broken_off(cause, timeout_s)
        return why_file_broken_off(cause, timeout_s, url, self._options.tls_verify)

    def _note_damage(self, reason: str, *, bounded: bool) -> None:
        """Counts a bad packet; raises after too many in a row if `bounded`."""
        if self._has_picture or not self.is_live:  # packets before the first key frame aren't damaged
            self.damaged += 1
        self._bad_in_a_row += 1
        if bounded and self._bad_in_a_row >= _MAX_BAD_IN_A_ROW:
            raise SourceError(
                f"source {self._shown!r} is damaged: {self._bad_in_a_row} packets in a row gave no picture"
                f" ({reason}); record or copy it again"
            ) from None

    def _check_timeout(self, waited_s: float) -> None:
        if self._has_picture:
            timeout_s, fix = self._options.stall_timeout_s, "check its network"
        else:
            timeout_s, fix = self._options.key_frame_timeout_s, "have the camera send key frames more often"
        if waited_s > timeout_s:
            raise SourceError(f"source {self._shown!r} sent data for {timeout_s:g} s but no complete picture; {fix}")

    def _capture(self) -> PacketCapture | None:
        try:
            return PacketCapture(
                self.stream, self._audio_stream, self.pixel_aspect, live=self.is_live, has_stamps=self.has_timestamps
            )
        except (av.FFmpegError, ValueError) as error:
            log.warning("source %r: its packets can't be recorded: %s", self._shown, error)
            return None


def _utc_s(packet: Packet[Any]) -> float:
    """Returns a packet's reference time: AVProducerReferenceTime begins with microseconds since 1970, int64."""
    return int.from_bytes(bytes(packet.get_sidedata(_REFERENCE_TIME))[:8], sys.byteorder, signed=True) / 1e6
