"""One video file while it is being written, through PyAV."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamer.common.errors import SinkError
from streamer.frames.frame import Frame
from streamer.sinks.files import behind_link, reason
from streamer.sinks.options import DEFAULT_CRF
from streamer.sinks.video.audio import AudioReader, exact
from streamer.sinks.video.audio_copy import NotCopied
from streamer.sinks.video.audio_track import AudioTrack
from streamer.sinks.video.encoder import VideoEncoder
from streamer.sinks.video.transactional_file import TransactionalFile

log = logging.getLogger(__name__)

# FFmpeg's muxer for each ending, and its options. What is written reaches the file every second in a form that plays
# without its end, so a killed run loses less than two. MP4 becomes an ordinary, unfragmented file when it is closed.
_EACH_SECOND = {"flush_packets": "1", "max_interleave_delta": "500000"}
_FRAGMENTS = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": "1000000", **_EACH_SECOND}
_MUXERS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("mp4", _FRAGMENTS),
    ".mov": ("mov", _FRAGMENTS),
    ".mkv": ("matroska", {"cluster_time_limit": "1000", **_EACH_SECOND}),
    ".avi": ("avi", _EACH_SECOND),
}
_FEWEST_TICKS_A_SECOND, _MOST_TICKS_A_SECOND = 10_000, 60_000  # MPEG-4 part 2 takes no more than 65,535
_USUAL_FPS = 30
# How far apart in ticks FFmpeg writes two pictures: MP4 counts 31 bits, AVI fills up with at most 60,000 empty ones.
_MOST_TICKS = {"mp4": 2**31 - 2, "mov": 2**31 - 2, "avi": 59_999}
_PAUSE_S = 10  # frames further apart say nothing of the frame rate
_NO_SOUND = (NotCopied, av.FFmpegError, ValueError)  # what PyAV refuses is a ValueError at times
_QUEUED_PACKETS = 200  # of sound, at most, that FFmpeg holds back to put it between the pictures


class VideoFileWriter:
    """A file with pictures at their own times and, beside them, sound: container, encoder, audio.

    The first frame decides the size and becomes time zero. Matroska rounds times to milliseconds, AVI to multiples of
    the nominal frame time. Where frames are so far apart that the container can't say it, the picture before is
    written again in between. Sound that can't be written is left out, with a warning, and costs no picture. After an
    error the file is closed, and holds what was written before or isn't there.

    Attributes:
        path: the file.
        is_kept: False once the file is gone, because it broke off before it could be played.
    """

    def __init__(
        self,
        path: Path,
        first: Frame,
        fps: float | None,
        sound: AudioReader | None,
        *,
        crf: int = DEFAULT_CRF,
        replace: bool = True,
    ) -> None:
        """Makes the file and its header; `first` isn't written yet.

        Args:
            path: its ending is one of .mp4, .mov, .mkv, .avi.
            first: the first frame.
            fps: nominal frame rate, or None if it isn't known.
            sound: what to write in step with the pictures; it stays the caller's.
            crf: x264's constant rate factor, 0 (lossless) to 51 (worst).
            replace: whether a file that is there already is replaced.

        Raises:
            FileExistsError: if there is a file, and it isn't to be replaced.
            SinkError: if it can't be written.
        """
        self.path = path
        self.is_kept = True
        self._fps = Fraction(fps).limit_denominator(1001) if fps else None
        self._start_s = first.pts_s
        self._size_wh = first.size_wh
        self._said_scaled = False
        self._pts = -1
        self._intervals: list[int] = [0, 0]  # how many between frames no further apart than usual, and their sum
        self._held: av.Packet[av.VideoStream] | None = None
        self._is_playable = False  # there are pictures in the file, in a form that plays whatever happens next
        self._done = False
        self._audio: AudioTrack | None = None
        self._queued_sound = 0
        try:
            self._file = TransactionalFile(path, replace=replace)
        except FileExistsError:
            raise
        except OSError as error:
            raise SinkError(f"can't write {path}: {reason(error)}; nothing was kept") from error
        with self._breaking():
            try:
                self._open(first, crf, sound)
            except av.FFmpegError as error:
                if self._audio is None or self._file.error is not None:
                    raise
                self._leave_out(sound, error)
                self._file.clear()
                self._open(first, crf, None)

    def _open(self, first: Frame, crf: int, sound: AudioReader | None) -> None:
        muxer, options = _MUXERS[self.path.suffix.lower()]
        rate = self._fps or Fraction(_USUAL_FPS)
        self._tick_s = {"avi": 1 / rate, "matroska": Fraction(1, 1000)}.get(muxer) or _tick_for(rate)
        self._most_ticks = _MOST_TICKS.get(muxer)
        self._container = av.open(self._file, "w", format=muxer, container_options=options)
        self._encoder = VideoEncoder(self._container, first, rate, self._tick_s, crf)
        self._audio = None
        if sound is not None and sound.next is not None:
            try:
                self._audio = AudioTrack(sound, self._container, options, self._start_s, self._write_sound)
            except _NO_SOUND as error:
                self._leave_out(sound, error)
        self._container.start_encoding()

    def write(self, frame: Frame) -> None:
        """Encodes a frame and writes the one before it, whose duration is now known.

        Raises:
            SinkError: if the file can't take it. What was written before can be played.
        """
        if frame.size_wh != self._size_wh and not self._said_scaled:
            self._said_scaled = True
            log.warning("%s isn't always %dx%d: other sizes are scaled to it", frame.source, *self._size_wh)
        pts = max(self._ticks_at(frame.pts_s), self._pts + 1)
        if self._pts >= 0 and (pts - self._pts) * self._tick_s <= _PAUSE_S:
            self._intervals[0] += 1
            self._intervals[1] += pts - self._pts
        with self._breaking():
            if self._pts >= 0:
                self._bridge(pts)
            for packet in self._encoder.encode(frame, pts):
                self._hold(packet)
        self._pts = pts

    def close(self, next_s: float | None = None) -> None:
        """Writes what is left and the file's closing parts. Safe to call twice, and after an error.

        Args:
            next_s: `pts_s` of the frame that follows in another file: the last picture is seen, and the sound heard,
                until then. None leaves the last picture its nominal time, and the sound its own end.

        Raises:
            SinkError: if it can't be finished. What was written before can be played.
        """
        if self._done:
            return
        with self._breaking():
            if next_s is not None:
                self._bridge(self._ticks_at(next_s))
            for packet in self._encoder.finish():
                self._hold(packet)
            last_ticks = self._frame_ticks() if next_s is None else max(1, self._ticks_at(next_s) - self._pts)
            if self._held is not None:
                self._held.duration = last_ticks
                self._mux(self._held)
            if next_s is None:
                self._copy_sound(self._pts * self._tick_s, (self._pts + last_ticks) * self._tick_s)
            else:
                self._copy_sound(exact(next_s) - exact(self._start_s), finish=True)
            self._container.close()
        self._done = True
        self._file.close()

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Takes the file back to what is safe and closes it, if anything fails."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise self._broken(error) from error
        except BaseException as error:
            self._broken(error)
            raise

    def _broken(self, error: BaseException) -> SinkError:
        self._done = True
        self._file.rollback()
        cause = self._file.error or error
        if self._is_playable:
            return SinkError(f"{self.path} broke off: {reason(cause)}; what it holds can be played")
        self.is_kept = False
        behind_link(self.path).unlink(missing_ok=True)
        return SinkError(f"can't write {self.path}: {reason(cause)}; nothing was kept")

    def _hold(self, packet: av.Packet[av.VideoStream]) -> None:
        held, self._held = self._held, packet
        if held is not None:
            held.duration = _ticks(packet) - _ticks(held)
            self._mux(held)

    def _ticks_at(self, pts_s: float) -> int:
        return round((pts_s - self._start_s) / self._tick_s)

    def _frame_ticks(self) -> int:
        """Returns how long the last frame is to be seen: as the source says, else as long as the others on average."""
        count, total = self._intervals
        if self._fps is None and count:
            return max(1, round(total / count))
        return max(1, round(1 / (self._fps or _USUAL_FPS) / self._tick_s))

    def _bridge(self, until: int) -> None:
        """Writes the latest picture again as often as the container needs it to get to a time, in ticks."""
        while self._most_ticks is not None and until - self._pts > self._most_ticks:
            self._pts += self._most_ticks
            for packet in self._encoder.repeat(self._pts):
                self._hold(packet)

    def _mux(self, packet: av.Packet[av.VideoStream]) -> None:
        begins_s = _ticks(packet) * self._tick_s
        self._copy_sound(begins_s)
        try:
            self._container.mux(packet)
        except av.FFmpegError as error:
            # FFmpeg writes packets of sound that it has held back when it is given a picture. It keeps the picture.
            if self._queued_sound <= 0 or self._file.error is not None:
                raise
            self._lose_sound(begins_s, error)
            self._queued_sound -= 1
        if self._file.commit() and begins_s > 0:  # with the first picture only the container's header goes out
            self._is_playable = True

    def _write_sound(self, packet: av.Packet[Any]) -> None:
        self._queued_sound = min(self._queued_sound + 1, _QUEUED_PACKETS)
        self._container.mux(packet)

    def _copy_sound(self, time_s: Fraction, end_s: Fraction | None = None, *, finish: bool = False) -> None:
        """Writes the sound before `time_s`; with `end_s`, the rest: `time_s` is then the last picture's time."""
        if self._audio is None:
            return
        try:
            if end_s is not None:
                self._audio.copy_rest(time_s, end_s)
            else:
                self._audio.copy_until(time_s)
                if finish:
                    self._audio.finish()
        except _NO_SOUND as error:
            if self._file.error is not None:
                raise
            self._lose_sound(time_s, error)

    def _leave_out(self, sound: AudioReader | None, error: Exception) -> None:
        assert sound is not None
        codec, why = sound.stream.codec_context.name, reason(error)
        log.warning("no sound in %s: the %s audio of %s can't be written (%s)", self.path, codec, sound.name, why)
        sound.close()  # neither in the files that follow

    def _lose_sound(self, time_s: Fraction, error: Exception) -> None:
        if self._audio is not None:
            log.warning("the sound of %s ends at %.1f s: %s", self.path, time_s, reason(error))
        self._audio = None


def _tick_for(rate: Fraction) -> Fraction:
    """Returns a tick in which frames at a rate have whole times; a coarse one, so that days between two can be said."""
    per_second = rate.numerator * -(-_FEWEST_TICKS_A_SECOND // rate.numerator)
    return Fraction(1, min(per_second, _MOST_TICKS_A_SECOND))


def _ticks(packet: av.Packet[av.VideoStream]) -> int:
    assert packet.pts is not None  # an encoder that was given times gives them back
    return packet.pts
