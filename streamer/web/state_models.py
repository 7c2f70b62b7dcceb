"""The state of a run as the HTTP interface tells it; see docs/http-api.md for each key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

StateWord = Literal["running", "connecting", "reconnecting", "ended", "failed"]
Conf = float | dict[str, float]


class Answer(BaseModel):
    """A frozen value that is answered."""

    model_config = ConfigDict(frozen=True)


class RunState(Answer):
    """What runs, as a whole."""

    engine: str
    precision: str
    device: str
    model: str
    fps: float = Field(description="unique frames a second of all streams")
    uptime_s: float
    has_token: bool = Field(description="whether the page asks for one")


class Latency(Answer):
    """Milliseconds from a frame's capture to its last output, of the last seconds."""

    p50: float
    p95: float


class StreamState(Answer):
    """One stream at one moment; counters are since it began, rates and latencies of the last seconds."""

    name: str
    state: StateWord
    lost_s: float | None = Field(description="seconds since the last frame while a live source reconnects")
    size_wh: tuple[int, int] | None
    live: bool
    fps_captured: float
    fps_processed: float
    latency_ms: Latency | None
    frames: int = Field(description="that reached every output")
    dropped: int
    reconnects: int
    damaged: int = Field(description="packets or pictures that couldn't be decoded")
    counts: dict[str, int] = Field(description="objects in the newest frame, by label")
    viewers: int
    viewer_skips: int
    codec: str | None
    view: Literal["packets", "encoded"]
    conf: Conf = Field(description='lowest score, or one by class with "*" for all others')
    classes: tuple[str, ...] | None = Field(description="labels that are reported; null for all")
    overlay: bool | None
    error: str | None


class State(Answer):
    """The run at one moment; each second one is sent by /api/events."""

    time_utc: str
    run: RunState
    streams: tuple[StreamState, ...]


class HistoryPoint(Answer):
    """One stream at one moment of the last ten minutes."""

    t_utc: str
    fps: float
    latency_p95_ms: float | None
    dropped: int = Field(description="since the point before")
    counts: dict[str, int]


class Health(Answer):
    """Whether the run is well."""

    alive: bool
    ready: bool = Field(description="whether every source gives frames, or has ended as files do")
    down: tuple[str, ...] | None = Field(description="sources that don't; null for whoever hasn't given the token")


class ClassInfo(Answer):
    """A class of the model, by its place in the list."""

    label: str
    colour: str = Field(description="as #rrggbb")
    ink: str = Field(description="of text on that colour")


class DetectionSettings(Answer):
    """What is in force, of a stream or of all that have nothing of their own."""

    conf: Conf
    classes: tuple[str, ...] | None
    min_size: str | None
    max_size: str | None
    top_k: int | None
    max_fps: float | None
    detect_every: int
    overlay: bool | None


class StreamSettings(DetectionSettings):
    """What is in force for a stream."""

    priority: int


class StreamInfo(Answer):
    """A stream and its settings."""

    name: str
    uri: str | None = Field(description="with *** for anything secret; null where no token was asked for")
    is_added: bool = Field(description="whether it was added on the page")
    settings: StreamSettings
    changed: dict[str, Any] = Field(description="what was changed of it, and can be taken back")
    state: StreamState
    notices: tuple[str, ...] = Field(description="what of a change doesn't hold yet, or isn't kept")


class Settings(DetectionSettings):
    """What is in force for streams that have nothing of their own."""

    language: Literal["en", "zh"] | None
    changed: dict[str, Any]
    kept_in: str | None = Field(description="the file's name; null where changes hold for this run only")
    notices: tuple[str, ...]


class StreamChange(Answer):
    """What was changed of one stream."""

    is_added: bool
    is_removed: bool
    changed: dict[str, Any]


class Changes(Answer):
    """All that was changed on the page."""

    settings: dict[str, Any]
    streams: dict[str, StreamChange]
    kept_in: str | None


class Recording(Answer):
    """A recording on disk."""

    id: str
    source: str | None = Field(description="null where one video shows several sources")
    begin_utc: str
    duration_s: float | None = Field(description="null where it can't be read yet")
    size_bytes: int
    labels: tuple[str, ...] = Field(
        description="what was detected, the most frequent first; of recordings with captions"
    )
    is_open: bool = Field(description="whether it is still being written")
    media_type: str
    has_detections: bool
    has_captions: bool


class ClipInfo(Answer):
    """A clip of an event."""

    id: str
    source: str
    begin_utc: str
    end_utc: str
    duration_s: float
    size_bytes: int
    labels: tuple[str, ...] = Field(description="what its events are about, in the order in which they were seen")
    best_label: str | None
    best_score: float | None
    is_open: bool = Field(description="whether it isn't complete: being written, or broken off")
    media_type: str
    has_snapshot: bool
    has_detections: bool
    has_captions: bool


class Done(Answer):
    """What doesn't hold of a change."""

    notices: tuple[str, ...] = ()


class LoggedIn(Answer):
    """Whether whoever asked may use the page from now on."""

    logged_in: bool
