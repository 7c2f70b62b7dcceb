"""The configuration of a run: one frozen value from a YAML file, the command line, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AliasChoices, Field, InstanceOf, ValidationError, ValidationInfo, field_validator, model_validator

from streamer.app.options import FrozenModel, option, value_shown
from streamer.common.errors import ConfigError, nearest, one_line, short
from streamer.common.queues import OverflowPolicy
from streamer.common.redaction import redact
from streamer.common.units import parse_seconds
from streamer.common.yaml_file import read_mapping
from streamer.detector import DEFAULT_MODEL, MAX_DEPTH
from streamer.sinks.options import DEFAULT_QUALITY, QUALITIES, Retention, parse_quality
from streamer.sinks.spec import OutputSpec
from streamer.sources.options import MAX_PIXELS
from streamer.sources.spec import SourceSpec, name_problem

_SWITCHES = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
S = TypeVar("S", SourceSpec, OutputSpec)
Unit = Annotated[float, Field(ge=0, le=1)]


class SourceOverrides(FrozenModel):
    """Per-source overrides; None takes the run's value.

    Attributes:
        max_fps: frames per second to take at most, by the source's own time.
        detect_every: run the detector on every Nth frame; the others reuse its boxes.
        priority: under overload, sources of higher priority are served first.
        policy: ``auto``, ``every-frame`` or ``freshest``.
        output: outputs in place of the run's.
    """

    max_fps: Annotated[float, Field(gt=0)] | None = None
    detect_every: Annotated[int, Field(ge=1)] | None = None
    priority: int = 0
    policy: Literal["auto", "every-frame", "freshest"] | None = None
    output: tuple[InstanceOf[OutputSpec], ...] | None = None

    @property
    def overflow_policy(self) -> OverflowPolicy | None:
        """What happens to frames that detection has no time for; None depends on whether the source is live."""
        return None if self.policy in (None, "auto") else OverflowPolicy(self.policy)

    @field_validator("output", mode="before")
    @classmethod
    def _outputs(cls, value: object) -> object:
        return value if value is None else _parsed_outputs(value)


class StreamConfig(FrozenModel):
    """A run. Keys are the long options of the command line with ``_`` for ``-``; `option` says what each means.

    Attributes:
        source: sources; a string is ``URI`` or ``name=URI``. A mapping of names to URIs is accepted too, and one of
            names to mappings with a ``uri`` and the keys of `SourceOverrides`.
        overrides: per-source overrides by the source's name, from the mappings in ``source``.
        model_config_file: (key ``model_config``) see `option`.
    """

    source: tuple[InstanceOf[SourceSpec], ...] = option(
        (SourceSpec.parse("sample"),),
        "sources",
        "a camera's number, clip.mp4, folder/, '*.jpg', rtsp://..., http://..., or sample, the default; name=URI names"
        " it; repeat the option for more",
        metavar="URI",
        many="repeat",
    )
    overrides: Annotated[Mapping[str, SourceOverrides], Field(repr=False)] = Field(
        default_factory=dict, validation_alias=AliasChoices("overrides", "wishes")
    )
    output: tuple[InstanceOf[OutputSpec], ...] = option(
        (),
        "outputs",
        "window, out.mp4|.mkv|.avi|.mov, out.jsonl, folder/ for pictures, or null; {source} becomes the source's name;"
        " repeat the option for more (default: window where there is a display, else out.mp4)",
        metavar="OUTPUT",
        many="repeat",
    )
    model: Annotated[str, Field(repr=False)] = option(
        DEFAULT_MODEL, "model and detection", "a name of --list models, or an ONNX file", metavar="NAME|FILE"
    )
    model_config_file: Path | None = option(
        None, "model and detection", "YAML description of a foreign ONNX file", metavar="FILE", alias="model_config"
    )
    engine: str = option(
        "auto", "model and detection", "auto, openvino, onnxruntime; on a GPU int8, tensorrt, torch", metavar="NAME"
    )
    device: str = option("auto", "model and detection", "auto, cpu, cuda:N; or cuda:0,cuda:1, cuda:*", metavar="NAME")
    precision: Literal["auto", "f32", "bf16", "f16"] = option(
        "auto", "model and detection", "arithmetic of a float model"
    )
    conf: Unit = option(0.4, "model and detection", "lowest score to report", metavar="0..1")
    iou: Unit = option(0.6, "model and detection", "overlap above which NMS drops the weaker box", metavar="0..1")
    classes: tuple[str, ...] | None = option(
        None, "model and detection", "labels to report (default: all)", metavar="A,B", many="comma"
    )
    self_check: bool = option(
        True, "model and detection", "skip the test of the engine on a packaged picture before the run"
    )
    policy: Literal["auto", "every-frame", "freshest"] = option(
        "auto",
        "speed",
        "frames that detection has no time for wait, or are dropped for the newest; auto: files at full speed wait",
    )
    pace: Literal["source", "max"] | None = option(
        None, "speed", "play files at their own speed, or as fast as possible (default: source for a window, else max)"
    )
    max_fps: Annotated[float, Field(gt=0)] | None = option(
        None, "speed", "take at most this many frames a second of each source", metavar="FPS"
    )
    detect_every: Annotated[int, Field(ge=1)] = option(
        1, "speed", "run the detector on every Nth frame; the others reuse its boxes", metavar="N"
    )
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = option(
        None,
        "speed",
        "frames in flight in the detector (default: 1 for one live source, else two per core)",
        metavar="N",
    )
    batch: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | Literal["auto"] = option(
        "auto", "speed", "frames of several sources per inference; auto measures it", metavar="N|auto"
    )
    batch_timeout: Annotated[float, Field(ge=0, le=1000)] = option(
        5.0, "speed", "longest wait of a batch that isn't full, in milliseconds", metavar="MS"
    )
    decode: Literal["auto", "gpu", "cpu"] = option(
        "auto", "speed", "decode files and streams on the GPU (NVDEC) or the CPU; auto takes a GPU that can"
    )
    decode_processes: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = option(
        "auto", "speed", "processes that decode; auto is 0 for few sources or without a GPU", metavar="N|auto"
    )
    max_pixels: Annotated[int, Field(gt=0)] = option(
        MAX_PIXELS, "sources", "refuse larger pictures, width times height, by their header", metavar="PIXELS"
    )
    camera_size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = option(
        None, "sources", "size to ask of webcams, in pixels (default: the camera's)", metavar="WxH"
    )
    camera_fps: Annotated[float, Field(gt=0)] | None = option(
        None, "sources", "frame rate to ask of webcams (default: theirs) and snapshot URLs (default: 2)", metavar="FPS"
    )
    camera_format: Annotated[str, Field(pattern=r"^[ -~]{4}$")] | None = option(
        None, "sources", "pixel format to ask of webcams, such as MJPG (default: theirs)", metavar="FOURCC"
    )
    reconnect: Annotated[int, Field(ge=0)] | Literal["forever"] | None = option(
        None,
        "sources",
        "attempts in a row to reach a lost camera, at the start too (default: forever, but only after a first frame)",
        metavar="N|forever",
    )
    stall_timeout: Annotated[float, Field(gt=0)] = option(
        5.0, "sources", "seconds without a frame after which a camera or stream is lost", metavar="SECONDS"
    )
    rtsp_transport: Literal["auto", "tcp", "udp"] = option(
        "auto", "sources", "auto is TCP, and UDP where the server refuses it"
    )
    tls_verify: bool | Path = option(
        True,
        "sources",
        "check certificates (default: yes), or check against a file of authorities",
        metavar="yes|no|FILE",
        is_text=True,
    )
    segment: Annotated[float, Field(gt=0)] | None = option(
        None,
        "outputs",
        "start new video and .jsonl files every 10m, 1h, ... (default: one file)",
        metavar="LENGTH",
        is_text=True,
    )
    retain: Retention | None = option(
        None,
        "outputs",
        "delete the oldest segments: keep 24h, or 50GB of all outputs (default: keep all)",
        metavar="AGE|SIZE",
        is_text=True,
    )
    quality: int = option(
        QUALITIES[DEFAULT_QUALITY],
        "outputs",
        "of videos: low, medium, high (75, the default), best, or 1 to 100",
        metavar="WORD|N",
        is_text=True,
    )
    layout: Literal["tiled", "separate"] = option(
        "tiled", "outputs", "several sources in one window or video, or one each"
    )
    overlay: bool = option(True, "outputs", "draw no live figures on the frames")
    report: Path | None = option(None, "outputs", "write a JSON report of the run", metavar="FILE.json")
    max_frames: Annotated[int, Field(ge=1)] | None = option(
        None, "run", "stop after N frames of each source", metavar="N"
    )
    duration: Annotated[float, Field(gt=0)] | None = option(
        None, "run", "stop after this many seconds", metavar="SECONDS"
    )
    progress: bool = option(True, "run", "show no progress bar")
    log_level: Literal["debug", "info", "warning", "error"] = option("warning", "run", "least severe messages to show")

    @model_validator(mode="before")
    @classmethod
    def _overrides_of_sources(cls, values: object) -> object:
        """Moves the keys beside a source's URI into ``overrides``."""
        if not isinstance(values, Mapping) or not isinstance(values.get("source"), Mapping):
            return values
        given = values.get("overrides") or values.get("wishes") or {}
        if not isinstance(given, Mapping):
            return values
        sources, overrides = dict(values["source"]), dict(given)
        for name, entry in values["source"].items():
            if isinstance(entry, Mapping):
                rest = dict(entry)
                sources[name] = rest.pop("uri", None)
                overrides[str(name) if isinstance(name, int) else name] = rest
        return {**values, "source": sources, "overrides": overrides}

    @field_validator("source", mode="before")
    @classmethod
    def _named_sources(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for name, uri in value.items():
                if not isinstance(uri, (str, int)) or isinstance(uri, bool):
                    raise ValueError(f"wanted a URI for {short(name)}")
                if not isinstance(name, (str, int)) or isinstance(name, bool):
                    raise ValueError(f"a source's name is a word, got {short(name)}: put it in quotes if it is one")
                if (problem := name_problem(str(name))) is not None:
                    raise ValueError(f"no source can be named {short(str(name))}: {problem}")
            return tuple(SourceSpec.parse(_without_zero(str(uri)), name=str(name)) for name, uri in value.items())
        return _each(value, SourceSpec, SourceSpec.parse_named, "wanted a URI")

    @field_validator("output", mode="before")
    @classmethod
    def _null_is_quoted(cls, value: object) -> object:
        if value is None or (isinstance(value, (list, tuple)) and None in value):
            raise ValueError('an unquoted null is an empty value in YAML: write "null" in quotes, or leave it out')
        return _parsed_outputs(value)

    @field_validator("camera_size", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        if isinstance(value, str):
            width, _, height = value.lower().partition("x")
            if not (width.isdecimal() and height.isdecimal()):
                raise ValueError("wanted WIDTHxHEIGHT such as 1280x720")
            return int(width), int(height)
        return value

    @field_validator("tls_verify", mode="before")
    @classmethod
    def _trust(cls, value: object) -> object:
        if value == "" or not isinstance(value, (str, int, Path)):
            raise ValueError("wanted yes, no, or a file of authorities")
        return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("classes", "segment", "retain", "quality", mode="before")
    @classmethod
    def _parsed(cls, value: object, info: ValidationInfo) -> object:
        return _PARSERS[info.field_name or ""](value)

    @model_validator(mode="after")
    def _retains_segments(self) -> Self:
        if self.retain is not None and self.segment is None:
            raise ValueError("retain needs segment: only whole segments are deleted (add --segment 10m)")
        return self

    @model_validator(mode="after")
    def _overrides_have_sources(self) -> Self:
        unknown = sorted(set(self.overrides) - {spec.name for spec in self.source})
        if unknown:
            raise ConfigError(f"overrides of unknown sources: {', '.join(map(redact, unknown))}")
        return self

    @field_validator("model", "model_config_file", "report", "tls_verify")
    @classmethod
    def _can_be_a_name(cls, value: object) -> object:
        _without_zero(str(value))
        return value

    @field_validator("source")
    @classmethod
    def _names_differ(cls, value: tuple[SourceSpec, ...]) -> tuple[SourceSpec, ...]:
        if not value:
            raise ValueError("wanted at least one source")
        names = set()
        for spec in value:
            if spec.name in names:
                raise ConfigError(f"two sources are named {spec.name!r}: name them, as in door={spec}")
            names.add(spec.name)
        return value

    @field_validator("classes")
    @classmethod
    def _some_class(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not any(label.strip() for label in value):
            raise ValueError("wanted at least one label, such as person; leave it out to detect all")
        return value

    def overrides_for(self, name: str) -> SourceOverrides:
        """Returns what applies to the source of that name."""
        own = self.overrides.get(name, SourceOverrides())
        return SourceOverrides(
            max_fps=own.max_fps or self.max_fps,
            detect_every=own.detect_every or self.detect_every,
            priority=own.priority,
            policy=own.policy or self.policy,
            output=own.output or None,
        )


_PARSERS: Mapping[str, Callable[[Any], object]] = {
    "classes": lambda value: _listed(value),
    "segment": lambda value: parse_seconds(value) if isinstance(value, str) else value,
    "retain": lambda value: value if value is None or isinstance(value, Retention) else Retention.parse(str(value)),
    "quality": lambda value: parse_quality(str(value)),
}


def _parsed_outputs(value: object) -> tuple[OutputSpec, ...]:
    return _each(value, OutputSpec, OutputSpec.parse, "wanted an output such as out.mp4")


def _each(value: object, kind: type[S], parse: Callable[[str], S], wanted: str) -> tuple[S, ...]:
    """Parses one value or a list of them; raises ValueError, which says `wanted`, where one has another type."""
    value = _listed(value)
    if not isinstance(value, tuple):
        raise ValueError("wanted one value or a list")
    if not all(isinstance(item, (str, kind)) for item in value):
        raise ValueError(wanted)
    return tuple(parse(_without_zero(item)) if isinstance(item, str) else item for item in value)


def _without_zero(text: str) -> str:
    if "\0" in text:
        raise ValueError("a name can't contain a zero byte")
    return text


def _listed(value: object) -> object:
    """Accepts one value in place of a list, and a bare number for a camera."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, (list, tuple)):
        return tuple(str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
    return value


def read_config(path: Path | None, options: Mapping[str, Any], *, names_source: bool = False) -> StreamConfig:
    """Returns the configuration of a run.

    Args:
        path: a YAML file, or None.
        options: values from the command line, by key; they win over the file's.
        names_source: whether a source must be named: an emptied file must not replace cameras by the sample.

    Raises:
        ConfigError: if the file can't be read, has an unknown key (the nearest is offered), or a value is wrong.
    """
    values = {} if path is None else read_mapping(path)
    if names_source and not values:
        raise ConfigError("it is empty")
    values.update(options)
    if names_source and "source" not in values:
        raise ConfigError("it names no source")
    try:
        return StreamConfig.model_validate(values)
    except ValidationError as error:
        source = values.get("source")
        entries = source.items() if isinstance(source, Mapping) else ()
        mappings = {str(name) for name, entry in entries if isinstance(entry, Mapping)}
        problems = "; ".join(_say(dict(problem), mappings) for problem in error.errors())
        raise ConfigError(problems) from None  # pydantic's own text quotes what is hidden here


def _say(problem: dict[str, Any], mappings: Set[str]) -> str:
    """Returns a problem in words, by the key that was written; `mappings` are the sources with keys of their own."""
    place = [redact(str(part)) for part in problem["loc"]]
    is_override = place[:1] in (["overrides"], ["wishes"])
    if is_override and not mappings.isdisjoint(problem["loc"][1:2]):
        place[0] = "source"
    key = one_line(".".join(place))
    if problem["type"] == "extra_forbidden":
        fields = SourceOverrides.model_fields if is_override else StreamConfig.model_fields
        known = [field.alias or name for name, field in fields.items()]
        return f"unknown key {key!r}{nearest(place[-1], known)} (known: {', '.join(known)})"
    message = "wanted one value or a list" if problem["type"] == "tuple_type" else problem["msg"]
    message = message.removeprefix("Value error, ")
    if not place:
        return message
    return f"{key}: {message[:1].lower()}{message[1:]}, got {value_shown(problem['input'])}"
