"""What a run did: the closing line and the JSON report."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import SinkError, StreamerError, counted
from streamer.detector.base import EngineInfo
from streamer.sinks.files import is_special

REPORT_VERSION: Final = 1
"""Of the report's format: a key that is removed, renamed or means something else increases it, a new key doesn't."""


@dataclass(frozen=True)
class SourceReport:
    """One source's part. `fps_*` are frames over the time between the source's first and last frame.

    `gave_way` counts preempted frames: dropped (under every-frame: delayed) while higher priorities were served.
    `detected_uri` and `main_reconnects` are there where frames and packets come from two streams of one camera.
    `clips` counts those that were begun.
    `recorded_*` are what the videos of a live source have taken so far, and GB (10^9 bytes) a day at that rate.
    """

    name: str
    uri: str
    frames_captured: int
    frames_processed: int
    frames_dropped: int
    reconnects: int
    fps_captured: float
    fps_processed: float
    gave_way: int = 0
    recorded_bytes: int = 0
    recorded_gb_a_day: float = 0.0
    detected_uri: str | None = None
    main_reconnects: int | None = None
    clips: int = 0


@dataclass(frozen=True)
class GpuReport:
    """One of several GPUs: what runs on it, and the sources that it had at the end."""

    name: str
    engine: EngineInfo
    sources: tuple[str, ...]
    failed: bool


@dataclass(frozen=True)
class RunError:
    """What failed: the source's, output's or GPU's name (``run`` for the run as a whole), and why."""

    where: str
    what: str


@dataclass(frozen=True)
class StreamRecord:
    """What a run keeps of one stream: its report, what failed by name and why, files written, what was skipped."""

    report: SourceReport
    errors: tuple[tuple[str, StreamerError], ...]
    files: tuple[Path, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """One run.

    Attributes:
        engine: what computed; the first GPU's, where there are several.
        sources: one part each.
        fps: unique frames whose detections reached every sink, over `wall_s`.
        wall_s: seconds from the first thread's start to the last sink's end.
        stages_ms: mean, p50, p95 and p99 of each stage's time a frame, over its last 4,096 frames.
        latency_ms: p50, p95, p99 (last 4,096 frames of each source) and max from capture to the last sink.
        errors: sources, outputs and GPUs that failed; the others went on.
        files: what was written.
        skipped: what sources skipped, such as damaged pictures.
        gpus: a part for each where there are several.
    """

    engine: EngineInfo
    sources: tuple[SourceReport, ...]
    fps: float
    wall_s: float
    stages_ms: dict[str, dict[str, float]]
    latency_ms: dict[str, float] | None
    errors: tuple[RunError, ...] = ()
    files: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = ()
    gpus: tuple[GpuReport, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns version, engine, sources, fps, wall_s, stages_ms, latency_ms.

        ``streamer/data/schemas/report.schema.json`` and docs/json.md describe each key. `errors`, `gpus`, a source's
        `gave_way` and `recorded_*`, and the engine's `fallbacks` are there where there were any.
        """
        content = {"version": REPORT_VERSION, **asdict(self)}
        del content["files"], content["skipped"]
        if not self.engine.fallbacks:
            del content["engine"]["fallbacks"]
        for source in content["sources"]:
            for key in ("gave_way", "recorded_bytes", "recorded_gb_a_day", "clips"):
                if not source[key]:
                    del source[key]
            for key in ("detected_uri", "main_reconnects"):
                if source[key] is None:
                    del source[key]
        for key in ("errors", "gpus"):
            if not content[key]:
                del content[key]
        for gpu in content.get("gpus", ()):
            if not gpu["engine"]["fallbacks"]:
                del gpu["engine"]["fallbacks"]
        return content

    def write(self, path: Path) -> None:
        """Writes the JSON file, atomically unless it is a device or a pipe.

        Raises:
            SinkError: if it can't be written.
        """
        content = json.dumps(self.to_json(), indent=2) + "\n"
        try:
            if is_special(path):
                with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as file:  # a pipe may have no reader
                    os.set_blocking(file.fileno(), True)
                    file.write(content.encode())
            else:
                with atomic_file(path) as partial:
                    partial.write_text(content, encoding="utf-8")
        except OSError as error:
            raise SinkError(f"can't write the report {str(path)!r}: {error.strerror or error}") from error

    def summary(self) -> str:
        """Returns the closing line: frames, FPS, mean and p95 inference time, drops, files written."""
        frames = sum(source.frames_processed for source in self.sources)
        dropped = sum(source.frames_dropped for source in self.sources)
        parts = [f"{counted(frames, 'frame')} in {self.wall_s:.1f} s", f"{self.fps:.1f} FPS"]
        inference = self.stages_ms.get("inference")
        if inference:
            engine = f"{self.engine.name} {self.engine.precision}"
            parts.append(f"inference {inference['mean']:.1f} ms mean, {inference['p95']:.1f} ms p95 ({engine})")
        parts.append(f"{dropped} dropped")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        clips = sum(source.clips for source in self.sources)
        if clips:
            parts.append(counted(clips, "clip"))
        if self.files:
            parts.append(f"wrote {_named(self.files)}")
        return ", ".join(parts)


def _named(files: tuple[Path, ...]) -> str:
    if len(files) <= 3:
        return " ".join(str(file) for file in files)
    folders = sorted({str(file.parent) for file in files})
    return f"{len(files)} files in {' '.join(folders)}"
