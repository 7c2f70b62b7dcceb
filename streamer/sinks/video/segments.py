"""Video files in segments."""

from __future__ import annotations

from pathlib import Path

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.options import DEFAULT_CRF
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Boundary, SegmentedSink
from streamer.sinks.video.audio import AudioReader, open_audio
from streamer.sinks.video.file_writer import VideoFileWriter
from streamer.sources.base import SourceInfo


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
        """Takes what `SegmentedSink` does and:

        Args:
            path: its suffix is .mp4, .mov, .mkv or .avi.
            source: what is recorded: its frame rate, and the file whose audio is written.
            crf: x264's constant rate factor.
        """
        super().__init__(path, length_s, source.fps, retention, paths=paths)
        self._source = source
        self._crf = crf
        self._audio: AudioReader | None = None
        self._is_begun = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame, which must already have the boxes drawn; see `SegmentedSink.write`."""
        if not self._is_begun:
            self._is_begun = True
            self._audio = open_audio(self._source)
        super().write(frame, detections)

    def close(self) -> None:
        """Finishes the last segment; see `SegmentedSink.close`."""
        try:
            super().close()
        finally:
            if self._audio is not None:
                self._audio.close()

    def _open(self, path: Path, first: Frame) -> VideoFileWriter:
        return VideoFileWriter(path, first, self._source.fps, self._audio, crf=self._crf, replace=False)

    def _end_s(self, boundary: Boundary, following: Frame) -> float | None:
        return None if boundary is Boundary.OUTAGE and self._audio is None else following.pts_s
