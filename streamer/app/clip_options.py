"""The options of clips on events, of a run and of a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationInfo, field_validator

from streamer.app.options import FrozenModel, option
from streamer.common.errors import short
from streamer.common.units import parse_seconds
from streamer.detector.filter_options import ClassThresholds

CLIP_KEYS: Final = ("clips", "clip_on", "clip_frames", "clip_before", "clip_after", "clip_max", "clip_overlay")
"""Keys of `ClipOptions`, each of which a source may have of its own."""

_GROUP = "clips"
_WANTED = "wanted labels, each with its lowest score or without, as in person=0.6,car"

ClipOn = tuple[tuple[str, float], ...]
Length = Annotated[float, Field(ge=0, le=600)]


def _length(value: object) -> object:
    if isinstance(value, str):
        return 0.0 if value.strip() in ("0", "0s") else parse_seconds(value)
    return value


def parse_clip_on(value: object) -> ClipOn | None:
    """Parses ``person=0.6,car``, a list of such, or a mapping of labels to scores; without a score any will do.

    Raises:
        ValueError: if it is none of these, or names a label twice.

    Example:
        >>> parse_clip_on("person=0.6,car")
        (('person', 0.6), ('car', 0.0))
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [name if score is None else f"{name}={score}" for name, score in value.items()]
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(_WANTED)
    if value and all(isinstance(each, (list, tuple)) and len(each) == 2 for each in value):  # parsed before
        return tuple((name, score) for name, score in value)
    if not all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in value):
        raise ValueError(_WANTED)
    found: dict[str, float] = {}
    for part in ",".join(map(str, value)).split(","):
        name, equals, _ = part.strip().rpartition("=")
        scores = dict(ClassThresholds.parse(part.strip()).by_class) if equals else {part.strip(): 0.0}
        name = next(iter(scores))
        if not name or name in found:
            raise ValueError(f"class {short(name)} is named twice" if name else _WANTED)
        found |= scores
    return tuple(found.items())


_PARSERS: Mapping[str, Callable[[Any], object]] = {
    "clip_on": parse_clip_on,
    "clip_before": _length,
    "clip_after": _length,
    "clip_max": _length,
}


class ClipChecks(FrozenModel):
    """Parses the keys of `CLIP_KEYS`, of a run and of a source."""

    @field_validator(*_PARSERS, mode="before", check_fields=False)
    @classmethod
    def _clip(cls, value: object, info: ValidationInfo) -> object:
        return value if value is None else _PARSERS[info.field_name or ""](value)

    @field_validator("clips", check_fields=False)
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and (value.is_file() or "\0" in str(value)):
            raise ValueError("wanted a folder")
        return None if value is None else value.expanduser()


class ClipOptions(ClipChecks):
    """When clips are made, and how long they are; `option` says what each means."""

    clips: Path | None = option(
        None,
        _GROUP,
        "write a clip of each event into this folder: the source's own packets from before it to after it, with a"
        " picture, what was detected, and an index",
        metavar="FOLDER",
    )
    clip_on: ClipOn | None = option(
        None,
        _GROUP,
        "labels that are an event, with their lowest scores, as in person=0.6,car (default: all that are reported)",
        metavar="LABEL=SCORE,...",
        is_text=True,
    )
    clip_frames: Annotated[int, Field(ge=1, le=1000)] = option(
        3, _GROUP, "detected frames with a label that begin an event; single ones may lack it", metavar="N"
    )
    clip_before: Length = option(
        5.0, _GROUP, "begin this long before the event (default: 5s)", metavar="TIME", is_text=True
    )
    clip_after: Length = option(
        5.0, _GROUP, "end this long after the event (default: 5s)", metavar="TIME", is_text=True
    )
    clip_max: Annotated[float, Field(ge=1)] = option(
        300.0,
        _GROUP,
        "length from which on the next key frame begins another clip (default: 5m)",
        metavar="TIME",
        is_text=True,
    )
    clip_overlay: bool = option(False, _GROUP, "encode clips with boxes, instead of keeping the source's packets")


class ClipOverrides(ClipChecks):
    """`ClipOptions` of one source; None takes the run's value."""

    clips: Path | None = None
    clip_on: ClipOn | None = None
    clip_frames: Annotated[int, Field(ge=1, le=1000)] | None = None
    clip_before: Length | None = None
    clip_after: Length | None = None
    clip_max: Annotated[float, Field(ge=1)] | None = None
    clip_overlay: bool | None = None
