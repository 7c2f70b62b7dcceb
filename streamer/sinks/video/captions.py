"""What was detected, as WebVTT: players show it as subtitles beside a recording (https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from streamer.frames.detections import Detections
from streamer.sinks.lines import LineFile, Pipe, open_lines
from streamer.sinks.paths import Claim

_LAST_S = 1.0


class CaptionWriter:
    """Writes a ``.vtt`` file: a cue for as long as the same objects are there, ``2 person, 1 car``.

    Cues are written when they end, so a run that is killed loses the last one.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, replacing it where it exists; raises OSError if it can't be written."""
        self._file: LineFile | Pipe = open_lines(Claim(path))
        self._file.write("WEBVTT\n\n")
        self._text = ""
        self._begun_s = self._last_s = 0.0

    def write(self, time_s: float, text: str) -> None:
        """Takes what is there at a time, in seconds from the beginning; nothing is an empty text.

        Raises:
            OSError: if the file can't be written.
        """
        if text != self._text:
            self._end_cue(time_s)
            self._text, self._begun_s = text, time_s
        self._last_s = time_s

    def close(self) -> None:
        """Writes the last cue; raises OSError if that fails. Safe to call twice."""
        try:
            self._end_cue(self._last_s + _LAST_S)
        finally:
            self._text = ""
            self._file.close()

    def _end_cue(self, end_s: float) -> None:
        if self._text and end_s > self._begun_s:
            self._file.write(f"{_time(self._begun_s)} --> {_time(end_s)}\n{self._text}\n\n")


def caption(detections: Detections, labels: Sequence[str]) -> str:
    """Returns the objects of a frame by class, the most frequent first."""
    counts = Counter(labels[class_id] for class_id in detections.class_ids.tolist())
    return ", ".join(f"{count} {_escaped(label)}" for label, count in counts.most_common())


def _time(seconds: float) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
