"""One video file while it is written, through PyAV."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.files import reason
from streamer.sinks.options import DEFAULT_ENCODING, Encoding
from streamer.sinks.video.audio import AudioReader, exact
from streamer.sinks.video.audio_placement import MAX_TICKS
from streamer.sinks.video.audio_track import AudioTrack
from streamer.sinks.video.encoder import VideoEncoder
from streamer.sinks.video.live_audio_track import LiveAudioReader, LiveAudioTrack
from streamer.sinks.video.muxed_file import AUDIO_ERRORS, MUXERS, MuxedFile

log = logging.getLogger(__name__)

_MIN_TICKS_PER_S, _MAX_TICKS_PER_S = 10_000, 60_000  # MPEG-4 part 2 takes no more than 65,535
_DEFAULT_FPS = 30
_PAUSE_S = 10  # longer gaps don't count for the frame rate
_MAX_QUEUED_AUDIO = 200  # packets that FFmpeg may hold back to interleave them


class VideoFileWriter(MuxedFile):
    """A file with pictures at their own times and, beside them, audio: container, encoder, audio track.

    The first frame decides the size and becomes time zero. Matroska rounds times to milliseconds, AVI to multiples of
    the nominal frame time. Where a gap is longer than the container can express, the picture before is repeated.
    Audio that can't be written is left out with a warning and costs no picture.
    """

    def __init__(
        self,
        path: Path,
        first: Frame,
        fps: float | None,
        audio: AudioReader | LiveAudioReader | None,
        *,
        encoding: Encoding = DEFAULT_ENCODING,
        replace: bool = True,
    ) -> None:
        """Makes the file and its header; `first` isn't written yet.

        Args:
            path: its suffix is one of `VIDEO_ENDINGS`.
            first: the first frame.
            fps: nominal frame rate, None if unknown.
            audio: what to write in step with the pictures; the caller closes it.
            encoding: quality and encoder.
            replace: whether an existing file is replaced; else FileExistsError is raised.

        Raises:
            WriteError: if it can't be written.
            SinkError: if the encoder doesn't work.
        """
        super().__init__(path, replace=replace)
        self._fps = Fraction(fps).limit_denominator(1001) if fps else None
        self._start_s = first.pts_s
        self._size_wh = first.size_wh
        self._has_warned_of_size = False
        self._pts = -1
        self._intervals: list[int] = [0, 0]  # number and sum of the intervals between frames, without pauses
        self._pending: av.Packet[av.VideoStream] | None = None  # waits for the next one, which tells its duration
        self._audio: AudioTrack | LiveAudioTrack | None = None
        self._queued_audio = 0
        with self._rolling_back():
            try:
                self._open(first, encoding, audio)
            except av.FFmpegError as error:
                if self._audio is None or self._file.error is not None:
                    raise
                self._leave_out(audio, error)
                self._file.clear()
                self._open(first, encoding, None)

    def _open(self, first: Frame, encoding: Encoding, audio: AudioReader | LiveAudioReader | None) -> None:
        muxer, options = MUXERS[self.path.suffix.lower()]
        rate = self._fps or Fraction(_DEFAULT_FPS)
        self._tick_s = {"avi": 1 / rate, "matroska": Fraction(1, 1000), "webm": Fraction(1, 1000)}.get(
            muxer
        ) or _tick_for(rate)
        self._max_ticks = MAX_TICKS.get(muxer)
        self._container = av.open(self._file, "w", format=muxer, container_options=options)
        self._encoder = VideoEncoder(self._container, first, rate, self._tick_s, encoding)
        self._audio = None
        if audio is not None:
            try:
                self._audio = self._new_track(audio, options)
            except AUDIO_ERRORS as error:
                self._leave_out(audio, error)
        self._container.start_encoding()

    def _new_track(
        self, audio: AudioReader | LiveAudioReader, options: dict[str, str]
    ) -> AudioTrack | LiveAudioTrack | None:
        if isinstance(audio, LiveAudioReader):
            return LiveAudioTrack(audio, self._container, self._start_s, self._write_audio)
        if audio.next is None:
            return None
        return AudioTrack(audio, self._container, options, self._start_s, self._write_audio)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Encodes a frame, which must already have the boxes drawn, and writes the one before.

        Raises:
            WriteError: if the file can't take it. What was written before is playable.
        """
        if frame.size_wh != self._size_wh and not self._has_warned_of_size:
            self._has_warned_of_size = True
            log.warning("%s isn't always %dx%d: other sizes are scaled to it", frame.source, *self._size_wh)
        pts = max(self._ticks_at(frame.pts_s), self._pts + 1)
        if self._pts >= 0 and (pts - self._pts) * self._tick_s <= _PAUSE_S:
            self._intervals[0] += 1
            self._intervals[1] += pts - self._pts
        with self._rolling_back():
            if self._pts >= 0:
                self._repeat_until(pts)
            for packet in self._encoder.encode(frame, pts):
                self._mux(packet)
        self._pts = pts

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return self._file.size_bytes if self.is_kept else 0

    def close(self, next_s: float | None = None) -> None:
        """Writes what is left and the file's closing parts. Safe to call twice, and after an error.

        Args:
            next_s: `pts_s` of the first frame of the next file, until which the last picture is shown and audio is
                written. None shows it for its nominal time and writes audio to its own end.

        Raises:
            WriteError: if it can't be finished. What was written before is playable.
        """
        if self._is_closed:
            return
        with self._rolling_back():
            if next_s is not None:
                self._repeat_until(self._ticks_at(next_s))
            for packet in self._encoder.finish():
                self._mux(packet)
            last_ticks = self._frame_ticks() if next_s is None else max(1, self._ticks_at(next_s) - self._pts)
            if self._pending is not None:
                self._pending.duration = last_ticks
                self._write_packet(self._pending)
            last_s, end_s = self._pts * self._tick_s, (self._pts + last_ticks) * self._tick_s
            if next_s is not None:
                end_s = exact(next_s) - exact(self._start_s)
            self._with_audio(end_s, lambda audio: audio.finish(end_s, last_s if next_s is None else None))
            self._container.close()
        self._is_closed = True
        self._file.close()

    def _mux(self, packet: av.Packet[av.VideoStream]) -> None:
        before, self._pending = self._pending, packet
        if before is not None:
            before.duration = _ticks(packet) - _ticks(before)
            self._write_packet(before)

    def _ticks_at(self, pts_s: float) -> int:
        return round((pts_s - self._start_s) / self._tick_s)

    def _frame_ticks(self) -> int:
        """Returns how long the last frame is shown: the nominal frame time, else the mean of the others."""
        count, total = self._intervals
        if self._fps is None and count:
            return max(1, round(total / count))
        return max(1, round(1 / (self._fps or _DEFAULT_FPS) / self._tick_s))

    def _repeat_until(self, until: int) -> None:
        """Repeats the latest picture as often as the container needs to reach a time, in ticks."""
        while self._max_ticks is not None and until - self._pts > self._max_ticks:
            self._pts += self._max_ticks
            for packet in self._encoder.repeat(self._pts):
                self._mux(packet)

    def _write_packet(self, packet: av.Packet[av.VideoStream]) -> None:
        begins_s = _ticks(packet) * self._tick_s
        self._with_audio(begins_s, lambda audio: audio.copy_until(begins_s))
        try:
            self._container.mux(packet)
        except av.FFmpegError as error:
            # FFmpeg writes queued audio when it is given a picture; if that fails it still keeps the picture.
            if self._queued_audio <= 0 or self._file.error is not None:
                raise
            self._end_audio(begins_s, error)
            self._queued_audio -= 1
        if self._file.commit() and begins_s > 0:  # the first picture only brings out the container's header
            self._is_playable = True

    def _write_audio(self, packet: av.Packet[Any]) -> None:
        self._queued_audio = min(self._queued_audio + 1, _MAX_QUEUED_AUDIO)
        self._container.mux(packet)

    def _with_audio(self, time_s: Fraction, write: Callable[[AudioTrack | LiveAudioTrack], None]) -> None:
        """Writes audio before `time_s`, if there is any; if that fails, the audio ends there."""
        try:
            if self._audio is not None:
                write(self._audio)
        except AUDIO_ERRORS as error:
            if self._file.error is not None:
                raise
            self._end_audio(time_s, error)

    def _leave_out(self, audio: AudioReader | LiveAudioReader | None, error: Exception) -> None:
        assert audio is not None
        codec, why = audio.codec, reason(error)
        log.warning("no sound in %s: the %s audio of %s can't be written (%s)", self.path, codec, audio.name, why)
        audio.close()  # nor in the files that follow

    def _end_audio(self, time_s: Fraction, error: Exception) -> None:
        if self._audio is not None:
            log.warning("the sound of %s ends at %.1f s: %s", self.path, time_s, reason(error))
        self._audio = None


def _tick_for(rate: Fraction) -> Fraction:
    """Returns a tick that divides the frame time at `rate`, as coarse as possible: long gaps must fit 31 bits."""
    per_second = rate.numerator * -(-_MIN_TICKS_PER_S // rate.numerator)
    return Fraction(1, min(per_second, _MAX_TICKS_PER_S))


def _ticks(packet: av.Packet[av.VideoStream]) -> int:
    assert packet.pts is not None  # the encoder keeps the times it was given
    return packet.pts
