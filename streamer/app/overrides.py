"""What a configuration says of one source, and values that may be one or a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import (
    Field,
    InstanceOf,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from streamer.app.clip_options import ClipOverrides
from streamer.app.options import FrozenModel
from streamer.common.clock_zone import ClockZone
from streamer.common.errors import short
from streamer.common.queues import OverflowPolicy
from streamer.detector.filter_options import (
    FILTER_PARSERS,
    BoxSize,
    ClassThresholds,
    FilterOptions,
    MaskPicture,
    Polygon,
    filter_options,
)
from streamer.sinks.options import parse_encoder, parse_quality
from streamer.sinks.spec import RECORD_ENDINGS, OutputKind, OutputSpec
from streamer.sources.spec import SourceKind, SourceSpec
from streamer.tracking.options import TrackChoice

S = TypeVar("S", SourceSpec, OutputSpec)


OFF = (False, "off", "no", "Off", "OFF")
SWITCHES = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def parsed_detect_every(value: object) -> object:
    """Returns 0 for ``off``, and anything else as it is."""
    return 0 if isinstance(value, str) and value.lower() == "off" else value


def _switch(value: object) -> bool:
    switched = SWITCHES.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(switched, bool):
        raise ValueError("wanted yes or no")
    return switched


RECORDING_PARSERS: Mapping[str, Callable[[object], object]] = {
    "quality": lambda value: parse_quality(str(value)),
    "encoder": lambda value: parse_encoder(str(value)),
    "audio": _switch,
    "timestamp": lambda value: value if value is None or isinstance(value, ClockZone) else ClockZone.parse(str(value)),
}


if TYPE_CHECKING:
    Conf = float | ClassThresholds
else:
    Conf = Annotated[float, Field(ge=0, le=1)]  # `FilterChecks` lets thresholds by class pass
ALL_CLASSES = "*"
"""In place of a label, where the run reports some classes only and a source all."""
FILTER_KEYS = ("conf", "classes", "min_size", "max_size", "ignore", "ignore_at", "top_k")


class FilterChecks(FrozenModel):
    """Parses and checks the keys of `FILTER_KEYS`, of a run and of a source."""

    @field_validator("conf", mode="wrap", check_fields=False)
    @classmethod
    def _conf(cls, value: object, as_number: ValidatorFunctionWrapHandler) -> object:
        if isinstance(value, (Mapping, ClassThresholds)):
            return ClassThresholds.parse(value)
        if isinstance(value, str) and ("=" in value or "," in value):
            return ClassThresholds.parse(value)
        return as_number(value)

    @field_validator("min_size", "max_size", "ignore", mode="before", check_fields=False)
    @classmethod
    def _filter(cls, value: object, info: ValidationInfo) -> object:
        return value if value is None else FILTER_PARSERS[info.field_name or ""](value)

    @field_validator("classes", mode="before", check_fields=False)
    @classmethod
    def _classes(cls, value: object) -> object:
        return listed(value)

    @field_validator("classes", check_fields=False)
    @classmethod
    def _some_class(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not any(label.strip() for label in value):
            raise ValueError("wanted at least one label, such as person; leave it out to detect all")
        return value


class SourceOverrides(FilterChecks, ClipOverrides):
    """Per-source overrides; None takes the run's value.

    Attributes:
        max_fps: frames per second to take at most, by the source's own time.
        detect_every: run the detector on every Nth frame, on none for 0; the others reuse its boxes.
        detect: the camera's stream that is detected on in place of its own, which then is only recorded, shown and
            clipped. ``off`` is read as `detect_every` 0.
        priority: under overload, sources of higher priority are served first.
        policy: ``auto``, ``every-frame`` or ``freshest``.
        output: outputs in place of the run's.
        record: recordings of its own packets in place of the run's.
        quality: of its videos, 1 to 100.
        encoder: of its videos, as `parse_encoder` returns it.
        audio: whether its sound is recorded.
        overlay: whether live figures are drawn on its recordings too, or nowhere.
        timestamp: the time zone of the clock that is drawn on it.
        track: which tracker gives its objects ids, or ``off``.
        conf, classes, min_size, max_size, ignore, ignore_at, top_k: which detections are reported, see `FilterOptions`.
    """

    max_fps: Annotated[float, Field(gt=0)] | None = None
    detect_every: Annotated[int, Field(ge=0)] | None = None
    detect: InstanceOf[SourceSpec] | None = None
    priority: int = 0
    policy: Literal["auto", "every-frame", "freshest"] | None = None
    output: tuple[InstanceOf[OutputSpec], ...] | None = None
    record: tuple[InstanceOf[OutputSpec], ...] | None = None
    quality: int | None = None
    encoder: str | None = None
    audio: bool | None = None
    overlay: bool | None = None
    timestamp: InstanceOf[ClockZone] | None = None
    track: TrackChoice | None = None
    conf: Conf | None = None
    classes: tuple[str, ...] | None = None
    min_size: InstanceOf[BoxSize] | None = None
    max_size: InstanceOf[BoxSize] | None = None
    ignore: tuple[InstanceOf[Polygon] | InstanceOf[MaskPicture], ...] | None = None
    ignore_at: Literal["bottom", "centre"] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None

    @property
    def filter_options(self) -> FilterOptions:
        """Which detections are reported."""
        wanted = {key: getattr(self, key) for key in FILTER_KEYS}
        if ALL_CLASSES in (self.classes or ()):
            wanted["classes"] = None
        return filter_options(**wanted)

    @property
    def overflow_policy(self) -> OverflowPolicy | None:
        """What happens to frames that detection has no time for; None depends on whether the source is live."""
        return None if self.policy in (None, "auto") else OverflowPolicy(self.policy)

    @model_validator(mode="before")
    @classmethod
    def _detects_nothing(cls, values: object) -> object:
        if not isinstance(values, Mapping) or values.get("detect") not in OFF:
            return values
        return {**{key: value for key, value in values.items() if key != "detect"}, "detect_every": 0}

    @field_validator("detect", mode="before")
    @classmethod
    def _detected_stream(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        spec = SourceSpec.parse_configured(without_zero(value), name="detect")
        if spec.kind is not SourceKind.STREAM:
            raise ValueError("wanted off, or the URL of the camera's stream to detect on, as in rtsp://camera/sub")
        return spec

    @field_validator("detect_every", mode="before")
    @classmethod
    def _every(cls, value: object) -> object:
        return parsed_detect_every(value)

    @field_validator("output", mode="before")
    @classmethod
    def _outputs(cls, value: object) -> object:
        return value if value is None else parsed_outputs(value)

    @field_validator("record", mode="before")
    @classmethod
    def _records(cls, value: object) -> object:
        return value if value is None else parsed_records(value)

    @field_validator("quality", "encoder", "audio", "timestamp", mode="before")
    @classmethod
    def _recording(cls, value: object, info: ValidationInfo) -> object:
        return value if value is None else RECORDING_PARSERS[info.field_name or ""](value)


def parsed_outputs(value: object) -> tuple[OutputSpec, ...]:
    """Parses one output or a list of them; raises ValueError where one is no text, ConfigError where it is wrong."""
    return parsed_each(value, OutputSpec, OutputSpec.parse, "wanted an output such as out.mp4")


def parsed_records(value: object) -> tuple[OutputSpec, ...]:
    """Parses one recording or a list of them; raises ValueError where one is no text or no video that can be one."""
    specs = parsed_outputs(value)
    for spec in specs:
        if spec.kind is not OutputKind.VIDEO or not spec.template.lower().endswith(RECORD_ENDINGS):
            raise ValueError(f"wanted a file ending in {', '.join(RECORD_ENDINGS)}, got {short(str(spec))}")
    return specs


def parsed_each(value: object, kind: type[S], parse: Callable[[str], S], wanted: str) -> tuple[S, ...]:
    """Parses one value or a list of them; raises ValueError, which says `wanted`, where one has another type."""
    value = listed(value)
    if not isinstance(value, tuple):
        raise ValueError("wanted one value or a list")
    if not all(isinstance(item, (str, kind)) for item in value):
        raise ValueError(wanted)
    return tuple(parse(without_zero(item)) if isinstance(item, str) else item for item in value)


def without_zero(text: str) -> str:
    """Returns a text that can be a name; raises ValueError for one with a zero byte."""
    if "\0" in text:
        raise ValueError("a name can't contain a zero byte")
    return text


def listed(value: object) -> object:
    """Accepts one value in place of a list, and a bare number for a camera."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, (list, tuple)):
        return tuple(str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
    return value
