"""What the page may know of a run, and change of it; `streamer.app.page_control` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamer.common.errors import StreamerError
from streamer.detector.base import EngineInfo
from streamer.runtime.pipeline import Pipeline
from streamer.web.api_models import NewStream, RunSettings, StreamChanges
from streamer.web.state_models import Changes, Settings, StreamSettings


class NotFoundError(StreamerError):
    """There is no stream of that name."""


class ConflictError(StreamerError):
    """The run is in no state for that."""


class NotRunningError(StreamerError):
    """The run hasn't begun yet, or has no more streams to change."""


@dataclass(frozen=True)
class SourceView:
    """What is configured of one source.

    Attributes:
        uri: redacted.
        settings: in force.
        changed: on the page.
        is_added: on the page.
        notices: what of `changed` doesn't hold.
    """

    uri: str
    settings: StreamSettings
    changed: Mapping[str, object]
    is_added: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordingSeries:
    """What recordings of a source are named after.

    Attributes:
        source: its name; None where several sources are in one video.
        path: of the recording, or of the series of segments.
    """

    source: str | None
    path: Path


class RunControl(Protocol):
    """A run. Any thread may ask; changes are made one after the other.

    Methods that change raise `ConfigError` for what can't be, `NotFoundError`, `ConflictError` and `NotRunningError`;
    nothing is changed then. They return what doesn't hold of the change, for people.
    """

    @property
    def pipeline(self) -> Pipeline | None:
        """What runs; None before it begins."""

    @property
    def engine(self) -> EngineInfo | None:
        """What detects; None before the run begins."""

    @property
    def labels(self) -> Sequence[str]:
        """Class names by class id; none before the run begins."""

    def sources(self) -> Mapping[str, SourceView]:
        """Returns the sources that are wanted now, by name."""

    def unopened(self) -> Mapping[str, str | None]:
        """Returns those that have no stream: why not, None while they are opened."""

    def settings(self) -> Settings:
        """Returns what holds for the run."""

    def changes(self) -> Changes:
        """Returns what was changed."""

    def recordings(self) -> Sequence[RecordingSeries]:
        """Returns what the run's recordings are named after, those of removed sources included."""

    def clip_folders(self) -> Sequence[Path]:
        """Returns the folders of the run's clips, those of removed sources included."""

    def add(self, stream: NewStream) -> tuple[str, ...]:
        """Adds a stream; it opens in the background."""

    def change(self, name: str, changes: StreamChanges) -> tuple[str, ...]:
        """Changes a stream; of `changes` the keys that were given count, and a null takes a change back."""

    def remove(self, name: str) -> tuple[str, ...]:
        """Removes a stream."""

    def change_settings(self, settings: RunSettings) -> tuple[str, ...]:
        """Changes what holds for the run, as `change`."""

    def take_back(self, name: str | None = None) -> tuple[str, ...]:
        """Takes back what was changed of a source, a removal too; None takes all changes back, added sources too."""
