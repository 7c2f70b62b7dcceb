"""The files of one source's recordings: their paths, and what is written beside each."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from streamer.common.errors import SinkError
from streamer.sinks.files import reason
from streamer.sinks.jsonl import encoded
from streamer.sinks.lines import LineFile, Pipe, open_lines
from streamer.sinks.paths import Claim, OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Series
from streamer.sinks.video.captions import CaptionWriter
from streamer.sinks.video.packet_file import PacketFile

log = logging.getLogger(__name__)

LINES, CAPTIONS = ".jsonl", ".vtt"
BESIDE: Final = (LINES, CAPTIONS)
"""Endings of the files beside each recording."""
_SAME_TIME_S = 1e-3
_MOST_UNPLACED = 4096


class Found(NamedTuple):
    """What was detected in a frame: the object of its line, and its caption."""

    pts_s: float
    content: dict[str, Any]
    caption: str


class Span:
    """A recording, and what is written beside it. A file that fails is given up with a warning.

    Attributes:
        start_s: time zero of the video, as `Frame.pts_s`.
        end_s: when the next recording begins.
    """

    def __init__(self, start_s: float, paths: tuple[Path, Path]) -> None:
        self.start_s, self.end_s = start_s, math.inf
        self._lines: LineFile | Pipe | None = None
        self._captions: CaptionWriter | None = None
        try:
            self._lines, self._captions = open_lines(Claim(paths[0])), CaptionWriter(paths[1])
        except OSError as error:
            log.warning("nothing more is written beside the recording: %s", reason(error))

    def holds(self, pts_s: float) -> bool:
        """Whether the picture of a time is in this recording."""
        return self.start_s <= pts_s + _SAME_TIME_S < self.end_s

    def write(self, found: Found) -> None:
        """Appends a frame of this recording."""
        time_s = max(0.0, found.pts_s - self.start_s)
        try:
            if self._lines is not None:
                self._lines.write(encoded({**found.content, "pts_s": time_s}))
            if self._captions is not None:
                self._captions.write(time_s, found.caption)
        except (OSError, ValueError) as error:
            log.warning("what is written beside the recording ends: %s", reason(error))
            self.close()

    def close(self) -> None:
        """Finishes the files."""
        lines, captions, self._lines, self._captions = self._lines, self._captions, None, None
        for writer in (lines, captions):
            try:
                if writer is not None:
                    writer.close()
            except OSError as error:
                log.warning("%s", reason(error))


class DetectionFiles:
    """What was detected, in the files beside the recording that has its frame. Thread-safe.

    Detections wait until it is known which recording their frame is in; those of frames in none are dropped.
    """

    def __init__(self) -> None:
        """Begins without a recording."""
        self._lock = threading.Lock()
        self._spans: list[Span] = []  # whose detections may still come
        self._unplaced: deque[Found] = deque(maxlen=_MOST_UNPLACED)
        self._placed_s = -math.inf

    def add(self, found: Found) -> None:
        """Takes what was detected in the next frame."""
        with self._lock:
            self._unplaced.append(found)
            self._place()

    def begin(self, start_s: float, paths: tuple[Path, Path]) -> None:
        """Begins a recording at a time, and the lines and captions beside it."""
        with self._lock:
            self._spans.append(Span(start_s, paths))

    def end(self, end_s: float) -> None:
        """Notes that frames from a time on aren't in the newest recording."""
        with self._lock:
            if self._spans:
                self._spans[-1].end_s = min(end_s, self._spans[-1].end_s)

    def finish(self, end_s: float) -> None:
        """Ends the newest recording and finishes what is beside it, as all frames up to its end have come."""
        self.end(end_s)
        with self._lock:
            self._placed_s = max(self._placed_s, end_s)
            self._place()
            self._close_spans(end_s)

    def place(self, until_s: float) -> None:
        """Notes that it is known which recordings the frames up to a time are in."""
        with self._lock:
            self._placed_s = max(self._placed_s, until_s)
            self._place()

    def close(self) -> None:
        """Writes what waits, and finishes the files."""
        with self._lock:
            self._placed_s = math.inf
            self._place()
            self._close_spans(math.inf)

    def _place(self) -> None:
        while self._unplaced and self._unplaced[0].pts_s <= self._placed_s:
            found = self._unplaced.popleft()
            span = next((each for each in self._spans if each.holds(found.pts_s)), None)
            if span is not None:
                span.write(found)
            self._close_spans(found.pts_s)

    def _close_spans(self, pts_s: float) -> None:
        """Closes the files beside recordings that no later frame belongs to."""
        for span in [each for each in self._spans if each.end_s <= pts_s]:
            self._spans.remove(span)
            span.close()


class RecordedFiles:
    """Paths of the recordings of one source, and of the files beside them."""

    def __init__(
        self, path: Path, retention: SegmentRetention | None, paths: OutputPaths, *, is_segmented: bool
    ) -> None:
        self._paths = paths
        self._series: Series | None = None
        self._claims: list[Claim] = []
        self._written: list[Path] = []
        if is_segmented:
            claim = paths.claim_series(path)
            self._series = Series(claim.path, retention, beside=BESIDE)
            self._claims.append(claim)
            self.path = claim.path
        else:
            self._next = paths.claim_file(path)
            self._claims.append(self._next)
            self.path = self._next.path
        self._wanted = path

    def begin(self, begun: datetime, make: Callable[[Path, bool], PacketFile]) -> tuple[PacketFile, tuple[Path, Path]]:
        """Makes the next file and returns it with the paths of the lines and captions beside it.

        Raises:
            SinkError: if it can't be written.
        """
        if self._series is not None:
            file = self._series.begin(begun.astimezone(UTC), lambda path: make(path, False))
            return file, (file.path.with_suffix(LINES), file.path.with_suffix(CAPTIONS))
        if self._written:  # the camera has changed: the next file has a number
            self._next = self._paths.claim_file(self._wanted)
            self._claims.append(self._next)
        claim = self._next
        try:
            file = make(claim.path, claim.replaces)
        except FileExistsError as error:
            raise SinkError(f"can't write {claim.path}: {reason(error)}; choose another output") from error
        self._written.append(claim.path)
        return file, (self._beside(claim.path, LINES), self._beside(claim.path, CAPTIONS))

    def _beside(self, path: Path, ending: str) -> Path:
        claim = self._paths.claim_file(path.with_suffix(ending))
        self._claims.append(claim)
        return claim.path

    def prune(self) -> None:
        """Deletes old segments, every ten seconds at most."""
        if self._series is not None:
            self._series.prune()

    def discard(self) -> None:
        """Forgets the newest file, which is gone."""
        if self._series is not None:
            self._series.discard()
        elif self._written:
            self._written.pop()

    def close(self) -> None:
        """Releases the paths."""
        if self._series is not None:
            self._series.close()
        for claim in self._claims:
            claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The videos, or a pattern for many segments."""
        return self._series.written if self._series is not None else tuple(self._written)
