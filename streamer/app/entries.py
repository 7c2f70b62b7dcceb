"""The sources that a configuration names, compared from one reading of it to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamer.app.config import StreamConfig
from streamer.app.overrides import FILTER_KEYS, SourceOverrides
from streamer.sources.spec import SourceSpec

_IN_PLACE = ("priority", "max_fps", "detect_every", "overlay", *FILTER_KEYS)


@dataclass(frozen=True)
class Entry:
    """A source as the configuration has it."""

    spec: SourceSpec
    overrides: SourceOverrides

    @property
    def in_place(self) -> dict[str, Any]:
        """The fields of `StreamSpec` that change without a restart."""
        own = self.overrides
        return {
            "priority": own.priority,
            "max_fps": own.max_fps,
            "detect_every": 1 if own.detect_every is None else own.detect_every,
            "overlay": own.overlay,
        }

    def needs_restart(self, other: Entry) -> bool:
        """Whether the change to `other` needs a restart of the stream, as one does that begins or ends detecting."""
        if bool(self.in_place["detect_every"]) != bool(other.in_place["detect_every"]):
            return True
        return self.spec != other.spec or any(
            getattr(self.overrides, key) != getattr(other.overrides, key)
            for key in SourceOverrides.model_fields
            if key not in _IN_PLACE
        )


def entries_of(config: StreamConfig) -> dict[str, Entry]:
    """Returns each source of a configuration by its name."""
    return {spec.name: Entry(spec, config.overrides_for(spec.name)) for spec in config.source}
