"""The configuration of a run: one frozen value from a YAML file, the command line, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, InstanceOf, ValidationError, ValidationInfo, field_validator, model_validator

from streamer.app.clip_options import CLIP_KEYS, ClipOptions
from streamer.app.detection_options import DetectionOptions
from streamer.app.event_options import EventOptions
from streamer.app.options import option
from streamer.app.overrides import (
    FILTER_KEYS,
    RECORDING_PARSERS,
    SWITCHES,
    SourceOverrides,
    parsed_detect_every,
    parsed_each,
    parsed_outputs,
    parsed_records,
    without_zero,
)
from streamer.app.problems import explain
from streamer.app.web_options import WebOptions
from streamer.common.clock_zone import ClockZone
from streamer.common.errors import ConfigError, short
from streamer.common.redaction import redact
from streamer.common.units import parse_milliseconds, parse_seconds
from streamer.detector import MAX_DEPTH
from streamer.sinks.options import DEFAULT_QUALITY, ENCODERS, QUALITIES, Retention
from streamer.sinks.spec import OutputKind, OutputSpec
from streamer.sources.options import MAX_PIXELS
from streamer.sources.spec import SourceKind, SourceSpec, name_problem


def _parsed_time(value: object) -> object:
    return parse_seconds(value) if isinstance(value, str) else value


_PARSERS: Mapping[str, Callable[[Any], object]] = {
    "segment": _parsed_time,
    "duration": _parsed_time,
    "stall_timeout": _parsed_time,
    "batch_timeout": lambda value: parse_milliseconds(value) if isinstance(value, str) else value,
    "detect_every": parsed_detect_every,
    "retain": lambda value: value if value is None or isinstance(value, Retention) else Retention.parse(str(value)),
    **RECORDING_PARSERS,
}


class StreamConfig(DetectionOptions, WebOptions, ClipOptions):
    """A run. Keys are the long options of the command line with ``_`` for ``-``; `option` says what each means.

    Attributes:
        events: (only in a file) which events are told, and to whom.
        source: sources; a string is ``URI`` or ``name=URI``. A mapping of names to URIs is accepted too, and one of
            names to mappings with a ``uri`` and the keys of `SourceOverrides`.
        overrides: per-source overrides by the source's name, from the mappings in ``source``.
        model_config_file: (key ``model_config``) see `option`.
    """

    without_references: ClassVar[tuple[str, ...]] = ("source", "overrides")

    source: tuple[InstanceOf[SourceSpec], ...] = option(
        (SourceSpec.parse("sample"),),
        "sources",
        "a camera's number, clip.mp4, folder/, '*.jpg', rtsp://..., http://..., - for standard input, or sample, the"
        " default; name=URI names it; repeat the option for more",
        metavar="URI",
        many="repeat",
    )
    overrides: Annotated[Mapping[str, SourceOverrides], Field(repr=False)] = Field(default_factory=dict)
    events: EventOptions | None = Field(default=None, repr=False)
    output: tuple[InstanceOf[OutputSpec], ...] = option(
        (),
        "outputs",
        "window, http://127.0.0.1:8080 for a live page, a video, .gif, .jpg, .jsonl, .csv, .coco.json, folder/ for"
        " pictures, NAME.yolo/, NAME.crops/, - for JSON lines on standard output, or null: see --list outputs; {source}"
        " becomes the source's name; repeat the option for more (default: window where there is a display, else"
        " out.mp4)",
        short_flag="-o",
        metavar="OUTPUT",
        many="repeat",
    )
    policy: Literal["auto", "every-frame", "freshest"] = option(
        "auto",
        "speed",
        "frames that detection has no time for wait, or are dropped for the newest; auto: files at full speed wait",
    )
    pace: Literal["source", "max"] | None = option(
        None,
        "speed",
        "play files at their own speed, or as fast as possible (default: source for a window or a page, else max)",
    )
    max_fps: Annotated[float, Field(gt=0)] | None = option(
        None, "speed", "take at most this many frames a second of each source", metavar="FPS"
    )
    detect_every: Annotated[int, Field(ge=0)] = option(
        1,
        "speed",
        "run the detector on every Nth frame; the others reuse its boxes; 0 or off detects nothing",
        metavar="N|off",
        is_text=True,
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
        5.0,
        "speed",
        "longest wait of a batch that isn't full: milliseconds, or with a unit (default: 5ms)",
        metavar="TIME",
        is_text=True,
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
        5.0,
        "sources",
        "time without a frame after which a camera or stream is lost (default: 5s)",
        metavar="TIME",
        is_text=True,
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
    record: tuple[InstanceOf[OutputSpec], ...] = option(
        (),
        "outputs",
        "write the source's own packets to .mp4, .mkv or .mov, without encoding, and what is detected beside them, as"
        " .jsonl and .vtt; {source} becomes the source's name",
        metavar="FILE",
        many="repeat",
    )
    segment: Annotated[float, Field(gt=0)] | None = option(
        None,
        "outputs",
        "start new video, .jsonl and .csv files every 10m, 1h, ... (default: one file)",
        metavar="TIME",
        is_text=True,
    )
    retain: Retention | None = option(
        None,
        "outputs",
        "delete the oldest segments: keep 24h, 50GB of all outputs, 20GB-free or 10%-free on the disk, or several with"
        " commas between; with ,folder those of other runs in the same folders too (default: keep all)",
        metavar="LIMITS",
        is_text=True,
    )
    quality: int = option(
        QUALITIES[DEFAULT_QUALITY],
        "outputs",
        "of videos: low, medium (52, the default), high, best, or 1 to 100",
        metavar="WORD|N",
        is_text=True,
    )
    encoder: str = option(
        ENCODERS[0],
        "outputs",
        "of videos: auto, h264 or h265 take hardware that works, else software; or a name of --list encoders",
        metavar="NAME",
        is_text=True,
    )
    audio: bool = option(
        True, "outputs", "record the sound of files, cameras and streams (default: yes)", metavar="yes|no", is_text=True
    )
    layout: Literal["tiled", "separate"] = option(
        "tiled", "outputs", "several sources in one window or video, or one each"
    )
    round: bool = option(True, "outputs", "write all digits of scores and boxes in text, not 4 and 2 decimals")
    yolo_scores: bool = option(False, "outputs", "add the score to YOLO labels, as a sixth column")
    overlay: bool | None = option(
        None, "outputs", "draw live figures on recordings too, or nowhere (default: in windows)"
    )
    timestamp: InstanceOf[ClockZone] | None = option(
        None,
        "outputs",
        "draw a clock, of files the position: utc, local, or Europe/Berlin",
        metavar="ZONE",
        is_text=True,
    )
    report: Path | None = option(None, "outputs", "write a JSON report of the run", metavar="FILE.json")
    max_frames: Annotated[int, Field(ge=1)] | None = option(
        None, "run", "stop after N frames of each source", metavar="N"
    )
    duration: Annotated[float, Field(gt=0)] | None = option(
        None,
        "run",
        "stop 90s, 10m, 1h30m, ... after the first frame; a bare number is seconds",
        metavar="TIME",
        is_text=True,
    )
    progress: bool = option(True, "run", "show no progress bar")
    quiet: bool = option(
        False, "run", "show warnings and errors only: no progress bar, no summary at the end", short_flag="-q"
    )
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "run", "least severe messages to show")

    @model_validator(mode="before")
    @classmethod
    def _overrides_of_sources(cls, values: object) -> object:
        """Moves the keys beside a source's URI into ``overrides``."""
        if not isinstance(values, Mapping) or not isinstance(values.get("source"), Mapping):
            return values
        given = values.get("overrides") or {}
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
            parse = SourceSpec.parse_configured
            return tuple(parse(without_zero(str(uri)), name=str(name)) for name, uri in value.items())
        return parsed_each(value, SourceSpec, SourceSpec.parse_configured, "wanted a URI")

    @field_validator("output", mode="before")
    @classmethod
    def _null_is_quoted(cls, value: object) -> object:
        if value is None or (isinstance(value, (list, tuple)) and None in value):
            raise ValueError('an unquoted null is an empty value in YAML: write "null" in quotes, or leave it out')
        return parsed_outputs(value)

    @field_validator("record", mode="before")
    @classmethod
    def _records(cls, value: object) -> object:
        return parsed_records(value)

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
        return SWITCHES.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator(*_PARSERS, mode="before")
    @classmethod
    def _parsed(cls, value: object, info: ValidationInfo) -> object:
        return _PARSERS[info.field_name or ""](value)

    @model_validator(mode="after")
    def _retains_segments(self) -> Self:
        has_clips = self.clips is not None or any(own.clips is not None for own in self.overrides.values())
        if self.retain is not None and self.segment is None and not has_clips:
            raise ValueError("retain needs segment: only whole segments are deleted (add --segment 10m)")
        return self

    @model_validator(mode="after")
    def _overrides_have_sources(self) -> Self:
        unknown = sorted(set(self.overrides) - {spec.name for spec in self.source})
        if unknown:
            raise ConfigError(f"overrides of unknown sources: {', '.join(map(redact, unknown))}")
        for spec in self.source:
            if self.overrides_for(spec.name).detect is not None and spec.kind is not SourceKind.STREAM:
                raise ConfigError(f"source {spec.name!r} has no stream beside it to detect on: leave out detect")
        return self

    @field_validator("report", "tls_verify")
    @classmethod
    def _can_be_a_name(cls, value: object) -> object:
        without_zero(str(value))
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
        if sum(spec.kind is SourceKind.STDIN for spec in value) > 1:
            raise ConfigError("two sources read standard input: leave one out")
        return value

    @property
    def level(self) -> str:
        """The least severe level of messages to show, such as ``INFO``."""
        return "WARNING" if self.quiet and self.log_level in ("debug", "info") else self.log_level.upper()

    @property
    def writes_stdout(self) -> bool:
        """Whether JSON lines go to standard output."""
        own = [output for overrides in self.overrides.values() for output in overrides.output or ()]
        return any(output.kind is OutputKind.STDOUT for output in (*self.output, *own))

    def overrides_for(self, name: str) -> SourceOverrides:
        """Returns what applies to the source of that name."""
        own = self.overrides.get(name, SourceOverrides())
        return SourceOverrides(
            max_fps=own.max_fps or self.max_fps,
            detect_every=self.detect_every if own.detect_every is None else own.detect_every,
            detect=own.detect,
            priority=own.priority,
            policy=own.policy or self.policy,
            output=own.output or None,
            record=self.record if own.record is None else own.record,
            quality=own.quality or self.quality,
            encoder=own.encoder or self.encoder,
            audio=self.audio if own.audio is None else own.audio,
            overlay=self.overlay if own.overlay is None else own.overlay,
            timestamp=own.timestamp or self.timestamp,
            track=own.track or self.track,
            **{key: getattr(self if getattr(own, key) is None else own, key) for key in (*FILTER_KEYS, *CLIP_KEYS)},
        )


def read_config(path: Path | None, options: Mapping[str, Any], *, names_source: bool = False) -> StreamConfig:
    """Returns the configuration of a run.

    Args:
        path: a YAML file, or None.
        options: values from the command line, by key; they win over the file's.
        names_source: whether a source must be named: an emptied file must not replace cameras by the sample.

    Raises:
        ConfigError: if the file can't be read, has an unknown key (the nearest is offered), or a value is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        from streamer.common.yaml_file import read_mapping  # PyYAML takes a while to import

        values = read_mapping(path)
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
        problems = "; ".join(explain(dict(problem), mappings, StreamConfig) for problem in error.errors())
        raise ConfigError(problems) from None  # pydantic's own text quotes what is hidden here
