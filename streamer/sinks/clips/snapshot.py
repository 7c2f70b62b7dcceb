"""The best frame of a clip, annotated, as a JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.scaling import resized
from streamer.sinks.frame_files import encode_picture, write_file

_CLEARLY_BETTER = 1.2
_CUT = 0.5  # what an object counts for that the picture's edge cuts
_CLEAR = 0.03  # of the picture's sides: how far a box is from the edge that counts in full
_SIZE_COUNTS = 0.25


@dataclass(frozen=True)
class _Candidate:
    quality: float
    frame: Frame
    detections: Detections


class Snapshot:
    """Keeps a clip's picture: written at once, and again for a frame that is clearly better, by a fifth.

    A frame's quality is that of its best object: the score, times the fourth root of its share of the picture, down to
    half of it the nearer the picture's edge is. One frame is kept, by reference, and only until there is a file for it.
    """

    def __init__(self, annotator: Annotator | None) -> None:
        """Takes what draws the boxes; None where frames come with them."""
        self._annotator = annotator
        self._best: _Candidate | None = None  # that isn't written
        self._written = 0.0  # quality of the picture in the file

    def offer(self, frame: Frame, detections: Detections, relevant: Detections) -> None:
        """Takes a frame, all that was detected in it, and those objects that make an event."""
        quality = frame_quality(relevant, frame.size_wh)
        least = max(self._written * _CLEARLY_BETTER, self._best.quality if self._best is not None else 0.0)
        if quality > least:
            self._best = _Candidate(quality, frame, detections)

    def write(self, path: Path) -> bool:
        """Writes the best frame since the last time, if any; returns whether there was one.

        Raises:
            SinkError: if it can't be written; the picture before stays.
        """
        best, self._best = self._best, None
        if best is None:
            return False
        frame = best.frame
        if self._annotator is not None:
            frame = self._annotator.annotate(frame, best.detections)
        write_file(path, encode_picture(resized(frame, frame.shown_wh), path), what="pictures")
        self._written = best.quality
        return True

    def restart(self) -> None:
        """Begins anew, for the next clip."""
        self._best, self._written = None, 0.0


def frame_quality(detections: Detections, size_wh: tuple[int, int]) -> float:
    """Returns how good the best object is seen, 0 for none; `size_wh` is the frame's, in pixels."""
    width, height = size_wh
    best = 0.0
    rows = zip(detections.boxes_xyxy.tolist(), detections.areas.tolist(), detections.scores.tolist(), strict=True)
    for (left, top, right, bottom), area, score in rows:
        margin = min(left / width, top / height, 1 - right / width, 1 - bottom / height)
        whole = _CUT + (1 - _CUT) * min(1.0, max(0.0, margin) / _CLEAR)
        share = min(1.0, area / (width * height))
        best = max(best, score * share**_SIZE_COUNTS * whole)
    return best
