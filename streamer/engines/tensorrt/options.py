"""How an engine is built, and the fingerprint that decides whether a file is the wanted engine."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from streamer.common.errors import ConfigError
from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage, known_targets
from streamer.models.spec import METADATA_PREFIX

if TYPE_CHECKING:
    from streamer.models.file import ModelFile

_FORMAT = 1
"""Increased when engines of an earlier release must not be used, because the report or the graph changed."""

_MORE = ("version_compatible", "hardware_compatible")
"""Options that only add to where an engine runs."""

_AMPERE = 80

_CALIBRATION_KEY = f"{METADATA_PREFIX}int8_calibration_sha256"
"""Metadata of an INT8 model, JSON: hash of its calibration pictures; `calibration.quantize` writes it."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        targets: GPU architectures such as ``sm89``; empty for the present GPU's.
        fp16: compute in FP16 what isn't quantised; input and output stay float32.
        max_batch: largest batch, for which the kernels are optimised; any from 1 up to it can be run.
        workspace_mib: limit of the layers' scratch memory, in MiB.
        version_compatible: the engine also runs on later versions of the package, and on `tensorrt-lean`.
        hardware_compatible: the engine runs on every Ampere or later GPU.
        exclude_lean_runtime: a version-compatible engine contains no runtime, so no code; only `tensorrt-lean` of the
            same version runs it.
    """

    targets: tuple[str, ...] = ()
    fp16: bool = False
    max_batch: int = 1
    workspace_mib: int = 1024
    version_compatible: bool = False
    hardware_compatible: bool = False
    exclude_lean_runtime: bool = False

    def __post_init__(self) -> None:
        if self.exclude_lean_runtime and not self.version_compatible:
            raise ConfigError("only version-compatible engines contain a lean runtime that can be excluded")
        for name in ("max_batch", "workspace_mib"):
            if getattr(self, name) < 1:
                raise ConfigError(f"an engine's {name} is at least 1, got {getattr(self, name)}")
        wrong = next((target for target in self.targets if not re.fullmatch(r"sm\d{2,3}", target)), None)
        if wrong is not None:
            raise ConfigError(f"an architecture is written sm89 or sm120, several with commas between; got {wrong!r}")


def fingerprint(
    model: ModelFile,
    package: TensorRTPackage,
    trt: Any,
    targets: tuple[str, ...],
    options: BuildOptions,
    gpu: GpuModel | None,
) -> dict[str, Any]:
    """Returns everything that determines an engine, in values that JSON preserves.

    The architectures are `targets`, from `choose_targets`, not those of `options`. The present GPU and the operating
    system count only where the package can't build for another. A package that doesn't build wants an engine of the
    one that does.
    """
    portable = known_targets(trt) is not None
    settings = asdict(options)
    del settings["targets"]
    if not options.exclude_lean_runtime:
        del settings["exclude_lean_runtime"]  # engines of earlier releases stay valid
    graph = model.proto.SerializeToString(deterministic=True)
    calibration = next((entry.value for entry in model.proto.metadata_props if entry.key == _CALIBRATION_KEY), None)
    return {
        "format": _FORMAT,
        "onnx_sha256": model.sha256,
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
        "calibration_sha256": calibration.strip('"') if calibration else None,
        "package": package.builder.value,
        "package_version": str(trt.__version__),
        "targets": list(targets),
        "gpu": None if portable or gpu is None else gpu.name,
        "platform": None if portable else f"{sys.platform}-{platform.machine()}",
        "options": settings,
    }


def differences(built: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Returns the names of the entries because of which an engine with fingerprint `built` isn't the `wanted` one.

    It may have more architectures, a larger batch, and be compatible with more versions and GPUs; everything else must
    be equal.
    """
    settings = built.get("options")
    options: dict[str, Any] = settings if isinstance(settings, dict) else {}
    allowed = {"targets", "options"}
    if contains_code(built) and _is_no_newer(built.get("package_version"), wanted):
        allowed.add("package_version")
    is_portable = options.get("hardware_compatible") is True and all(map(_is_ampere_or_later, wanted["targets"]))
    if is_portable:
        allowed.add("gpu")
    wrong = [key for key in wanted if key not in allowed and (key not in built or built[key] != wanted[key])]
    targets = built.get("targets")
    if not is_portable and (not isinstance(targets, list) or not set(wanted["targets"]) <= set(targets)):
        wrong.append("targets")
    if not options:
        return [*wrong, "options"]
    for key, value in wanted["options"].items():
        found = options.get(key)
        is_more = (isinstance(found, int) and found >= value) if key == "max_batch" else key in _MORE and found is True
        if not is_more and found != value:
            wrong.append(key)
    if options.get("exclude_lean_runtime") and not wanted["options"]["version_compatible"]:
        wrong.append("exclude_lean_runtime")
    return wrong


def contains_code(built: dict[str, Any]) -> bool:
    """Whether an engine contains the lean runtime of the version that built it, by its fingerprint."""
    options = built.get("options")
    return (
        isinstance(options, dict)
        and options.get("version_compatible") is True
        and not options.get("exclude_lean_runtime")
    )


def _is_no_newer(version: object, wanted: dict[str, Any]) -> bool:
    """Whether a version, such as ``11.4.0.106``, isn't later than that of the `wanted` fingerprint."""
    if not isinstance(version, str):
        return False
    return _numbers(version) <= _numbers(wanted["package_version"])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _is_ampere_or_later(target: str) -> bool:
    return int(target.removeprefix("sm")) >= _AMPERE


def cache_key(wanted: dict[str, Any]) -> str:
    """Returns a short name for a fingerprint, the same on every machine."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:20]
