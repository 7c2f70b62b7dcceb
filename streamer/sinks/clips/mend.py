"""What a folder of clips and its index disagree on, and how that is mended. No video is ever deleted."""

from __future__ import annotations

import enum
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from streamer.common.errors import SinkError
from streamer.sinks.clips import database
from streamer.sinks.clips.clip import BESIDE, CAPTIONS, LINES, SNAPSHOT, VIDEO_ENDINGS, Clip, ClipName, parse_name
from streamer.sinks.clips.database import DamagedIndexError
from streamer.sinks.clips.index import ClipIndex
from streamer.sinks.clips.probe import VideoFacts, probe_video, read_lines
from streamer.sinks.files import is_locked, reason

log = logging.getLogger(__name__)

_SAME_LENGTH_S = 0.5
_PARTIAL = re.compile(r"\.nanodet-[0-9a-f]{16}\.part")
_PARTIAL_AGE_S = 60.0  # younger ones may be another output's, being written
_ASIDE = ".damaged"


class Kind(enum.Enum):
    """What is wrong."""

    DAMAGED_INDEX = "damaged index"
    NO_INDEX = "no index"
    WRONG_ROW = "wrong row"
    NO_VIDEO = "video is missing"
    NO_ROW = "not in the index"
    UNPLAYABLE = "can't be played"
    WRONG_LENGTH = "wrong length"
    WRONG_FILES = "wrong files beside it"
    ORPHAN = "belongs to no video"
    TEMPORARY = "half-written"


@dataclass(frozen=True)
class Finding:
    """One thing that folder and index disagree on.

    Attributes:
        kind: what is wrong.
        name: of the file, or the id of the row.
        detail: more, in words; empty where `kind` says all.
        mend: what mends it, in words.
        is_mended: whether that was done.
    """

    kind: Kind
    name: str
    detail: str
    mend: str
    is_mended: bool = False


class ClipFolderCheck:
    """Compares a folder with its index, once.

    Files that are being written are left alone.
    """

    def __init__(
        self, folder: Path, *, mends: bool, is_quick: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """Looks at nothing yet.

        Args:
            folder: the folder.
            mends: whether to mend what is found; the caller has `folder_lock` then.
            is_quick: whether videos that are complete by their rows are taken to be.
            clock: seconds since 1970, for the age of temporary files and names of what is set aside.
        """
        self._folder, self._mends, self._is_quick, self._clock = folder, mends, is_quick, clock
        self._files: dict[str, dict[str, ClipName]] = {}
        self._gone: set[str] = set()  # ids whose video is missing or set aside
        self.index: ClipIndex | None = None

    def run(self) -> Iterator[Finding]:
        """Yields what is wrong, each after it is mended; `index` stays open afterwards, if it could be opened.

        Raises:
            SinkError: if the folder or the index can't be read, or something can't be mended.
        """
        try:
            yield from self._open_index()
            names = [entry.name for entry in os.scandir(self._folder) if entry.is_file(follow_symlinks=False)]
            for name in sorted(names):
                named = parse_name(name)
                if named is not None:
                    self._files.setdefault(named.id, {})[named.ending] = named
            yield from self._temporaries(names)
            yield from self._rows()
            yield from self._videos()
            yield from self._orphans()
        except OSError as error:
            raise SinkError(f"can't check {self._folder}: {reason(error)}") from error
        if self.index is not None:
            self.index.flush()

    def _open_index(self) -> Iterator[Finding]:
        path = self._folder / database.NAME
        if not path.is_file():
            yield Finding(Kind.NO_INDEX, path.name, "", "make it from the files", self._mends)
            if self._mends:
                self.index = ClipIndex(self._folder, must_exist=False)
            return
        try:
            self.index = ClipIndex(self._folder)
            self.index.verify()
        except DamagedIndexError as error:
            if self.index is not None:
                self.index.abandon()
                self.index = None
            stamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
            aside = f"{path.name}{_ASIDE}-{stamp}"
            if self._mends:
                for more in ("", "-wal", "-shm"):
                    part = path.with_name(path.name + more)
                    if part.exists():
                        part.replace(path.with_name(aside + more))
                self.index = ClipIndex(self._folder, must_exist=False)
            yield Finding(
                Kind.DAMAGED_INDEX,
                path.name,
                str(error),
                f"set it aside as {aside}, make it from the files",
                self._mends,
            )

    def _temporaries(self, names: list[str]) -> Iterator[Finding]:
        for name in names:
            path = self._folder / name
            if not _PARTIAL.fullmatch(name) or self._clock() - path.stat().st_mtime < _PARTIAL_AGE_S:
                continue
            yield self._delete(Kind.TEMPORARY, path)

    def _rows(self) -> Iterator[Finding]:
        index = self.index
        if index is None:
            return
        clips = {clip.id: clip for clip in index.find(limit=None)}
        for clip_id in index.ids():
            if clip_id not in clips:
                yield self._remove_row(Kind.WRONG_ROW, clip_id, "it leads out of the folder, or its times are none")
        for clip in clips.values():
            present = self._files.get(clip.id, {})
            if clip.video.suffix not in present:
                self._gone.add(clip.id)
                yield self._remove_row(Kind.NO_VIDEO, clip.video.name, "", clip.id)
            elif not is_locked(clip.video):
                yield from self._row(clip)

    def _row(self, clip: Clip) -> Iterator[Finding]:
        """Compares a row with the files of its clip."""
        assert self.index is not None
        found = clip
        if not (self._is_quick and clip.is_complete):
            facts = self._facts(clip.video)
            if facts is None:
                yield self._set_aside(clip.video)
                yield self._remove_row(Kind.NO_VIDEO, clip.video.name, "", clip.id)
                return
            is_as_long = abs(facts.length_s - clip.length_s) <= _SAME_LENGTH_S
            if not is_as_long or clip.is_complete != facts.is_finished:
                end_utc = clip.end_utc if is_as_long else clip.begin_utc + timedelta(seconds=facts.length_s)
                found = replace(found, end_utc=end_utc, is_complete=facts.is_finished)
                detail = f"{clip.length_s:.1f} s in the index, {facts.length_s:.1f} s long"
                if is_as_long:
                    detail = "it is complete" if facts.is_finished else "it isn't complete"
                yield Finding(Kind.WRONG_LENGTH, clip.video.name, detail, "correct the row", self._mends)
        beside = self._beside(clip.id, clip.video)
        if beside != (clip.snapshot, clip.detections, clip.captions):
            found = _with_beside(found, beside)
            yield Finding(Kind.WRONG_FILES, clip.video.name, "", "correct the row", self._mends)
        if found is not clip and self._mends:
            self.index.put(found)

    def _videos(self) -> Iterator[Finding]:
        """Adds videos without a row, and sets those aside that can't be played."""
        known: set[str] = set()
        if self.index is not None:
            self.index.flush()
            known |= set(self.index.ids())
        for clip_id, present in self._files.items():
            for ending in VIDEO_ENDINGS:
                path = self._folder / f"{clip_id}{ending}"
                if ending not in present or clip_id in known or is_locked(path) or not path.exists():
                    continue
                facts = self._facts(path)
                if facts is None:
                    yield self._set_aside(path)
                    continue
                yield Finding(Kind.NO_ROW, path.name, f"{facts.length_s:.1f} s long", "add a row", self._mends)
                if self.index is not None and self._mends:
                    self.index.put(self._made(present[ending], path, facts))

    def _orphans(self) -> Iterator[Finding]:
        """Deletes pictures without a video, and lines and captions of videos that are known to be gone."""
        for clip_id, present in self._files.items():
            if any((self._folder / f"{clip_id}{ending}").exists() for ending in VIDEO_ENDINGS):
                continue
            for ending in BESIDE:
                path = self._folder / f"{clip_id}{ending}"
                if ending in present and (ending == SNAPSHOT or clip_id in self._gone) and not is_locked(path):
                    yield self._delete(Kind.ORPHAN, path)

    def _made(self, named: ClipName, path: Path, facts: VideoFacts) -> Clip:
        """Returns a row from the files alone."""
        told = read_lines(path.with_suffix(LINES), named.source)
        made = Clip(
            named.id,
            told.source or named.source,
            named.begin_utc,
            named.begin_utc + timedelta(seconds=facts.length_s),
            told.labels,
            told.best_label,
            told.best_score,
            path,
            None,
            None,
            None,
            is_complete=facts.is_finished,
        )
        return _with_beside(made, self._beside(named.id, path))

    def _beside(self, clip_id: str, video: Path) -> tuple[Path | None, ...]:
        present = self._files.get(clip_id, {})
        return tuple(video.with_suffix(ending) if ending in present else None for ending in (SNAPSHOT, LINES, CAPTIONS))

    def _facts(self, path: Path) -> VideoFacts | None:
        try:
            return probe_video(path)
        except OSError as error:
            raise SinkError(f"can't read {path}: {reason(error)}") from error

    def _set_aside(self, path: Path) -> Finding:
        """Gives a video that can't be played a name that is no clip's."""
        aside = path.with_name(path.name + _ASIDE)
        self._gone.add(path.stem)
        detail = f"{path.stat().st_size} bytes"
        if self._mends:
            path.replace(aside)
        return Finding(Kind.UNPLAYABLE, path.name, detail, f"set it aside as {aside.name}", self._mends)

    def _remove_row(self, kind: Kind, name: str, detail: str, clip_id: str | None = None) -> Finding:
        if self._mends and self.index is not None:
            self.index.remove(clip_id or name)
        return Finding(kind, name, detail, "delete the row", self._mends)

    def _delete(self, kind: Kind, path: Path) -> Finding:
        if self._mends:
            path.unlink(missing_ok=True)
        return Finding(kind, path.name, "", "delete it", self._mends)


def mend_at_start(folder: Path) -> ClipIndex:
    """Opens a folder's index for a run, and mends what an earlier run that was killed has left behind.

    Raises:
        SinkError: if that fails.
    """
    check = ClipFolderCheck(folder, mends=True, is_quick=True)
    for finding in check.run():
        if finding.kind is not Kind.NO_INDEX:
            detail = f" ({finding.detail})" if finding.detail else ""
            log.info("%s: %s%s: %s", folder / finding.name, finding.kind.value, detail, finding.mend)
    assert check.index is not None, "what mends makes an index"
    return check.index


def _with_beside(clip: Clip, beside: tuple[Path | None, ...]) -> Clip:
    snapshot, detections, captions = beside
    return replace(clip, snapshot=snapshot, detections=detections, captions=captions)
