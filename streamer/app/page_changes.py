"""What was changed on the live page: kept in a file beside the configuration, and wins over it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from streamer.app.config import StreamConfig
from streamer.app.overrides import SourceOverrides
from streamer.common.atomic_file import atomic_file
from streamer.common.errors import ConfigError, short
from streamer.sources.spec import SourceSpec, name_problem
from streamer.web.api_models import DetectionChanges, Kept, RunSettings, StreamChanges

log = logging.getLogger(__name__)

_OF_RUN = tuple(DetectionChanges.model_fields)


@dataclass(frozen=True)
class PageChanges:
    """Changes of a configuration; `applied_to` makes them.

    Attributes:
        settings: of the run, for every source that has nothing of its own.
        sources: by a source's name: what is changed of it, whether it was added or removed. What there is of a source
            that the configuration doesn't name waits until it does.
    """

    settings: RunSettings = field(default_factory=RunSettings)
    sources: Mapping[str, Kept] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is changed."""
        return not self.settings.kept and not self.sources

    @property
    def summary(self) -> str:
        """What is changed, in words: ``door (conf), new (added), yard (removed)``."""
        said = []
        if self.settings.kept:
            said.append(f"the run ({', '.join(self.settings.kept)})")
        for name, kept in self.sources.items():
            what = ["removed"] if kept.removed else ["added"] * (kept.uri is not None) + list(kept.changes.kept)
            said.append(f"{name} ({', '.join(what)})")
        return ", ".join(said)

    def with_settings(self, settings: RunSettings) -> PageChanges:
        """Returns these with other settings of the run."""
        return replace(self, settings=settings)

    def with_source(self, name: str, kept: Kept | None) -> PageChanges:
        """Returns these with what is changed of a source; None, or nothing, takes that back."""
        others = {other: each for other, each in self.sources.items() if other != name}
        if kept is None or kept == Kept():
            return replace(self, sources=others)
        return replace(self, sources={**others, name: kept})

    def applied_to(self, config: StreamConfig) -> StreamConfig:
        """Returns a configuration with these changes.

        Raises:
            ConfigError: if no source is left, or one can't be parsed.
        """
        sources = {spec.name: spec for spec in config.source}
        overrides = dict(config.overrides)
        for name, kept in self.sources.items():
            if kept.removed:
                sources.pop(name, None)
                overrides.pop(name, None)
                continue
            if kept.uri is not None:
                sources[name] = SourceSpec.parse(kept.uri, name=name)
                overrides.pop(name, None)  # of one that the file names alike
            if name in sources and kept.changes.kept:
                update = _parsed(kept.changes)
                overrides[name] = overrides.get(name, SourceOverrides()).model_copy(update=update)
        if not sources:
            raise ConfigError("the changes of the page leave no source")
        of_run = {key: value for key, value in _parsed(self.settings).items() if key in _OF_RUN}
        return config.model_copy(
            update={**of_run, "source": tuple(sources.values()), "overrides": overrides}
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> PageChanges:
        """Reads the file; nothing is changed where there is none.

        Raises:
            ConfigError: if it can't be read, or isn't what `write` writes.
        """
        from streamer.common.yaml_file import read_mapping

        if not path.exists():
            return cls()
        values = read_mapping(path)
        try:
            sources = {name: _kept(name, entry) for name, entry in (values.pop("source", None) or {}).items()}
            changes = cls(RunSettings.model_validate(values.pop("settings", None) or {}), sources)
        except (ValidationError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"{str(path)!r} is no file of changes of the page: {_said(error)}") from None
        if values:
            raise ConfigError(f"{str(path)!r} has the unknown key {short(next(iter(values)))}")
        return changes

    def write(self, path: Path, of: Path) -> None:
        """Writes the file whole, readable by its owner only, as it may hold passwords; removes it for no change.

        Args:
            path: the file.
            of: the configuration that these are changes of.

        Raises:
            OSError: if it can't be written.
        """
        import yaml

        if self.is_empty:
            path.unlink(missing_ok=True)
            return
        values: dict[str, Any] = {}
        if self.settings.kept:
            values["settings"] = _plain(self.settings)
        if self.sources:
            values["source"] = {name: _entry(kept) for name, kept in self.sources.items()}
        text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
        with atomic_file(path) as partial:
            partial.chmod(0o600)
            head = f"# Changed on the live page; wins over {of.name}. Remove a line, or this file, to take it back."
            partial.write_text(f"{head}\n{text}", encoding="utf-8")


def page_file(config_file: Path) -> Path:
    """Returns where the changes of a configuration are kept: ``fleet.page.yaml`` for ``fleet.yaml``."""
    return config_file.with_name(f"{config_file.stem}.page{config_file.suffix or '.yaml'}")


def kept_changes(config_file: Path | None) -> PageChanges | None:
    """Returns what is kept of a configuration's changes, and says it; None where nothing is changed.

    Raises:
        ConfigError: if the file can't be read.
    """
    if config_file is None:
        return None
    path = page_file(config_file)
    changes = PageChanges.read(path)
    if changes.is_empty:
        return None
    log.info("%s wins over %s: %s", path, config_file.name, changes.summary)
    return changes


def _parsed(changes: DetectionChanges) -> dict[str, Any]:
    """Returns what is changed as fields of `SourceOverrides`; raises ConfigError where a value can't be one."""
    values = changes.kept
    values.pop("language", None)
    if isinstance(changes.conf, dict):
        values["conf"] = {"default" if name == "*" else name: score for name, score in changes.conf.items()}
    try:
        parsed = SourceOverrides.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_said(error)) from None
    return {key: getattr(parsed, key) for key in values}


def _plain(changes: DetectionChanges) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in changes.kept.items()}


def _entry(kept: Kept) -> dict[str, Any]:
    if kept.removed:
        return {"removed": True}
    return {**({} if kept.uri is None else {"uri": kept.uri}), **_plain(kept.changes)}


def _kept(name: object, entry: Any) -> Kept:
    if not isinstance(name, str) or (problem := name_problem(name)) is not None:
        raise ValueError(f"no source can be named {short(name)}" + (f": {problem}" if isinstance(name, str) else ""))
    rest = dict(entry)
    uri, removed = rest.pop("uri", None), rest.pop("removed", False)
    return Kept.model_validate({"uri": uri, "removed": removed, "changes": StreamChanges.model_validate(rest)})


def _said(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error) if type(error) is ValueError else "wanted keys and values"
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"][:1])
    message = found["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message
