"""What the files of a clip say themselves."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av

from streamer.sinks.files import safe_name

_BOX_HEAD_BYTES, _LARGE_BOX = 8, 1
_MOST_LINES, _MOST_LINE_BYTES = 1_000_000, 1 << 20


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says of itself.

    Attributes:
        length_s: how long its pictures are seen.
        is_finished: whether it has its closing parts.
    """

    length_s: float
    is_finished: bool


def probe_video(path: Path) -> VideoFacts | None:
    """Returns what a clip's file says of itself; None if it can't be played.

    Of a file without closing parts, as of a run that was killed, the length is that of the packets in it.

    Raises:
        OSError: if it can't be read at all.
    """
    with path.open("rb"):  # FFmpeg doesn't tell apart what can't be read
        pass
    try:
        with av.open(str(path)) as opened:
            stream = opened.streams.video[0]
            is_finished = not _has_fragments(path) if path.suffix == ".mp4" else opened.duration is not None
            if is_finished and stream.duration is not None and stream.time_base is not None:
                return VideoFacts(float(stream.duration * stream.time_base), True)
            if is_finished and opened.duration is not None:
                return VideoFacts(opened.duration / av.time_base, True)
            end_s = 0.0
            for packet in opened.demux(stream):
                if packet.pts is not None and packet.time_base is not None:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except (av.FFmpegError, IndexError, ValueError):
        return None
    return VideoFacts(end_s, False) if end_s > 0 else None


def _has_fragments(path: Path) -> bool:
    """Whether an MP4 file has fragments at its top level: those that are finished have none."""
    with path.open("rb") as file:
        while len(head := file.read(_BOX_HEAD_BYTES)) == _BOX_HEAD_BYTES:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"moof":
                return True
            if size == _LARGE_BOX:
                size = int.from_bytes(file.read(8), "big") - 8
            if size < _BOX_HEAD_BYTES:
                break
            file.seek(size - _BOX_HEAD_BYTES, 1)
    return False


@dataclass(frozen=True)
class LinesFacts:
    """What the JSON lines beside a clip say.

    Attributes:
        source: the source's name, None where no line has one.
        labels: of all objects in it, the most frequent first.
        best_label: of the object with the highest score, None where there is none.
        best_score: that score.
    """

    source: str | None = None
    labels: tuple[str, ...] = ()
    best_label: str | None = None
    best_score: float | None = None


def read_lines(path: Path, named: str) -> LinesFacts:
    """Returns what the lines beside a clip say; damaged lines are left out, as are those of other sources.

    Args:
        path: the file; it may be missing.
        named: the source as the clip's name has it.
    """
    source: str | None = None
    counts: Counter[str] = Counter()
    best: tuple[float, str] | None = None
    try:
        with path.open("rb") as file:
            for line in islice(iter(lambda: file.readline(_MOST_LINE_BYTES), b""), _MOST_LINES):
                content = _parsed(line)
                told = content.get("source")
                if source is None and isinstance(told, str) and named.startswith(safe_name(told)):
                    source = told
                for score, label in _objects(content):
                    counts[label] += 1
                    best = max(best or (score, label), (score, label))
    except OSError:
        pass
    labels = tuple(label for label, _ in counts.most_common())
    return LinesFacts(source, labels, best[1] if best else None, best[0] if best else None)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _objects(content: dict[str, Any]) -> list[tuple[float, str]]:
    found = content.get("detections")
    objects = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    pairs = [(each.get("score"), each.get("label")) for each in objects]
    return [(score, label) for score, label in pairs if isinstance(score, float) and isinstance(label, str)]
