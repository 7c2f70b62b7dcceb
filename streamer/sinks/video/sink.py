"""Video files: one for the whole run, or segments."""

from __future__ import annotations

from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.files import is_special, reason
from streamer.sinks.options import DEFAULT_CRF
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Boundary, SegmentedSink
from streamer.sinks.video.audio import AudioReader, open_audio
from streamer.sinks.video.file_writer import VideoFileWriter
from streamer.sources.base import SourceInfo


class VideoSink(Sink):
    """Writes a video file with the frames' own times and, for file sources, the source's audio.

    The file is made with the first frame; until then an existing file is kept.
    """

    def __init__(
        self, path: Path, source: SourceInfo, *, crf: int = DEFAULT_CRF, paths: OutputPaths | None = None
    ) -> None:
        """Checks that `path` can be written; its suffix is .mp4, .mov, .mkv or .avi.

        Args:
            path: the file.
            source: what is recorded: its frame rate, and the file whose audio is written.
            crf: x264's constant rate factor.
            paths: the paths of the run; None for a run of its own.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written.
        """
        if is_special(path):
            raise SinkError(f"can't write {path}: a video needs a file, not a pipe or a device; choose another output")
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._source = source
        self._crf = crf
        self._audio: AudioReader | None = None
        self._writer: VideoFileWriter | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._writer is None:
            self._audio = open_audio(self._source)
            try:
                self._writer = VideoFileWriter(
                    self._path, frame, self._source.fps, self._audio, crf=self._crf, replace=self._claim.replaces
                )
            except FileExistsError as error:
                raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error
        self._writer.write(frame, detections)

    def close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            if self._audio is not None:
                self._audio.close()
            self._claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file, once it has a frame."""
        return (self._path,) if self._writer is not None and self._writer.is_kept else ()


class VideoSegmentsSink(SegmentedSink[VideoFileWriter]):
    """Writes video files in segments, with the frames' own times and, for file sources, the source's audio.

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
        crf: int = DEFAULT_CRF,
        paths: OutputPaths | None = None,
    ) -> None:
        """Takes what `SegmentedSink` and `VideoSink` do."""
        super().__init__(path, length_s, source.fps, retention, paths=paths)
        self._source = source
        self._crf = crf
        self._audio: AudioReader | None = None
        self._is_begun = False

    def write(self, frame: Frame, detections: Detections) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._audio = open_audio(self._source)
        super().write(frame, detections)

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._audio is not None:
                self._audio.close()

    def _open(self, path: Path, first: Frame) -> VideoFileWriter:
        return VideoFileWriter(path, first, self._source.fps, self._audio, crf=self._crf, replace=False)

    def _end_s(self, boundary: Boundary, following: Frame) -> float | None:
        return None if boundary is Boundary.OUTAGE and self._audio is None else following.pts_s
