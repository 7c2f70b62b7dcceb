"""Clips and their files, for the tests of several modules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from streamer.sinks.clips.clip import Clip
from streamer.sinks.retention import segment_path

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def clip(
    folder: Path, source: str = "door", at_s: float = 0.0, length_s: float = 10.0, *labels: str, complete: bool = True
) -> Clip:
    """Returns a clip that begins `at_s` after noon; none of its files is made."""
    begin = NOON + timedelta(seconds=at_s)
    video = segment_path(folder / f"{source}.mp4", begin)
    named = labels or ("person",)
    return Clip(
        video.stem,
        source,
        begin,
        begin + timedelta(seconds=length_s),
        named,
        named[0],
        0.75,
        video,
        video.with_suffix(".jpg"),
        video.with_suffix(".jsonl"),
        video.with_suffix(".vtt"),
        complete,
    )
