"""Whether outputs suit the sources that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.errors import ConfigError
from streamer.sinks.spec import OutputKind, OutputSpec

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.sources.base import SourceInfo


def check_records(config: StreamConfig) -> None:
    """Raises ConfigError if several sources would be recorded into one file, or one that has nothing to record."""
    for spec in config.source:
        if spec.kind.is_pictures and config.overrides_for(spec.name).record:
            raise ConfigError(
                f"source {spec.name!r} is pictures, which have no packets to record: use --output out.mp4"
            )
    for output in config.record:
        if len(config.source) > 1 and not output.is_per_source:
            template = Path(output.template)
            raise ConfigError(
                f"several sources can't be recorded into {output.template!r}: name it after them, as in"
                f" {str(template.with_name('{source}' + template.suffix))!r}"
            )


def check_one_picture(outputs: Sequence[OutputSpec], info: SourceInfo) -> None:
    """Raises ConfigError if an output of one picture is for a source that gives more."""
    is_gif = info.path is not None and info.path.suffix.lower() == ".gif"  # may be one picture
    is_one = info.frame_count == 1 or (info.frame_count is None and is_gif)
    for output in outputs:
        if output.kind is OutputKind.PICTURE and not is_one:
            raise ConfigError(
                f"the output {str(output)!r} holds one picture, and the source {info.name!r} gives more: use folder/"
                " for one a frame, or --max-frames 1 for the first"
            )
