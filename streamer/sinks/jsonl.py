"""Detections as JSON lines, one a frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from streamer.detections import Detections
from streamer.errors import SinkError
from streamer.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.files import captured_utc, reason
from streamer.sinks.lines import Pipe, open_lines
from streamer.sinks.paths import OutputPaths


class JsonlSink(Sink):
    """Writes a ``.jsonl`` file: UTF-8, one object a line, each line in the file as soon as it is written.

    A line is ``{"source", "index", "pts_s", "width", "height", "name", "detections"}``; a detection is
    ``{"label", "class_id", "score", "box_xyxy"}`` with the box in pixels of the frame, clipped to it, not rounded.
    A line with ``"held": true`` repeats the detections of an earlier frame, since the detector hasn't seen this one.
    Lines of live sources also have ``captured_at``: when the frame was captured, ``2026-11-23T12:33:05.123Z`` (UTC).
    """

    needs_pixels = False

    def __init__(
        self, path: Path, labels: Sequence[str], *, live: bool = False, paths: OutputPaths | None = None
    ) -> None:
        """Opens `path`, replacing what it holds; a pipe that is there gets the lines once it has a reader.

        Args:
            path: the file.
            labels: the model's class names, by class id.
            live: whether the source is live, so that the time of day means something.
            paths: those of the run; None is a run of its own.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written.
        """
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._labels = tuple(labels)
        self._live = live
        try:
            self._lines = open_lines(self._claim)
        except OSError as error:
            self._claim.close()
            raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame's line.

        Raises:
            SinkError: if the file can't take it, or a number of the detections isn't finite.
        """
        width, height = frame.size_wh
        boxes = np.minimum(np.maximum(detections.boxes_xyxy, 0), (width, height, width, height))
        rows = zip(detections.class_ids.tolist(), detections.scores.tolist(), boxes.tolist(), strict=True)
        line = {
            "source": frame.source,
            "index": frame.index,
            "pts_s": frame.pts_s,
            **({"captured_at": _iso(captured_utc(frame))} if self._live else {}),
            "width": width,
            "height": height,
            "name": frame.name,
            **({"held": True} if detections.is_held else {}),
            "detections": [
                {"label": self._labels[class_id], "class_id": class_id, "score": score, "box_xyxy": box}
                for class_id, score, box in rows
            ],
        }
        try:
            self._lines.write(_encode(line) + "\n")
        except OSError as error:
            raise self._broken(error) from error
        except ValueError as error:
            raise SinkError(f"frame {frame.index} of {frame.source} has a number that isn't finite: {line}") from error

    def close(self) -> None:
        """Closes the file.

        Raises:
            SinkError: if its last line can't be written.
        """
        try:
            self._lines.close()
        except OSError as error:
            raise self._broken(error) from error
        finally:
            self._claim.close()

    def interrupt(self) -> None:
        """Has a `write` that waits for the reader of a pipe give up soon."""
        if isinstance(self._lines, Pipe):
            self._lines.interrupt()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file."""
        return (self._path,)

    def _broken(self, error: OSError) -> SinkError:
        return SinkError(f"{self._path} broke off: {reason(error)}; the lines before are complete")


_encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make one for each line


def _iso(utc: datetime) -> str:
    return utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
