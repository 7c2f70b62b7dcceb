"""What a run is to do: one frozen value made from a YAML file, the command line, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, field_validator, model_validator

from streamer.common.errors import ConfigError, nearest, one_line, short
from streamer.common.redaction import redact
from streamer.common.units import parse_seconds
from streamer.common.yaml_file import read_mapping
from streamer.detector import DEFAULT_MODEL, MAX_DEPTH
from streamer.sinks.options import DEFAULT_QUALITY, QUALITIES, Retention, parse_quality
from streamer.sinks.spec import OutputSpec
from streamer.sources.options import MAX_PIXELS
from streamer.sources.spec import SourceSpec, name_problem

_SWITCHES = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
Unit = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, values: object) -> object:
        """Refuses a boolean, which Python counts as 0 or 1, wherever none is meant."""
        if not isinstance(values, Mapping):
            return values
        for name, field in cls.model_fields.items():
            key = field.alias or name
            value = values.get(key)
            parts = value if isinstance(value, (list, tuple)) else [value]
            if bool not in (field.annotation, *get_args(field.annotation)) and any(
                isinstance(part, bool) for part in parts
            ):
                raise ValueError(f"{key}: true or false is none of its values, got {_got(value)}")
        return values


class SourceOverrides(_Frozen):
    """What one source may have of the machine; None takes what the run says for all.

    Attributes:
        max_fps: frames to take in a second, by the source's own time.
        detect_every: the detector sees each so-manieth frame; the others are given the last one's boxes.
        priority: where not all can be served, sources of higher priority are served first.
        policy: ``auto``, ``every-frame`` or ``freshest``.
        output: outputs in place of the run's.
    """

    max_fps: Annotated[float, Field(gt=0)] | None = None
    detect_every: Annotated[int, Field(ge=1)] | None = None
    priority: int = 0
    policy: Literal["auto", "every-frame", "freshest"] | None = None
    output: tuple[InstanceOf[OutputSpec], ...] | None = None

    @field_validator("output", mode="before")
    @classmethod
    def _outputs(cls, value: object) -> object:
        return value if value is None else _parsed_outputs(value)


class StreamConfig(_Frozen):
    """A run. Keys are the long options of the command line with ``_`` for ``-``.

    Attributes:
        source: sources, each ``URI`` or ``name=URI``; a YAML mapping of names to URIs is taken too, and one of names to
            mappings with a ``uri`` and the keys of `SourceWishes`.
        wishes: what sources have of their own, by name.
        output: outputs; empty means a window where there is a display, else ``out.mp4``.
        model: a model's name or an ONNX file.
        model_config_file: (key ``model_config``) YAML description of a foreign ONNX file.
        engine, device, precision: see `streamer.open_detector`.
        depth: frames in flight in the detector; None is one for a live source, else two for each core.
        batch: frames of several sources to compute together; ``auto`` measures it. See `streamer.open_detector`.
        batch_timeout: milliseconds that a batch which isn't full waits for more frames, at most.
        conf, iou: thresholds, 0 to 1.
        classes: labels to keep; None keeps all.
        policy: ``auto`` is every-frame for files and freshest for live sources.
        pace: ``source`` plays files at their own speed, ``max`` as fast as it goes; None is ``source`` for a window.
        max_fps, detect_every: see `SourceOverrides`; for sources without wishes of their own.
        max_frames: frames to process of each source, then stop.
        duration: seconds to run, then stop.
        report: JSON file to write at the end.
        overlay, progress: whether to draw live figures, whether to show a progress bar.
        self_check: whether to run the model once on a packaged picture and refuse an engine that computes it wrongly.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        max_pixels: most pixels of a picture, width times height; larger ones are refused from their header.
        camera_size: width and height to ask of webcams, ``1280x720``; None leaves it to the camera.
        camera_fps: frame rate to ask of webcams, and at which snapshot URLs are asked for their picture (default 2).
        camera_format: pixel format to ask of webcams, four characters such as ``MJPG``.
        reconnect: how often in a row to try a lost camera or stream again, or ``forever``. None is for ever once a
            source has given a frame, and not at all before; a number or ``forever`` also holds at the start.
        stall_timeout: seconds without a frame after which a camera or stream counts as lost.
        rtsp_transport: ``tcp``, ``udp``, or ``auto``: TCP, and UDP where the server refuses it.
        tls_verify: whether the certificates of https, rtsps and rtmps are checked against the authorities that the
            system trusts; or a file of other authorities.
        decode: ``gpu`` has files and streams decoded by NVDEC, ``cpu`` by FFmpeg; ``auto`` takes NVDEC where the run
            uses a GPU and NVDEC can decode the video.
        decode_processes: how many processes of their own decode videos; ``auto`` is one for each 16 that a GPU decodes,
            at least two, and none for few or on a CPU.
        segment: length of the segments of videos and JSON lines: ``10m``, or a number of seconds; None writes one file.
        retain: which segments are kept: an age (``24h``) or a size (``50GB``) of all outputs together; None keeps all.
        quality: of video outputs: ``low``, ``medium``, ``high`` (75), ``best``, or a number from 1 to 100.
        layout: ``tiled`` shows several sources in one window, and in one video where its name has no ``{source}``;
            ``separate`` each in its own.
    """

    source: tuple[InstanceOf[SourceSpec], ...] = (SourceSpec.parse("sample"),)
    wishes: Annotated[Mapping[str, SourceOverrides], Field(repr=False)] = Field(default_factory=dict)
    output: tuple[InstanceOf[OutputSpec], ...] = ()
    model: Annotated[str, Field(repr=False)] = DEFAULT_MODEL
    model_config_file: Path | None = Field(default=None, alias="model_config")
    engine: str = "auto"
    device: str = "auto"
    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = None
    batch: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | Literal["auto"] = "auto"
    batch_timeout: Annotated[float, Field(ge=0, le=1000)] = 5.0
    conf: Unit = 0.4
    iou: Unit = 0.6
    classes: tuple[str, ...] | None = None
    policy: Literal["auto", "every-frame", "freshest"] = "auto"
    pace: Literal["source", "max"] | None = None
    max_fps: Annotated[float, Field(gt=0)] | None = None
    detect_every: Annotated[int, Field(ge=1)] = 1
    max_frames: Annotated[int, Field(ge=1)] | None = None
    duration: Annotated[float, Field(gt=0)] | None = None
    report: Path | None = None
    overlay: bool = True
    progress: bool = True
    self_check: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    max_pixels: Annotated[int, Field(gt=0)] = MAX_PIXELS
    camera_size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    camera_fps: Annotated[float, Field(gt=0)] | None = None
    camera_format: Annotated[str, Field(pattern=r"^[ -~]{4}$")] | None = None
    reconnect: Annotated[int, Field(ge=0)] | Literal["forever"] | None = None
    stall_timeout: Annotated[float, Field(gt=0)] = 5.0
    rtsp_transport: Literal["auto", "tcp", "udp"] = "auto"
    tls_verify: bool | Path = True
    decode: Literal["auto", "gpu", "cpu"] = "auto"
    decode_processes: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    segment: Annotated[float, Field(gt=0)] | None = None
    retain: Retention | None = None
    quality: int = QUALITIES[DEFAULT_QUALITY]
    layout: Literal["tiled", "separate"] = "tiled"

    @model_validator(mode="before")
    @classmethod
    def _wishes_of_sources(cls, values: object) -> object:
        """Moves what stands beside a source's URI into `wishes`."""
        if not isinstance(values, Mapping) or not isinstance(values.get("source"), Mapping):
            return values
        given = values.get("wishes") or {}
        if not isinstance(given, Mapping):
            return values
        sources, wishes = dict(values["source"]), dict(given)
        for name, entry in values["source"].items():
            if isinstance(entry, Mapping):
                rest = dict(entry)
                sources[name] = rest.pop("uri", None)
                wishes[str(name) if isinstance(name, int) else name] = rest
        return {**values, "source": sources, "wishes": wishes}

    @field_validator("source", mode="before")
    @classmethod
    def _named_sources(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for name, uri in value.items():
                if not isinstance(uri, (str, int)) or isinstance(uri, bool):
                    raise ValueError(f"wanted a URI behind {short(name)}")
                if not isinstance(name, (str, int)) or isinstance(name, bool):
                    raise ValueError(f"a source's name is a word, got {short(name)}: put it in quotes if it is one")
                if (problem := name_problem(str(name))) is not None:
                    raise ValueError(f"no source can be named {short(str(name))}: {problem}")
            return tuple(SourceSpec.parse(_without_zero(str(uri)), name=str(name)) for name, uri in value.items())
        value = _listed(value)
        if not isinstance(value, tuple):
            raise ValueError("wanted one value or a list")
        if not all(isinstance(item, (str, SourceSpec)) for item in value):
            raise ValueError("wanted a URI")
        return tuple(SourceSpec.parse_named(_without_zero(item)) if isinstance(item, str) else item for item in value)

    @field_validator("classes", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return _listed(value)

    @field_validator("output", mode="before")
    @classmethod
    def _null_is_quoted(cls, value: object) -> object:
        if value is None or (isinstance(value, (list, tuple)) and None in value):
            raise ValueError('a bare null is nothing in YAML: write "null" in quotes, or leave it out')
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

    @field_validator("segment", mode="before")
    @classmethod
    def _length(cls, value: object) -> object:
        return parse_seconds(value) if isinstance(value, str) else value

    @field_validator("retain", mode="before")
    @classmethod
    def _kept(cls, value: object) -> object:
        return value if value is None or isinstance(value, Retention) else Retention.parse(str(value))

    @field_validator("quality", mode="before")
    @classmethod
    def _known_quality(cls, value: object) -> object:
        return parse_quality(str(value))

    @model_validator(mode="after")
    def _retains_segments(self) -> Self:
        if self.retain is not None and self.segment is None:
            raise ValueError("retain needs segment: only whole segments are deleted (add --segment 10m)")
        return self

    @model_validator(mode="after")
    def _wishes_have_sources(self) -> Self:
        unknown = sorted(set(self.wishes) - {spec.name for spec in self.source})
        if unknown:
            raise ConfigError(f"wishes for unknown sources: {', '.join(map(redact, unknown))}")
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

    def wishes_of(self, name: str) -> SourceOverrides:
        """Returns what holds for the source of that name."""
        own = self.wishes.get(name, SourceOverrides())
        return SourceOverrides(
            max_fps=own.max_fps or self.max_fps,
            detect_every=own.detect_every or self.detect_every,
            priority=own.priority,
            policy=own.policy or self.policy,
            output=own.output or None,
        )


def _parsed_outputs(value: object) -> tuple[OutputSpec, ...]:
    value = _listed(value)
    if not isinstance(value, tuple):
        raise ValueError("wanted one value or a list")
    if not all(isinstance(item, (str, OutputSpec)) for item in value):
        raise ValueError("wanted an output such as out.mp4")
    return tuple(OutputSpec.parse(_without_zero(item)) if isinstance(item, str) else item for item in value)


def _without_zero(text: str) -> str:
    if "\0" in text:
        raise ValueError("no name can hold a zero byte")
    return text


def _listed(value: object) -> object:
    """Lets a YAML file say one value where a list is meant, and a bare number for a camera."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, (list, tuple)):
        return tuple(str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
    return value


def read_config(path: Path | None, options: Mapping[str, Any], *, names_source: bool = False) -> StreamConfig:
    """Makes the configuration of a run.

    Args:
        path: a YAML file, or None.
        options: values from the command line, by key; they win over the file's.
        names_source: whether a source must be named: where cameras run, an emptied file is no wish for the sample.

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
        problems = "; ".join(_say(dict(problem)) for problem in error.errors())
        raise ConfigError(problems) from None  # pydantic's own text quotes what is hidden here


def _say(problem: dict[str, Any]) -> str:
    place = [redact(str(part)) for part in problem["loc"]]
    key = one_line(".".join(place))
    if problem["type"] == "extra_forbidden":
        fields = SourceOverrides.model_fields if place[0] == "wishes" else StreamConfig.model_fields
        known = [field.alias or name for name, field in fields.items()]
        return f"unknown key {key!r}{nearest(place[-1], known)} (known: {', '.join(known)})"
    message = "wanted one value or a list" if problem["type"] == "tuple_type" else problem["msg"]
    message = message.removeprefix("Value error, ")
    if not place:
        return message
    return f"{key}: {message[:1].lower()}{message[1:]}, got {_got(problem['input'])}"


def _got(value: object) -> str:
    """Returns a wrong value as a message shows it: of several not what they are, since one may be a password."""
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple, set)) else short(value)
