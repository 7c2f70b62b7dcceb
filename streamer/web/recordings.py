"""The recordings of a run, found on disk by the names that its outputs have; earlier runs' in the same folders too."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import av

from streamer.sinks.files import locked_inodes, utc_text
from streamer.sinks.retention import segment_names, segment_time_s
from streamer.web.control import RecordingSeries
from streamer.web.state_models import Recording

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
}
LINES, CAPTIONS = ".jsonl", ".vtt"
_MOST_PROBED = 4096
_MOST_CAPTION_BYTES = 4 << 20
_CUE = re.compile(r"([0-9]+) (.+)")


@dataclass(frozen=True)
class RecordedFile:
    """A video that was found.

    Attributes:
        id: what it is called to clients; no path, and the same after a restart.
        path: where it is.
        source: see `RecordingSeries`.
        begin_s: when it began, seconds since 1970; None where its name doesn't say it.
        size_bytes, written_s: as the file system says.
        is_open: whether it is being written.
    """

    id: str
    path: Path
    source: str | None
    begin_s: float | None
    size_bytes: int
    written_s: float
    is_open: bool

    @property
    def media_type(self) -> str:
        """As HTTP names it."""
        return MEDIA_TYPES.get(self.path.suffix.lower(), "application/octet-stream")

    def beside(self, ending: str) -> Path:
        """Returns where what was detected is, as lines or captions."""
        return self.path.with_suffix(ending)


class RecordingIndex:
    """Lists recordings, newest first. Any thread may ask. No path comes in or goes out."""

    def __init__(self, series: Callable[[], Sequence[RecordingSeries]]) -> None:
        """`series` returns what the recordings are named after."""
        self._series = series
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[str, int, float], _Facts] = OrderedDict()

    def find(
        self,
        *,
        source: str | None = None,
        from_utc: datetime | None = None,
        to_utc: datetime | None = None,
        limit: int = 200,
    ) -> list[Recording]:
        """Returns recordings, newest first.

        Args:
            source: name of one source; None for all.
            from_utc: aware; recordings that ended before are left out.
            to_utc: aware; recordings that begin later are left out.
            limit: most recordings.
        """
        to_s = None if to_utc is None else to_utc.timestamp()
        from_s = None if from_utc is None else from_utc.timestamp()
        found: list[Recording] = []
        for file in self.files():
            if len(found) >= limit:
                break
            is_late = to_s is not None and file.begin_s is not None and file.begin_s > to_s
            if is_late or (from_s is not None and file.written_s < from_s) or source not in (None, file.source):
                continue
            found.append(self.describe(file))
        return found

    def get(self, recording_id: str) -> RecordedFile | None:
        """Returns the file of a recording, None if there is none of that id."""
        return next((file for file in self.files() if file.id == recording_id), None)

    def files(self) -> list[RecordedFile]:
        """Returns all that are there, newest first."""
        locked = locked_inodes()
        found: dict[Path, RecordedFile] = {}
        for series in self._series():
            for path, begin_s, status in _files_of(series.path):
                if path not in found:
                    key = hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()
                    is_open = status.st_ino in locked
                    found[path] = RecordedFile(
                        key, path, series.source, begin_s, status.st_size, status.st_mtime, is_open
                    )  # fmt: skip
        return sorted(found.values(), key=lambda file: (file.begin_s or file.written_s, file.path.name), reverse=True)

    def describe(self, file: RecordedFile) -> Recording:
        """Returns what clients are told of a recording; reads its length and what was detected, once."""
        facts = self._facts_of(file)
        begin_s = file.begin_s
        if begin_s is None:
            begin_s = file.written_s - (facts.duration_s or 0.0)
        return Recording(
            id=file.id,
            source=file.source,
            begin_utc=utc_text(datetime.fromtimestamp(begin_s, UTC)),
            duration_s=facts.duration_s,
            size_bytes=file.size_bytes,
            labels=facts.labels,
            is_open=file.is_open,
            media_type=file.media_type,
            has_detections=file.beside(LINES).is_file(),
            has_captions=file.beside(CAPTIONS).is_file(),
        )

    def _facts_of(self, file: RecordedFile) -> _Facts:
        key = (file.id, file.size_bytes, file.written_s)
        with self._lock:
            known = self._facts.get(key)
        if known is not None:
            return known
        known = _Facts(_duration_s(file.path), _labels(file.beside(CAPTIONS)))
        if file.is_open:
            return known
        with self._lock:
            self._facts[key] = known
            while len(self._facts) > _MOST_PROBED:
                self._facts.popitem(last=False)
        return known


@dataclass(frozen=True)
class _Facts:
    duration_s: float | None
    labels: tuple[str, ...]


def _files_of(path: Path) -> Iterator[tuple[Path, float | None, os.stat_result]]:
    """Yields the recordings that an output's path gives its name: segments, the file itself, and numbered ones."""
    segments = segment_names(path)
    whole = re.compile(re.escape(path.stem) + r"(?:-[0-9]{1,6})?" + re.escape(path.suffix))
    numbered = re.compile(re.escape(path.stem) + r"-[0-9]{1,6}-([0-9]{8}T[0-9]{6}\.[0-9]{3})Z" + re.escape(path.suffix))
    folder = Path(os.path.realpath(path.parent))
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stamp = segments.fullmatch(entry.name) or numbered.fullmatch(entry.name)
                if stamp is None and not whole.fullmatch(entry.name):
                    continue
                try:
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                yield folder / entry.name, None if stamp is None else segment_time_s(stamp[1]) or None, status
    except OSError:
        return


def _duration_s(path: Path) -> float | None:
    """Returns a video's length, None where it can't be told."""
    try:
        with av.open(str(path)) as opened:
            if opened.duration is not None and opened.duration > 0:
                return round(opened.duration / 1e6, 3)
    except (av.FFmpegError, OSError, ValueError):
        pass
    return None


def _labels(path: Path) -> tuple[str, ...]:
    """Returns the classes that captions name, in the order of how many cues have them."""
    counts: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file.read(_MOST_CAPTION_BYTES).splitlines():
                if "-->" in line:
                    continue
                for part in line.split(", "):
                    found = _CUE.fullmatch(part)
                    if found is not None:
                        counts[_unescaped(found[2])] += 1
    except OSError:
        return ()
    return tuple(label for label, _ in counts.most_common())


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
