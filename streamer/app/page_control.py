"""What the live page may change of a run, and where that is kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.app.added_sources import check_added
from streamer.app.config import StreamConfig
from streamer.app.overrides import SourceOverrides
from streamer.app.page_changes import PageChanges, page_file
from streamer.detector.filter_options import BoxSize, ClassThresholds
from streamer.sinks.files import reason
from streamer.sinks.spec import OutputKind
from streamer.web.api_models import Kept, NewStream, RunSettings, StreamChanges
from streamer.web.control import ConflictError, NotFoundError, NotRunningError, RecordingSeries, RunControl, SourceView
from streamer.web.state_models import Changes, Settings, StreamChange, StreamSettings

if TYPE_CHECKING:
    from streamer.app.config_follower import ConfigFollower
    from streamer.app.reconciler import StreamReconciler
    from streamer.app.stream_factory import StreamFactory
    from streamer.detector.base import EngineInfo
    from streamer.runtime.pipeline import Pipeline

log = logging.getLogger(__name__)

MOST_ADDED = 64
_NOT_DETECTED = "scores or classes below those that the run detects on this device hold after a restart"
_NOT_KEPT = "this holds for the run only: it has no configuration file"


class PageControl(RunControl):
    """See `RunControl`; made before the run begins, and connected to it once it does."""

    def __init__(self, config: StreamConfig, config_file: Path | None) -> None:
        """Knows the configuration, and keeps changes beside its file; None keeps them for the run only."""
        self._config, self._config_file = config, config_file
        self._run: _Running | None = None
        self._lock = threading.Lock()  # of changes, so that the file has the last
        self._series: dict[RecordingSeries, None] = {}
        self._clip_folders: dict[Path, None] = {}

    def attach(
        self, factory: StreamFactory, pipeline: Pipeline, reconciler: StreamReconciler, follower: ConfigFollower,
        engine: EngineInfo,
    ) -> None:  # fmt: skip
        """Connects a run that begins."""
        self._run = _Running(factory, pipeline, reconciler, follower, engine)

    @property
    def pipeline(self) -> Pipeline | None:
        return None if self._run is None else self._run.pipeline

    @property
    def engine(self) -> EngineInfo | None:
        return None if self._run is None else self._run.engine

    @property
    def labels(self) -> Sequence[str]:
        return () if self._run is None else self._run.factory.filters.labels

    def sources(self) -> Mapping[str, SourceView]:
        config, changes = self._now()
        return {spec.name: self._view(config, changes, spec.name, str(spec)) for spec in config.source}

    def unopened(self) -> Mapping[str, str | None]:
        return {} if self._run is None else self._run.reconciler.unopened()

    def settings(self) -> Settings:
        config, changes = self._now()
        plain = SourceOverrides(
            **{key: getattr(config, key) for key in ("conf", "classes", "min_size", "max_size", "top_k")},
            max_fps=config.max_fps,
            detect_every=config.detect_every,
            overlay=config.overlay,
        )
        shown = _settings(plain).model_dump(exclude={"priority"})
        own = changes.settings
        return Settings(
            **shown, language=own.language, changed=own.kept, kept_in=self._kept_in, notices=self._kept_notice
        )

    def changes(self) -> Changes:
        changes = self._now()[1]
        streams = {
            name: StreamChange(
                is_added=kept.uri is not None, is_removed=kept.removed, changed=dict(kept.changes.kept)
            )
            for name, kept in changes.sources.items()
        }  # fmt: skip
        return Changes(settings=changes.settings.kept, streams=streams, kept_in=self._kept_in)

    def recordings(self) -> Sequence[RecordingSeries]:
        config, _ = self._now()
        shared = config.output if self._run is None else self._run.factory.outputs
        for spec in config.source:
            own = config.overrides_for(spec.name)
            for output in (*(own.record or ()), *(own.output or shared)):
                if output.kind is OutputKind.VIDEO:
                    is_shared = own.output is None and output in shared and not output.is_per_source
                    source = None if is_shared and len(config.source) > 1 else spec.name
                    self._series[RecordingSeries(source, output.path_for(spec.name))] = None
        return tuple(self._series)

    def clip_folders(self) -> Sequence[Path]:
        config, _ = self._now()
        for spec in config.source:
            folder = config.overrides_for(spec.name).clips
            if folder is not None:
                self._clip_folders[folder] = None
        return tuple(self._clip_folders)

    def add(self, stream: NewStream) -> tuple[str, ...]:
        def edit(changes: PageChanges, base: StreamConfig) -> PageChanges:
            names = {spec.name for spec in changes.applied_to(base).source}
            if stream.name in names:
                raise ConflictError(f"there is a stream named {stream.name!r} already: choose another name")
            if sum(kept.uri is not None for kept in changes.sources.values()) >= MOST_ADDED:
                raise ConflictError(
                    f"at most {MOST_ADDED} streams can be added here: write more into the configuration"
                )
            check_added(stream.name, stream.uri, self._config.web_folder)
            changed = StreamChanges(**stream.model_dump(include=set(StreamChanges.model_fields)))
            return changes.with_source(stream.name, Kept(uri=stream.uri, changes=changed))

        return self._change(edit, stream.name)

    def change(self, name: str, changes: StreamChanges) -> tuple[str, ...]:
        def edit(before: PageChanges, base: StreamConfig) -> PageChanges:
            kept = _kept_of(before, base, name)
            return before.with_source(name, kept.model_copy(update={"changes": kept.changes.changed(changes)}))

        return self._change(edit, name)

    def remove(self, name: str) -> tuple[str, ...]:
        def edit(changes: PageChanges, base: StreamConfig) -> PageChanges:
            _kept_of(changes, base, name)
            if len(changes.applied_to(base).source) == 1:
                raise ConflictError("that is the last stream: without one the run would end")
            is_of_file = any(spec.name == name for spec in base.source)
            return changes.with_source(name, Kept(removed=True) if is_of_file else None)

        return self._change(edit)

    def change_settings(self, settings: RunSettings) -> tuple[str, ...]:
        return self._change(lambda changes, _: changes.with_settings(changes.settings.changed(settings)))

    def take_back(self, name: str | None = None) -> tuple[str, ...]:
        def edit(changes: PageChanges, base: StreamConfig) -> PageChanges:
            if name is None:
                return PageChanges()
            kept = changes.sources.get(name)
            if kept is None:
                _kept_of(changes, base, name)
                return changes
            return changes.with_source(name, None if kept.uri is None else Kept(uri=kept.uri))

        return self._change(edit)

    def _change(
        self, edit: Callable[[PageChanges, StreamConfig], PageChanges], name: str | None = None
    ) -> tuple[str, ...]:
        """Applies an edit and keeps it; returns what doesn't hold, for the source `name` or for all."""
        if self._run is None:
            raise NotRunningError("the run hasn't begun yet: try again")
        with self._lock:
            changes = self._run.follower.change(lambda before, base: edit(before or PageChanges(), base))
            notices = list(self._kept_notice)
            if self._config_file is not None:
                try:
                    changes.write(page_file(self._config_file), self._config_file)
                except OSError as error:
                    log.warning("what was changed on the page holds for this run only: %s", reason(error))
                    notices = [f"this holds for the run only: {reason(error)}"]
        views = self.sources()
        of_streams = {
            notice for view_name, view in views.items() if name in (None, view_name) for notice in view.notices
        }
        return (*notices, *sorted(of_streams))

    def _now(self) -> tuple[StreamConfig, PageChanges]:
        if self._run is None:
            return self._config, PageChanges()
        return self._run.reconciler.config, self._run.follower.changes or PageChanges()

    def _view(self, config: StreamConfig, changes: PageChanges, name: str, uri: str) -> SourceView:
        overrides, kept = config.overrides_for(name), changes.sources.get(name, Kept())
        is_found = self._run is None or self._run.factory.filters.finds(overrides.filter_options)
        return SourceView(
            uri, _settings(overrides), kept.changes.kept, kept.uri is not None, () if is_found else (_NOT_DETECTED,)
        )

    @property
    def _kept_in(self) -> str | None:
        return None if self._config_file is None else page_file(self._config_file).name

    @property
    def _kept_notice(self) -> tuple[str, ...]:
        return () if self._config_file is not None else (_NOT_KEPT,)


class _Running:
    """The parts of a run that has begun."""

    def __init__(
        self, factory: StreamFactory, pipeline: Pipeline, reconciler: StreamReconciler, follower: ConfigFollower,
        engine: EngineInfo,
    ) -> None:  # fmt: skip
        self.factory, self.pipeline, self.reconciler, self.follower = factory, pipeline, reconciler, follower
        self.engine = engine


def _kept_of(changes: PageChanges, base: StreamConfig, name: str) -> Kept:
    """Returns what is changed of a source that there is; raises NotFoundError where there is none."""
    kept = changes.sources.get(name, Kept())
    is_there = kept.uri is not None or any(spec.name == name for spec in base.source)
    if kept.removed or not is_there:
        raise NotFoundError("there is no stream of that name")
    return kept


def _settings(overrides: SourceOverrides) -> StreamSettings:
    """Returns settings in the form in which the page takes them."""
    options: Any = overrides.filter_options
    return StreamSettings(
        conf=_conf(options.conf),
        classes=options.classes,
        min_size=_size(options.min_size),
        max_size=_size(options.max_size),
        top_k=options.top_k,
        max_fps=overrides.max_fps,
        detect_every=overrides.detect_every or 1,
        overlay=overrides.overlay,
        priority=overrides.priority,
    )


def _conf(conf: ClassThresholds) -> float | dict[str, float]:
    return {**dict(conf.by_class), "*": conf.default} if conf.by_class else conf.default


def _size(size: BoxSize | None) -> str | None:
    return None if size is None else f"{size.width:g}x{size.height:g}"
