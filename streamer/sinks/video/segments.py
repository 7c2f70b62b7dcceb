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
        self._series = Series(self._claim.path, paths.shelf(retain))
        self._boundaries = Boundaries(length_s, source.fps)
        self._source = source
        self._crf = crf
        self._is_begun = False
        self._retry_at_s = -math.inf
        self._failed: SinkError | None = None
        self._sound: AudioReader | None = None
        self._recording: VideoFileWriter | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame, which must have the boxes drawn on it already, and deletes old segments now and then."""
        if not self._is_begun:
            self._is_begun = True
            self._sound = open_audio(self._source)
        self._finish_before(frame)
        if self._recording is None and frame.pts_s < self._retry_at_s:
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
            if self._recording is not None:
                self._recording.finish()
                self._recording = None
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
        boundary, recording = self._boundaries.before(frame.pts_s), self._recording
        if recording is None or boundary is None:
            return
        self._recording = None
        try:
            is_outage = boundary is Boundary.OUTAGE
            recording.finish(None if is_outage and self._sound is None else frame.pts_s)
        except SinkError as error:
            self._note_failure(error, recording)

    def _add(self, frame: Frame) -> None:
        if self._recording is None:
            self._recording = self._begin(frame)
        self._recording.add(frame)

    def _note_failure(self, error: SinkError, recording: VideoFileWriter | None = None) -> bool:
        """Lets a segment that failed go; returns whether it held anything."""
        recording, self._recording = recording or self._recording, None
        log.warning("%s", error)
        self._failed = self._failed or error
        is_kept = recording is not None and recording.is_kept
        if recording is not None and not is_kept:
            self._series.drop()
        return is_kept

    def _begin(self, frame: Frame) -> VideoFileWriter:
        return self._series.begin(
            captured_utc(frame),
            lambda path: VideoFileWriter(path, frame, self._source.fps, self._sound, crf=self._crf, replace=False),
        )
