"""The clips of a run's folders, by their indexes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from streamer.common.closeable import Closeable
from streamer.common.errors import SinkError
from streamer.sinks.clips import database
from streamer.sinks.clips.clip import Clip
from streamer.sinks.clips.index import ClipIndex
from streamer.sinks.files import utc_text
from streamer.web.recordings import MEDIA_TYPES
from streamer.web.state_models import ClipInfo

_FOLDER_DIGITS = 8


class FoundClip(NamedTuple):
    """A clip and the index that has it."""

    owner: ClipIndex
    clip: Clip


class ClipStore(Closeable):
    """Finds clips in several folders. Any thread may ask; a folder whose index isn't there yet has none."""

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        """`folders` returns where the run's clips are."""
        self._folders = folders
        self._lock = threading.Lock()
        self._indexes: dict[Path, ClipIndex] = {}

    def find(
        self,
        *,
        source: str | None = None,
        label: str | None = None,
        from_utc: datetime | None = None,
        to_utc: datetime | None = None,
        limit: int = 100,
    ) -> list[ClipInfo]:
        """Returns the clips that all conditions hold for, newest first; see `ClipIndex.find`.

        Raises:
            SinkError: if an index can't be read.
        """
        found = [
            FoundClip(index, clip)
            for index in self._open()
            for clip in index.find(source=source, label=label, from_utc=from_utc, to_utc=to_utc, limit=limit)
        ]
        found.sort(key=lambda each: each.clip.begin_utc, reverse=True)
        return [describe(each) for each in found[:limit]]

    def get(self, clip_id: str) -> FoundClip | None:
        """Returns a clip by the id of `ClipInfo`, None if there is none; raises SinkError as `find`."""
        folder_id, own_id = clip_id[:_FOLDER_DIGITS], _decoded(clip_id[_FOLDER_DIGITS:])
        if own_id is None:
            return None
        for index in self._open():
            if _folder_id(index.folder) == folder_id:
                clip = index.get(own_id)
                return None if clip is None else FoundClip(index, clip)
        return None

    def close(self) -> None:
        """Closes the indexes."""
        with self._lock:
            for index in self._indexes.values():
                index.close()
            self._indexes = {}

    def _open(self) -> list[ClipIndex]:
        with self._lock:
            for folder in self._folders():
                if folder not in self._indexes:
                    try:
                        self._indexes[folder] = ClipIndex(folder)
                    except SinkError:
                        if (folder / database.NAME).exists():
                            raise
            return list(self._indexes.values())


def describe(found: FoundClip) -> ClipInfo:
    """Returns what clients are told of a clip."""
    clip = found.clip
    try:
        size_bytes = clip.video.stat().st_size
    except OSError:
        size_bytes = 0
    own_id = base64.urlsafe_b64encode(clip.id.encode()).decode().rstrip("=")
    return ClipInfo(
        id=_folder_id(found.owner.folder) + own_id,
        source=clip.source,
        begin_utc=utc_text(clip.begin_utc),
        end_utc=utc_text(clip.end_utc),
        duration_s=round(clip.length_s, 3),
        size_bytes=size_bytes,
        labels=clip.labels,
        best_label=clip.best_label,
        best_score=clip.best_score,
        is_open=not clip.is_complete,
        media_type=MEDIA_TYPES.get(clip.video.suffix.lower(), "application/octet-stream"),
        has_snapshot=clip.snapshot is not None,
        has_detections=clip.detections is not None,
        has_captions=clip.captions is not None,
    )


def _folder_id(folder: Path) -> str:
    return hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=_FOLDER_DIGITS // 2).hexdigest()


def _decoded(text: str) -> str | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode() or None
    except (binascii.Error, ValueError):
        return None
