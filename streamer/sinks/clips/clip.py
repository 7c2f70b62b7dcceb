"""A clip, its files and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from streamer.sinks.files import utc_text
from streamer.sinks.retention import STAMP

VIDEO_ENDINGS: Final = (".mp4", ".mkv")
SNAPSHOT: Final = ".jpg"
LINES: Final = ".jsonl"
CAPTIONS: Final = ".vtt"
BESIDE: Final = (SNAPSHOT, LINES, CAPTIONS)
"""Endings of the files beside a clip's video."""

_NAME = re.compile(rf"(.+)-{STAMP}({'|'.join(map(re.escape, (*VIDEO_ENDINGS, *BESIDE)))})")


@dataclass(frozen=True)
class Clip:
    """A clip as the index has it.

    Attributes:
        id: the name of its files without their ending; no path, and the same after the index is rebuilt.
        source: name of the source.
        begin_utc: when its video begins, aware and in UTC.
        end_utc: when its video ends; of one that isn't complete, as far as is known.
        labels: classes that its events are about, in the order in which they were seen.
        best_label: class of the object with the highest score, None where it isn't known.
        best_score: that score, 0 to 1.
        video: the file; it may be gone.
        snapshot: JPEG of the best frame, None where there is none.
        detections: JSON lines of its frames, None where there are none.
        captions: the same as WebVTT.
        is_complete: False while it is written, and where the run was ended before it could finish it.
    """

    id: str
    source: str
    begin_utc: datetime
    end_utc: datetime
    labels: tuple[str, ...]
    best_label: str | None
    best_score: float | None
    video: Path
    snapshot: Path | None
    detections: Path | None
    captions: Path | None
    is_complete: bool

    @property
    def length_s(self) -> float:
        """Length of the video in seconds."""
        return (self.end_utc - self.begin_utc).total_seconds()

    @property
    def files(self) -> tuple[Path, ...]:
        """The video, then what is beside it."""
        return tuple(path for path in (self.video, self.snapshot, self.detections, self.captions) if path is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns what ``clips list --json`` prints: times as ``2026-11-23T12:33:05.123Z``, files by their names."""
        return {
            "id": self.id,
            "source": self.source,
            "begin": utc_text(self.begin_utc),
            "end": utc_text(self.end_utc),
            "labels": list(self.labels),
            "best_label": self.best_label,
            "best_score": self.best_score,
            **{
                key: None if path is None else path.name
                for key, path in (
                    ("video", self.video),
                    ("snapshot", self.snapshot),
                    ("detections", self.detections),
                    ("captions", self.captions),
                )
            },
            "complete": self.is_complete,
        }


class ClipName(NamedTuple):
    """What the name of a clip's file says."""

    id: str
    source: str
    begin_utc: datetime
    ending: str


def parse_name(name: str) -> ClipName | None:
    """Returns what the name of a file of a clip says, None if it can't be one.

    The source is its name as `streamer.sinks.files.safe_name` writes it.

    Example:
        >>> parse_name("door-20261123T123305.123Z.mp4").source
        'door'
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        begin_utc = datetime.strptime(match[2], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return None
    return ClipName(name.removesuffix(match[3]), match[1], begin_utc, match[3])
