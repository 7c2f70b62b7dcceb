"""Video files, through PyAV."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av

from streamer.detections import Detections
from streamer.errors import SinkError
from streamer.frame import Frame
from streamer.sinks.audio import open_audio
from streamer.sinks.base import Sink
from streamer.sinks.encoder import VideoEncoder
from streamer.sinks.files import check_writable, reason
from streamer.sinks.recoverable import RecoverableFile
from streamer.sources.base import SourceInfo

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
_TIME_BASE = Fraction(1, 60_000)  # exact for the usual rates but 24000/1001; MPEG-4 part 2 takes no finer
_USUAL_FPS = 30


class VideoSink(Sink):
    """Writes a video file with the frames' own times and, for file sources, the source's audio.

    The first frame decides the size and becomes time zero. The file is made when it comes; until then a file that is
    to be replaced stays. Matroska rounds times to milliseconds, AVI to multiples of the nominal frame time.
    """

    def __init__(self, path: Path, source: SourceInfo) -> None:
        """Checks that `path` can be written.

        Args:
            path: its ending is one of .mp4, .mov, .mkv, .avi.
            source: what is recorded: its frame rate, and the file whose audio is copied.

        Raises:
            SinkError: if it can't.
        """
        check_writable(path)
        self._path = path
        self._source = source
        self._recording: _Recording | None = None
        self._done = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame, which must have the boxes drawn on it already.

        Raises:
            SinkError: if the file can't take it. What was written before can be played.
        """
        try:
            if self._recording is None:
                self._recording = _Recording(self._path, self._source, frame)
            self._recording.add(frame)
        except (av.FFmpegError, OSError) as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Finishes the file.

        Raises:
            SinkError: if it can't be finished. What was written before can be played.
        """
        if self._recording is None or self._done:
            return
        self._done = True
        try:
            self._recording.finish()
        except (av.FFmpegError, OSError) as error:
            raise self._broken(error) from error

    @property
    def written(self) -> tuple[Path, ...]:
        """The file, once it has a frame."""
        return (self._path,) if self._recording is not None else ()

    def _broken(self, error: Exception) -> SinkError:
        self._done = True
        if self._recording is None:
            return SinkError(f"can't write {self._path}: {reason(error)}; nothing was kept")
        cause = self._recording.abandon() or error
        if self._recording.is_playable:
            return SinkError(f"{self._path} broke off: {reason(cause)}; what it holds can be played")
        self._recording = None
        self._path.unlink(missing_ok=True)
        return SinkError(f"can't write {self._path}: {reason(cause)}; nothing was kept")


class _Recording:
    """An open file: container, encoder and audio.

    Attributes:
        is_playable: whether there are pictures in the file, in a form that can be played whatever happens next.
    """

    def __init__(self, path: Path, source: SourceInfo, first: Frame) -> None:
        muxer, options = _MUXERS[path.suffix.lower()]
        self._fps = Fraction(source.fps).limit_denominator(1001) if source.fps else None
        fps = self._fps or Fraction(_USUAL_FPS)
        self._tick_s = {"avi": 1 / fps, "matroska": Fraction(1, 1000)}.get(muxer, _TIME_BASE)
        self._start_s = first.pts_s
        self._size_wh = first.size_wh
        self._said_scaled = False
        self._count = 0
        self._pts = -1
        self._held: av.Packet[av.VideoStream] | None = None
        self.is_playable = False
        self._file = RecoverableFile(path)
        try:
            self._container = av.open(self._file, "w", format=muxer, container_options=options)
            self._encoder = VideoEncoder(self._container, first, fps, self._tick_s)
            self._audio = open_audio(source.path, self._container, first.pts_s) if source.path is not None else None
            self._container.start_encoding()
        except BaseException:
            self._file.abandon()
            path.unlink()
            raise

    def add(self, frame: Frame) -> None:
        """Encodes a frame and writes the one before it, whose duration is now known."""
        if frame.size_wh != self._size_wh and not self._said_scaled:
            self._said_scaled = True
            log.warning("%s isn't always %dx%d: other sizes are scaled to it", frame.source, *self._size_wh)
        self._pts = max(round((frame.pts_s - self._start_s) / self._tick_s), self._pts + 1)
        self._count += 1
        for packet in self._encoder.encode(frame, self._pts):
            self._hold(packet)

    def finish(self) -> None:
        """Writes what is left and the file's closing parts."""
        for packet in self._encoder.finish():
            self._hold(packet)
        last_ticks = self._frame_ticks()
        if self._held is not None:
            self._held.duration = last_ticks
            self._mux(self._held)
        self._copy_audio(self._pts * self._tick_s, (self._pts + last_ticks) * self._tick_s)
        self._container.close()
        self._file.close()
        self._close_audio()

    def abandon(self) -> OSError | None:
        """Takes the file back to what is safe and closes it; returns why writing failed, if it did."""
        self._file.abandon()
        self._close_audio()
        return self._file.error

    def _hold(self, packet: av.Packet[av.VideoStream]) -> None:
        held, self._held = self._held, packet
        if held is not None:
            held.duration = _ticks(packet) - _ticks(held)
            self._mux(held)

    def _frame_ticks(self) -> int:
        """Returns how long the last frame is to be seen: as the source says, else as long as the others on average."""
        if self._fps is None and self._count > 1:
            return max(1, round(self._pts / (self._count - 1)))
        return max(1, round(1 / (self._fps or _USUAL_FPS) / self._tick_s))

    def _mux(self, packet: av.Packet[av.VideoStream]) -> None:
        begins_s = _ticks(packet) * self._tick_s
        self._copy_audio(begins_s)
        self._container.mux(packet)
        if self._file.keep() and begins_s > 0:  # with the first picture only the container's header goes out
            self.is_playable = True

    def _copy_audio(self, time_s: Fraction, end_s: Fraction | None = None) -> None:
        """Copies the sound before `time_s`; with `end_s`, the rest: `time_s` is then the last picture's time."""
        if self._audio is None:
            return
        try:
            if end_s is None:
                self._audio.copy_until(time_s)
            else:
                self._audio.copy_rest(time_s, end_s)
        except av.FFmpegError as error:
            if self._file.error is not None:
                raise
            log.warning("the sound ends at %.1f s: %s", time_s, reason(error))
            self._close_audio()

    def _close_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()
            self._audio = None


def _ticks(packet: av.Packet[av.VideoStream]) -> int:
    assert packet.pts is not None  # an encoder that was given times gives them back
    return packet.pts
