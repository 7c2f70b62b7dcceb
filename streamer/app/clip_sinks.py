"""Clips on events, as a configuration asks for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, SinkError
from streamer.sinks.clips.timing import ClipTiming
from streamer.sinks.files import same_file
from streamer.sinks.options import SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sources.spec import SourceKind, SourceSpec

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.app.overrides import SourceOverrides
    from streamer.sinks.base import Sink
    from streamer.sinks.clips.folder import ClipFolder
    from streamer.sources.base import SourceInfo

log = logging.getLogger(__name__)


def kept_for_clips_s(overrides: SourceOverrides, spec: SourceSpec) -> float:
    """Returns how many seconds of a source's packets its clips need; none where pictures are encoded for them."""
    if overrides.clips is None or spec.kind.is_pictures:
        return 0.0
    if overrides.clip_overlay and spec.kind is SourceKind.CAMERA:
        return 0.0
    return timing_of(overrides).kept_s(live=spec.kind.is_live)


def timing_of(overrides: SourceOverrides) -> ClipTiming:
    """Returns how long a source's clips are."""
    before_s, after_s, max_s = overrides.clip_before, overrides.clip_after, overrides.clip_max
    assert before_s is not None and after_s is not None and max_s is not None, "those of the run, if no others"
    return ClipTiming(before_s, after_s, max_s)


def check_clips(config: StreamConfig, names: Sequence[str]) -> None:
    """Checks clips of sources before any output is opened.

    Raises:
        ConfigError: if options of clips are given without a folder, for a source of pictures, or the folder is also one
            for pictures.
    """
    kinds = {spec.name: spec.kind for spec in config.source}
    folders: dict[str, Path] = {}
    for name in names:
        overrides = config.overrides_for(name)
        if overrides.clips is None:
            continue
        if name in kinds and kinds[name].is_pictures:
            raise ConfigError(f"clips can't be made of {name!r}, which is pictures: name a video, a camera or a stream")
        if overrides.detect_every == 0:
            raise ConfigError(f"clips need detections, and nothing is detected of {name!r}: leave out --detect-every 0")
        folders[name] = overrides.clips
        for output in overrides.output or config.output:
            if output.is_folder and same_file(output.path_for(name), overrides.clips):
                raise ConfigError(f"the folder of clips {str(overrides.clips)!r} is also an output; choose another")
    if folders:
        return
    own = [overrides.model_fields_set for overrides in config.overrides.values()]
    given = {key for keys in (config.model_fields_set, *own) for key in keys if key.startswith("clip_")}
    if given:
        raise ConfigError(f"{min(given)} needs a folder for clips: add --clips clips")


class ClipFolders(Closeable):
    """The folders that a run writes clips into, each opened once."""

    def __init__(self, paths: OutputPaths) -> None:
        """Opens nothing yet; `paths` are those of the run."""
        self._paths = paths
        self._folders: list[ClipFolder] = []

    def open_sink(
        self, overrides: SourceOverrides, source: SourceInfo, labels: Sequence[str], options: SinkOptions
    ) -> Sink:
        """Opens what writes a source's clips, and the folder, if that isn't open.

        Raises:
            ConfigError: if another run writes clips there, or a label is unknown.
            SinkError: if the folder can't be written.
        """
        from streamer.sinks.clips.sink import ClipSink
        from streamer.sinks.clips.trigger import LabelTrigger, checked_labels

        assert overrides.clips is not None and overrides.clip_frames is not None
        scores: Mapping[str, float] | None = None
        if overrides.clip_on is not None:
            scores = checked_labels(dict(overrides.clip_on), labels)
        return ClipSink(
            self._folder(overrides.clips, options),
            source,
            labels=labels,
            trigger=LabelTrigger(labels, scores, overrides.clip_frames),
            timing=timing_of(overrides),
            overlay=bool(overrides.clip_overlay),
            options=options,
        )

    def close(self) -> None:
        """Closes the folders; what fails is logged."""
        for folder in self._folders:
            try:
                folder.close()
            except SinkError as error:
                log.warning("%s", error)
        self._folders.clear()

    def _folder(self, path: Path, options: SinkOptions) -> ClipFolder:
        from streamer.sinks.clips.folder import ClipFolder

        for folder in self._folders:
            if same_file(folder.path, path):
                return folder
        opened = ClipFolder(path, retention=self._paths.retention(options.retain), paths=self._paths)
        self._folders.append(opened)
        return opened
