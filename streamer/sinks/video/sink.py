"""Video files: one for the whole run, or segments."""

from __future__ import annotations

from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import DiskUse, Sink
from streamer.sinks.files import is_special, reason
from streamer.sinks.options import DEFAULT_ENCODING, ENCODERS, Encoding
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Boundary, SegmentedSink
from streamer.sinks.video.audio import AudioReader, open_audio
from streamer.sinks.video.disk_use import DiskUseMeter
from streamer.sinks.video.encoders import choose_encoder
from streamer.sinks.video.file_writer import VideoFileWriter
from streamer.sinks.video.live_audio_track import LiveAudioReader
from streamer.sources.base import SourceInfo


class VideoSink(Sink):
    """Writes a video file with the frames' own times and the source's sound.

    The file is made with the first frame; until then an existing file is kept.
    """

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        *,
        encoding: Encoding = DEFAULT_ENCODING,
        audio: bool = True,
        paths: OutputPaths | None = None,
    ) -> None:
        """Checks that `path` can be written; its suffix is .mp4, .mov, .mkv or .avi.

        Args:
            path: the file.
            source: what is recorded: its frame rate, and the file whose audio is written.
            encoding: quality and encoder.
            audio: whether to write the source's sound.
            paths: the paths of the run; None for a run of its own.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written, or the encoder doesn't work.
        """
        if is_special(path):
            raise SinkError(f"can't write {path}: a video needs a file, not a pipe or a device; choose another output")
        _check_encoder(encoding.encoder, path, source)
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._source = source
        self._encoding, self._has_audio = encoding, audio
        self._audio: AudioReader | LiveAudioReader | None = None
        self._writer: VideoFileWriter | None = None
        self._meter = DiskUseMeter(self._path.name, is_live=source.live)

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._writer is None:
            self._audio = _open_sound(self._source) if self._has_audio else None
            try:
                self._writer = VideoFileWriter(
                    self._path,
                    frame,
                    self._source.fps,
                    self._audio,
                    encoding=self._encoding,
                    replace=self._claim.replaces,
                )
            except FileExistsError as error:
                raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error
        self._writer.write(frame, detections)
        self._meter.add(frame.pts_s, self._writer.size_bytes)

    def close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
                self._meter.finish(self._writer.size_bytes)
        finally:
            if self._audio is not None:
                self._audio.close()
            self._claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file, once it has a frame."""
        return (self._path,) if self._writer is not None and self._writer.is_kept else ()

    @property
    def disk_use(self) -> DiskUse | None:
        return self._meter.use


class VideoSegmentsSink(SegmentedSink[VideoFileWriter]):
    """Writes video files in segments, with the frames' own times and the source's sound.

    See `SegmentedSink`. The lengths of the segments add up to the whole: the last picture of one is shown until the
    first of the next; before an outage, only for its nominal time.
    """

    retries_at_once = True

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        length_s: float,
        retention: SegmentRetention | None = None,
        *,
        encoding: Encoding = DEFAULT_ENCODING,
        audio: bool = True,
        paths: OutputPaths | None = None,
    ) -> None:
        """Takes what `SegmentedSink` and `VideoSink` do."""
        _check_encoder(encoding.encoder, path, source)
        super().__init__(path, length_s, source.fps, retention, paths=paths)
        self._source = source
        self._encoding, self._has_audio = encoding, audio
        self._audio: AudioReader | LiveAudioReader | None = None
        self._is_begun = False
        self._meter = DiskUseMeter(path.name, is_live=source.live)
        self._newest: VideoFileWriter | None = None
        self._earlier_bytes = 0  # of the segments before that one

    def write(self, frame: Frame, detections: Detections) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._audio = _open_sound(self._source) if self._has_audio else None
        super().write(frame, detections)
        self._meter.add(frame.pts_s, self._written_bytes)

    def close(self) -> None:
        try:
            super().close()
            self._meter.finish(self._written_bytes)
        finally:
            if self._audio is not None:
                self._audio.close()

    def _open(self, path: Path, first: Frame) -> VideoFileWriter:
        if self._audio is None and self._has_audio and self._source.audio is not None:  # it may have come later
            self._audio = _open_sound(self._source)
        self._earlier_bytes, self._newest = self._written_bytes, None
        self._newest = VideoFileWriter(
            path, first, self._source.fps, self._audio, encoding=self._encoding, replace=False
        )
        return self._newest

    @property
    def disk_use(self) -> DiskUse | None:
        return self._meter.use

    @property
    def _written_bytes(self) -> int:
        return self._earlier_bytes + (self._newest.size_bytes if self._newest is not None else 0)

    def _end_s(self, boundary: Boundary, following: Frame) -> float | None:
        return None if boundary is Boundary.OUTAGE and self._audio is None else following.pts_s


def _open_sound(source: SourceInfo) -> AudioReader | LiveAudioReader | None:
    """Returns the sound of a source, None where it has none, or none yet."""
    if source.audio is None:
        return open_audio(source)
    form = source.audio.format
    return None if form is None else LiveAudioReader(source.audio, form, source.name)


def _check_encoder(wanted: str, path: Path, source: SourceInfo) -> None:
    """Raises SinkError before anything is opened if an encoder that was asked for doesn't work here."""
    if wanted == ENCODERS[0]:
        return
    if path.suffix.lower() == ".webm":
        raise SinkError(f"can't write {path} with {wanted}: WebM holds VP9; choose .mp4 or .mkv, or --encoder auto")
    encoder = choose_encoder(wanted, source.size_wh or (640, 480))
    if encoder.is_h265 and path.suffix.lower() == ".avi":
        raise SinkError(f"can't write {path}: AVI doesn't hold H.265; choose .mp4 or .mkv, or --encoder h264")
