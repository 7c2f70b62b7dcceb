"""CPU engines by name, without importing any of their packages."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import import_module
from typing import TYPE_CHECKING, cast

from streamer.common.cpu_info import processor_flags
from streamer.common.errors import ConfigError, EngineError, nearest

if TYPE_CHECKING:
    from streamer.engines.base import Engine
    from streamer.models.described import PrecompiledModel
    from streamer.models.file import ModelFile

# name: (package, how to install it, module, class); `auto` takes the first whose package is installed.
_ENGINES = {
    "openvino": ("openvino", "pip install openvino", "openvino_engine", "OpenVinoEngine"),
    "onnxruntime": (
        "onnxruntime", "pip install 'nanodet-streamer[onnxruntime]'", "onnxruntime_engine", "OnnxRuntimeEngine"
    ),
}  # fmt: skip

ENGINE_NAMES = tuple(_ENGINES)
PRECISIONS = ("auto", "f32", "bf16", "f16")


def installed_engines() -> dict[str, str | None]:
    """Returns for every engine None where it runs here, else the command that installs it, or why it can't run."""
    return {
        name: (_unsupported() if name == "openvino" else None) if importlib.util.find_spec(package) else command
        for name, (package, command, *_) in _ENGINES.items()
    }


def _unsupported() -> str | None:
    """Returns why OpenVINO can't run on this processor: on x86-64 without AVX2 its 2026 releases end the process.

    oneDNN's own limit counts like the processor's.
    """
    flags = processor_flags()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    is_old = bool(flags) and "avx2" not in flags
    if platform.machine().lower() in ("x86_64", "amd64") and (is_old or limit in ("SSE41", "AVX")):
        return "needs a processor with AVX2: use --engine onnxruntime"
    return None


def open_engine(
    name: str,
    model: ModelFile | PrecompiledModel,
    *,
    slots: int | None,
    precision: str = "auto",
    threads: int | None = None,
) -> Engine:
    """Loads `model` into an engine.

    Args:
        name: one of `ENGINE_NAMES`, or ``auto`` for the first that is installed.
        model: what to run; only ``openvino`` takes one that it has compiled before.
        slots: requests in flight, at least 1; None takes the engine's number for the highest throughput.
        precision: one of `PRECISIONS`.
        threads: cores to use; None uses all that this process may run on.

    Raises:
        ConfigError: if there is no such engine or precision.
        EngineError: if its package isn't installed, or it refuses the model.
    """
    for what, value, choices in (("engine", name, ("auto", *ENGINE_NAMES)), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise ConfigError(f"unknown {what} {value!r}{nearest(value, choices)} (known: {', '.join(choices)})")
    missing = installed_engines()
    if name == "auto":
        name = next((known for known, command in missing.items() if command is None), "")
        if not name:
            wanted = "onnxruntime" if importlib.util.find_spec("openvino") else "openvino"
            raise EngineError(f"no inference engine that runs here is installed: {_ENGINES[wanted][1]}")
    elif missing[name]:
        is_there = importlib.util.find_spec(_ENGINES[name][0]) is not None
        raise EngineError(f"the engine {name!r} {'' if is_there else 'is not installed: '}{missing[name]}")
    _, _, module, attribute = _ENGINES[name]
    engine_class = getattr(import_module(f"{__name__}.{module}"), attribute)
    return cast("Engine", engine_class(model, slots=slots, precision=precision, threads=threads))
