"""Recordings in segments: a new video file every so often, and the oldest deleted."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.boundaries import Boundaries, Boundary
from streamer.sinks.files import captured_utc
from streamer.sinks.options import DEFAULT_CRF, Retention
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import Series
from streamer.sinks.video.audio import AudioReader, open_audio
from streamer.sinks.video.file_writer import VideoFileWriter
from streamer.sources.base import SourceInfo

log = logging.getLogger(__name__)

_RETRY_S = 10.0


class SegmentsSink(Sink):
    """Writes video files of equal length with the frames' own times and, for file sources, the source's sound.

    A segment begins with the first frame at or after each multiple of the length, counted from the output's first
    frame, and lasts until the next begins: their lengths add up to the whole. After an outage, when frames are more
    than 10 s apart and ten times as far as the two before, a new segment begins, and the one before it ends with its
    last picture.

    A segment that can't be written to its end is followed by another one: with the frame that failed if it held
    something, else 10 s later. Closing then raises the first of these errors.

    ``out.mp4`` becomes ``out-20261123T123305.123Z.mp4``, after the time in UTC when the segment's first frame was
    captured. Later segments of a run have later names, also when the clock is set back; no file is replaced.
    """

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        length_s: float,
        retain: Retention | None = None,
        *,
        crf: int = DEFAULT_CRF,
        paths: OutputPaths | None = None,
    ) -> None:
        """Checks that segments can be written.

        Args:
            path: what segments are named after; its ending is one of .mp4, .mov, .mkv, .avi.
            source: what is recorded: its frame rate, and the file whose sound is written.
            length_s: a segment's length in seconds.
            retain: which segments are kept; None keeps all.
            crf: x264's constant rate factor.
            paths: those of the run; None is a run of its own.

        Raises:
            ConfigError: if another run is writing segments of that name.
            SinkError: if they can't be written.
        """
        paths = paths or OutputPaths()
        self._claim = paths.claim_series(path)
        self._series = Series(self._claim.path, paths.retention(retain))
        self._boundaries = Boundaries(length_s, source.fps)
        self._source = source
        self._crf = crf
        self._is_begun = False
        self._retry_at_s = -math.inf
        self._failed: SinkError | None = None
        self._sound: AudioReader | None = None
        self._writer: VideoFileWriter | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame, which must have the boxes drawn on it already, and deletes old segments now and then."""
        if not self._is_begun:
            self._is_begun = True
            self._sound = open_audio(self._source)
        self._finish_before(frame)
        if self._writer is None and frame.pts_s < self._retry_at_s:
            return
        try:
            self._add(frame)
        except SinkError as error:
            if self._note_failure(error):
                try:
                    self._add(frame)
                except SinkError as again:
                    self._note_failure(again)
            self._retry_at_s = frame.pts_s + _RETRY_S
        self._series.prune()

    def close(self) -> None:
        """Finishes the last segment.

        Raises:
            SinkError: if a segment couldn't be written to its end. What was written before can be played.
        """
        try:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        except SinkError as error:
            self._note_failure(error)
        finally:
            if self._sound is not None:
                self._sound.close()
            self._series.close()
            self._claim.close()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    @property
    def written(self) -> tuple[Path, ...]:
        """The segments that are there while no more than three were begun, then one pattern such as ``out-*.mp4``."""
        return self._series.written

    def _finish_before(self, frame: Frame) -> None:
        """Finishes the open segment if a new one is to begin with a frame."""
        boundary, writer = self._boundaries.before(frame.pts_s), self._writer
        if writer is None or boundary is None:
            return
        self._writer = None
        try:
            is_outage = boundary is Boundary.OUTAGE
            writer.close(None if is_outage and self._sound is None else frame.pts_s)
        except SinkError as error:
            self._note_failure(error, writer)

    def _add(self, frame: Frame) -> None:
        if self._writer is None:
            self._writer = self._begin(frame)
        self._writer.write(frame)

    def _note_failure(self, error: SinkError, writer: VideoFileWriter | None = None) -> bool:
        """Lets a segment that failed go; returns whether it held anything."""
        writer, self._writer = writer or self._writer, None
        log.warning("%s", error)
        self._failed = self._failed or error
        is_kept = writer is not None and writer.is_kept
        if writer is not None and not is_kept:
            self._series.drop()
        return is_kept

    def _begin(self, frame: Frame) -> VideoFileWriter:
        return self._series.begin(
            captured_utc(frame),
            lambda path: VideoFileWriter(path, frame, self._source.fps, self._sound, crf=self._crf, replace=False),
        )
