"""The clips of one source while they are written: their names, their rows and their pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sinks.clips.clip import BESIDE, CAPTIONS, LINES, SNAPSHOT, VIDEO_ENDINGS, Clip, parse_name
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.snapshot import Snapshot
from streamer.sinks.files import safe_name
from streamer.sinks.paths import Claim
from streamer.sinks.segmented import Series
from streamer.sinks.video.packet_file import PacketFile, can_hold
from streamer.sources.base import SourceInfo

log = logging.getLogger(__name__)

_SAVE_EVERY_S: Final = 2.0


@dataclass(eq=False)
class OpenClip:
    """A clip that is being written.

    Attributes:
        file: its video.
        begin_utc: when the video begins.
        labels: classes of its events so far.
        best_label: class of the best score so far.
        best_score: that score.
        has_snapshot: whether its picture has been written.
    """

    file: PacketFile
    begin_utc: datetime
    labels: list[str] = field(default_factory=list)
    best_label: str | None = None
    best_score: float | None = None
    has_snapshot: bool = False
    _saved: tuple[tuple[str, ...], bool] | None = None
    _saved_at_s: float = 0.0

    @property
    def path(self) -> Path:
        """The video."""
        return self.file.path

    @property
    def start_s(self) -> float:
        """Time zero of the video, as `Frame.pts_s`."""
        return self.file.start_s

    @property
    def beside(self) -> tuple[Path, Path]:
        """Paths of the lines and captions."""
        return self.path.with_suffix(LINES), self.path.with_suffix(CAPTIONS)

    def note(self, label: str, score: float) -> None:
        """Takes a label of its events, and a score."""
        if label not in self.labels:
            self.labels.append(label)
        if score > (self.best_score or 0.0):
            self.best_label, self.best_score = label, score

    def is_to_be_saved(self) -> bool:
        """Whether its row is to be written now: at first, with new labels or a picture, and every two seconds."""
        state = tuple(self.labels), self.has_snapshot
        if self._saved == state and self.file.length_s < self._saved_at_s + _SAVE_EVERY_S:
            return False
        self._saved, self._saved_at_s = state, self.file.length_s
        return True

    def row(self, source: str) -> Clip:
        """Returns it as the index has it, as it is now."""
        lines, captions = self.beside
        return Clip(
            self.path.stem,
            source,
            self.begin_utc,
            self.begin_utc + timedelta(seconds=self.file.length_s),
            tuple(self.labels),
            self.best_label,
            self.best_score,
            self.path,
            self.path.with_suffix(SNAPSHOT) if self.has_snapshot else None,
            lines if lines.exists() else None,
            captions if captions.exists() else None,
            is_complete=self.file.is_finished,
        )


class ClipFiles:
    """Names, makes and registers the clips of one source.

    Attributes:
        count: of clips that were begun and kept.
    """

    def __init__(self, folder: ClipFolder, source: SourceInfo) -> None:
        """Claims the source's names in the folder; raises ConfigError or SinkError as `OutputPaths.claim_series`."""
        self._folder, self._source = folder, source
        self._claims: list[Claim] = []
        self._series: dict[str, Series] = {}
        self._open: dict[PacketFile, OpenClip] = {}
        self.count = 0
        self._series_of(VIDEO_ENDINGS[0])

    def begin(self, begun: datetime, key: MediaPacket, sound: Sequence[MediaPacket]) -> OpenClip:
        """Makes the next clip.

        Args:
            begun: when its key frame was captured, aware.
            key: the key frame that it begins with.
            sound: first packets of its sound.

        Raises:
            SinkError: if it can't be written.
        """
        series = self._series_of(_ending_for(key.format))
        file = series.begin(begun, lambda path: PacketFile(path, key, sound, replace=False))
        named = parse_name(file.path.name)
        assert named is not None, "a segment's name says when it begins"
        clip = OpenClip(file, named.begin_utc)
        self._open[file] = clip
        self.count += 1
        return clip

    def save(self, clip: OpenClip, snapshot: Snapshot) -> None:
        """Writes a clip's picture, if there is a better one, and its row, if it is time.

        Raises:
            SinkError: if the picture can't be written.
        """
        if not clip.file.is_playable or clip.file not in self._open:
            return
        try:
            clip.has_snapshot |= snapshot.write(clip.path.with_suffix(SNAPSHOT))
        finally:
            if clip.is_to_be_saved():
                self._folder.index.put(clip.row(self._source.name))

    def finish(self, file: PacketFile) -> None:
        """Writes the last state of the row of a file that is closed."""
        clip = self._open.pop(file, None)
        if clip is None:
            return
        if not self._open:
            for series in self._series.values():
                series.end()
        if file.is_kept:
            self._folder.index.put(clip.row(self._source.name))

    def discard(self, clip: OpenClip) -> None:
        """Forgets the newest clip, which is gone."""
        if self._open.pop(clip.file, None) is not None:
            self._series[clip.path.suffix].discard()
            self._folder.index.remove(clip.path.stem)
            self.count -= 1

    def close(self) -> None:
        """Releases the names."""
        for series in self._series.values():
            series.close()
        for claim in self._claims:
            claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The videos, or a pattern for many."""
        return tuple(path for series in self._series.values() for path in series.written)

    def _series_of(self, ending: str) -> Series:
        if ending not in self._series:
            path = self._folder.path / f"{safe_name(self._source.name)}{ending}"
            claim = self._folder.paths.claim_series(path)
            self._claims.append(claim)
            self._series[ending] = Series(claim.path, self._folder.retention, beside=BESIDE, rises=False)
        return self._series[ending]


def _ending_for(pictures: PacketFormat) -> str:
    return next((ending for ending in VIDEO_ENDINGS if can_hold(ending, pictures)), VIDEO_ENDINGS[-1])
