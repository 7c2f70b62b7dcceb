"""Engine names and what they need, without importing any of them."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from typing import TYPE_CHECKING, cast

from streamer.common.errors import ConfigError, EngineError, nearest

if TYPE_CHECKING:
    from streamer.engines.base import Engine
    from streamer.models.file import ModelFile

# name: (package it needs, how to get it, where it lives); `auto` takes the first whose package is installed.
_ENGINES = {
    "openvino": ("openvino", "pip install openvino", "streamer.engines.openvino_engine:OpenVinoEngine"),
    "onnxruntime": (
        "onnxruntime",
        "pip install 'nanodet-streamer[onnxruntime]'",
        "streamer.engines.onnxruntime_engine:OnnxRuntimeEngine",
    ),
}

ENGINE_NAMES = tuple(_ENGINES)
PRECISIONS = ("auto", "f32", "bf16", "f16")


def installed_engines() -> dict[str, str | None]:
    """Returns for every engine None when its package is installed, else the command that installs it."""
    return {
        name: None if importlib.util.find_spec(package) else command for name, (package, command, _) in _ENGINES.items()
    }


def open_engine(
    name: str, model: ModelFile, *, slots: int, precision: str = "auto", threads: int | None = None
) -> Engine:
    """Loads `model` into an engine.

    Args:
        name: one of `ENGINE_NAMES`, or ``auto`` for the first that is installed.
        model: what to run.
        slots: requests in flight, at least 1.
        precision: one of `PRECISIONS`.
        threads: cores to use; None uses all this process may run on.

    Raises:
        ConfigError: if there is no such engine or precision.
        EngineError: if its package isn't installed, or it refuses the model.
    """
    if name != "auto" and name not in _ENGINES:
        known = ", ".join(("auto", *ENGINE_NAMES))
        raise ConfigError(f"unknown engine {name!r}{nearest(name, ENGINE_NAMES)} (known: {known})")
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"unknown precision {precision!r}{nearest(precision, PRECISIONS)} (known: {known})")
    missing = installed_engines()
    if name == "auto":
        name = next((known for known, command in missing.items() if command is None), "")
        if not name:
            raise EngineError(f"no inference engine is installed: {_ENGINES['openvino'][1]}")
    elif missing[name]:
        raise EngineError(f"the engine {name!r} is not installed: {missing[name]}")
    module, _, attribute = _ENGINES[name][2].partition(":")
    engine_class = getattr(import_module(module), attribute)
    return cast("Engine", engine_class(model, slots=slots, precision=precision, threads=threads))
