"""Engine files: written whole with their fingerprint beside them, found again, and never run when they don't fit."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from streamer.common.atomic_file import whole_file
from streamer.common.cache import cache_dir, cached_file
from streamer.common.errors import EngineError
from streamer.engines.tensorrt.builder import BuiltEngine, Job, Port, Progress, build_engine, plan
from streamer.engines.tensorrt.layers import Layer
from streamer.engines.tensorrt.options import BuildOptions, cache_key, differences
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 1800.0
_AGAIN = "build it again: python -m calibration build"


@dataclass(frozen=True)
class EngineReport:
    """What stands beside an engine file.

    Attributes:
        sha256: of the engine file, in hex.
        size_bytes: its size.
        fingerprint: what it was made of.
        metadata: the ONNX file's own.
        inputs: see `BuiltEngine`.
        outputs: see `BuiltEngine`.
        layers: see `BuiltEngine`.
        warnings: see `BuiltEngine`.
    """

    sha256: str
    size_bytes: int
    fingerprint: dict[str, Any]
    metadata: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]


def report_path(path: Path) -> Path:
    """Returns where the report of an engine file lies: ``m.engine.json`` beside ``m.engine``."""
    return path.with_name(f"{path.name}.json")


def write_engine(path: Path, built: BuiltEngine, model: ModelFile) -> EngineReport:
    """Writes an engine and its report; an existing pair is replaced, or left as it is when anything fails.

    Raises:
        EngineError: they can't be written.
    """
    report = EngineReport(
        sha256=hashlib.sha256(built.data).hexdigest(),
        size_bytes=len(built.data),
        fingerprint=built.fingerprint,
        metadata={entry.key: entry.value for entry in model.proto.metadata_props},
        inputs=built.inputs,
        outputs=built.outputs,
        layers=built.layers,
        warnings=built.warnings,
    )
    try:
        with whole_file(path) as engine, whole_file(report_path(path)) as beside:
            engine.write_bytes(built.data)
            beside.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise EngineError(f"can't write the engine {str(path)!r}: {error.strerror or error}") from error
    return report


def read_report(path: Path) -> EngineReport:
    """Reads what stands beside an engine file.

    Raises:
        EngineError: there is nothing, or it is damaged.
    """
    beside = report_path(path)
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        return EngineReport(
            sha256=str(content["sha256"]),
            size_bytes=int(content["size_bytes"]),
            fingerprint=dict(content["fingerprint"]),
            metadata=dict(content["metadata"]),
            inputs=tuple(Port(p["name"], p["precision"], tuple(p["shape"])) for p in content["inputs"]),
            outputs=tuple(Port(p["name"], p["precision"], tuple(p["shape"])) for p in content["outputs"]),
            layers=tuple(Layer(**{**layer, "onnx": tuple(layer["onnx"])}) for layer in content["layers"]),
            warnings=tuple(content["warnings"]),
        )
    except FileNotFoundError as error:
        raise EngineError(f"{str(path)!r} has no report beside it ({beside.name}): {_AGAIN}") from error
    except OSError as error:
        raise EngineError(f"can't read {str(beside)!r}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"{str(beside)!r}, the report of an engine, is damaged: {_AGAIN}") from error


def read_engine(path: Path) -> bytes:
    """Returns an engine's bytes, once they are the ones that were written.

    Raises:
        EngineError: the file or its report is missing, damaged or cut short.
    """
    report = read_report(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"can't read the engine {str(path)!r}: {error.strerror or error}") from error
    if len(data) != report.size_bytes:
        raise EngineError(f"the engine {str(path)!r} has {len(data)} bytes, wanted {report.size_bytes}: {_AGAIN}")
    if hashlib.sha256(data).hexdigest() != report.sha256:
        raise EngineError(f"the engine {str(path)!r} is damaged (its SHA-256 differs from its report's): {_AGAIN}")
    return data


def timings_path(job: Job) -> Path:
    """Returns the file for `build_engine`'s kernel timings: one for a version of the package and an architecture."""
    return _folder() / f"timings-{job.trt.__version__}-{job.targets[0]}.cache"


def _folder() -> Path:
    return cache_dir() / "engines"


def cached_engine(
    model: ModelFile,
    flavour: TensorRTPackage,
    options: BuildOptions,
    *,
    device: int = 0,
    on_progress: Progress | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Path:
    """Returns an engine file for a model, building it the first time.

    An engine beside the model file under the same name (``m.engine`` for ``m.onnx``) is taken when it is the one
    wanted; else one in the user's cache folder is. What is stale, foreign or damaged is never returned. Processes that
    want the same engine at once build it once.

    Args:
        model: what to run.
        flavour: the package that builds and runs it.
        options: how to build it.
        device: number of the GPU that is to run it. The package `tensorrt` builds on the current CUDA device: make it
            this one first.
        on_progress: told how far a build is.
        lock_timeout_s: how long to wait for another process that builds the same.

    Raises:
        EngineError: see `build_engine`, `plan` and `write_engine`; or another process takes too long.
        ModelError: see `build_engine`.
        ConfigError: see `build_engine` and `plan`.
    """
    job = plan(model, flavour, options, device=device)
    shipped = model.path.with_suffix(".engine")
    if shipped.is_file() and _fits(shipped, job.fingerprint):
        return shipped
    name = re.sub(r"[^\w.-]", "_", model.spec.name)
    path = cached_file("engines", f"{name}-{cache_key(job.fingerprint)}.engine")
    if path.is_file() and _fits(path, job.fingerprint):
        return path
    folder = _folder()
    path = folder / path.name
    lock = path.with_suffix(".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=lock_timeout_s):
            if path.is_file() and _fits(path, job.fingerprint):
                return path
            log.warning("building a %s engine of %s for %s", flavour.value, model.path.name, ", ".join(job.targets))
            write_engine(path, build_engine(job, timing_cache=timings_path(job), on_progress=on_progress), model)
    except Timeout as error:
        raise EngineError(
            f"another process has been building {path.name} for {lock_timeout_s:.0f} s: end it, then try again"
        ) from error
    except OSError as error:
        raise EngineError(
            f"can't use the cache folder {str(folder)!r} ({error.strerror or error}): name another with"
            " NANODET_STREAMER_CACHE"
        ) from error
    return path


def _fits(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a file is the engine that is wanted, and whole; says in the log why not."""
    try:
        wrong = differences(read_report(path).fingerprint, wanted)
        if not wrong:
            read_engine(path)
            return True
        log.info("%s is another engine than the one wanted (%s)", path, ", ".join(wrong))
    except EngineError as error:
        log.warning("%s", error)
    return False
