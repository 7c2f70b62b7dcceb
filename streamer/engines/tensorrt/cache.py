"""Engine files: written atomically with a report beside them, and only used where its fingerprint is the wanted one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from streamer.common.atomic_file import atomic_file
from streamer.common.cache import cache_dir, cached_file, cached_files
from streamer.common.errors import EngineError
from streamer.engines.tensorrt.builder import (
    BuildPlan,
    BuiltEngine,
    EngineReport,
    Progress,
    build_engine,
    plan_build,
)
from streamer.engines.tensorrt.options import BuildOptions, cache_key, contains_code, differences
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 1800.0
_REBUILD = "build it again: python -m calibration build"
_REPORT = TypeAdapter(EngineReport)


def report_path(path: Path) -> Path:
    """Returns the path of an engine file's report: ``m.engine.json`` beside ``m.engine``."""
    return path.with_name(f"{path.name}.json")


def write_engine(path: Path, built: BuiltEngine) -> None:
    """Writes an engine and its report; an existing pair is replaced, or kept when anything fails."""
    try:
        with atomic_file(path) as engine, atomic_file(report_path(path)) as beside:
            engine.write_bytes(built.data)
            beside.write_text(json.dumps(asdict(built.report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise EngineError(f"can't write the engine {str(path)!r}: {error.strerror or error}") from error


def read_report(path: Path) -> EngineReport:
    """Reads the report of an engine file."""
    beside = report_path(path)
    try:
        return _REPORT.validate_json(beside.read_bytes())
    except FileNotFoundError as error:
        raise EngineError(f"{str(path)!r} has no report beside it ({beside.name}): {_REBUILD}") from error
    except OSError as error:
        raise EngineError(f"can't read {str(beside)!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise EngineError(f"{str(beside)!r}, the report of an engine, is damaged: {_REBUILD}") from error


def read_engine(path: Path) -> bytes:
    """Returns an engine's bytes, checked against its report."""
    report = read_report(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"can't read the engine {str(path)!r}: {error.strerror or error}") from error
    if len(data) != report.size_bytes:
        raise EngineError(f"the engine {str(path)!r} has {len(data)} bytes, wanted {report.size_bytes}: {_REBUILD}")
    if hashlib.sha256(data).hexdigest() != report.sha256:
        raise EngineError(f"the engine {str(path)!r} is damaged (its SHA-256 differs from its report's): {_REBUILD}")
    return data


def timings_path(plan: BuildPlan) -> Path:
    """Returns the file for `build_engine`'s kernel timings: one for a version of the package and an architecture."""
    return _folder() / f"timings-{plan.trt.__version__}-{plan.targets[0]}.cache"


def _folder() -> Path:
    return cache_dir() / "engines"


def cached_engine(
    model: ModelFile,
    package: TensorRTPackage,
    options: BuildOptions,
    *,
    device: int = 0,
    on_progress: Progress | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Path:
    """Returns an engine file for a model, building it the first time.

    An engine beside the model file under the same name (``m.engine`` for ``m.onnx``) is used if it fits, else one in
    the user's cache folder; never one that is stale, foreign or damaged. Processes that want the same engine at the
    same time build it once. A package that doesn't build takes any engine in the cache folder that fits.

    Version-compatible engines contain code unless it was excluded; those that do are used from the cache folder only,
    which is private to the user.

    `device` is the number of the GPU that is to run it; with the package `tensorrt` it must be the current CUDA device.
    """
    can_build = package.builder is package
    plan = plan_build(
        model, package, options if can_build else replace(options, version_compatible=True), device=device
    )
    beside = model.path.with_suffix(".engine")
    if beside.is_file() and _fits(beside, plan.fingerprint, may_contain_code=False):
        return beside
    if not can_build:
        return _ready_engine(plan)
    name = re.sub(r"[^\w.-]", "_", f"{model.spec.name}-{cache_key(plan.fingerprint)}.engine")
    cached = cached_file("engines", name)
    if cached.is_file() and _fits(cached, plan.fingerprint):
        return cached
    folder = _folder()
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=lock_timeout_s):
            if path.is_file() and _fits(path, plan.fingerprint):
                return path
            log.info("building a %s engine of %s for %s", package.value, model.path.name, ", ".join(plan.targets))
            write_engine(path, build_engine(plan, timing_cache=timings_path(plan), on_progress=on_progress))
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


def _ready_engine(plan: BuildPlan) -> Path:
    """Returns an engine that was built elsewhere, with the smallest batch that suffices."""
    found = [path for path in cached_files("engines", "*.engine") if path.is_file()]
    fitting = [path for path in found if _fits(path, plan.fingerprint)]
    if fitting:
        return min(fitting, key=lambda path: int(read_report(path).fingerprint["options"]["max_batch"]))
    options, gpu = plan.options, plan.gpu.name if plan.gpu else ", ".join(plan.targets)
    words = [plan.model.path.name, "--flavour", plan.package.builder.value, "--version-compatible"]
    words += ["--fp16"] * options.fp16 + ["--max-batch", str(options.max_batch)]
    words += ["-o", plan.model.path.with_suffix(".engine").name]
    unfit = "; --log-level info says why those there don't fit" if found else ""
    raise EngineError(
        f"{plan.version} doesn't build engines, and there is none of {plan.model.path.name} for {gpu} in"
        f" {str(_folder())!r}: where {plan.package.builder.value} {plan.trt.__version__} or earlier and such a GPU are"
        f" (with --hardware-compatible any from Ampere on), python -m calibration build {shlex.join(words)}{unfit}"
    )


def _fits(path: Path, wanted: dict[str, Any], *, may_contain_code: bool = True) -> bool:
    """Returns whether a file is the wanted engine and undamaged; logs why not."""
    try:
        built = read_report(path).fingerprint
        wrong = differences(built, wanted)
        if not wrong and not may_contain_code and contains_code(built):
            log.info("%s contains code: move it and its .json to %s", path, _folder())
            return False
        if not wrong:
            read_engine(path)
            return True
        log.info("%s is another engine than the one wanted (%s)", path, ", ".join(wrong))
    except EngineError as error:
        log.warning("%s", error)
    return False
