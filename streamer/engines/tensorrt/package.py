"""The two packages that build TensorRT engines, driven through the same calls.

``tensorrt`` (data centre, workstation, Jetson; 10 and 11) builds for the GPU it runs on. ``tensorrt_rtx`` (GeForce and
other RTX) builds for named architectures, on a machine without a GPU too. What one has and the other lacks is asked of
the module, never guessed from its name, except where TensorRT-RTX still has a call that its documentation, or its
builder, says does nothing: timing caches (they would also ask for a GPU) and version-compatible engines.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from streamer.common.errors import ConfigError, EngineError

_OLDEST_TENSORRT = 10
_TARGET = re.compile(r"sm\d{2,3}")
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CC_MAJOR, _CC_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


class TensorRTPackage(StrEnum):
    """A package that builds engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def module_name(self) -> str:
        """What is imported."""
        return self.value.replace("-", "_")

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'nanodet-streamer[{self.value}]'"

    @property
    def has_timing_cache(self) -> bool:
        """Whether remembered kernel timings make the next build quicker."""
        return self is TensorRTPackage.TENSORRT

    @property
    def has_version_compatibility(self) -> bool:
        """Whether an engine can be built to run on later versions of the package too."""
        return self is TensorRTPackage.TENSORRT


@dataclass(frozen=True)
class GpuModel:
    """A GPU of this machine: its name and its architecture, such as ``sm89``."""

    name: str
    target: str


def load_flavour(flavour: TensorRTPackage) -> Any:
    """Imports a flavour's module.

    Raises:
        EngineError: it isn't installed, can't be loaded, or is too old.
    """
    try:
        trt = import_module(flavour.module_name)
    except ModuleNotFoundError as error:
        raise EngineError(f"{flavour.value} is not installed: {flavour.install}") from error
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{flavour.value} is installed but can't be loaded ({reason}): {flavour.install}") from error
    if flavour is TensorRTPackage.TENSORRT and int(trt.__version__.split(".")[0]) < _OLDEST_TENSORRT:
        wanted = f"wanted {_OLDEST_TENSORRT} or later"
        raise EngineError(f"tensorrt {trt.__version__} is too old, {wanted}: {flavour.install}")
    return trt


def known_targets(trt: Any) -> tuple[str, ...] | None:
    """Returns the architectures that a module builds for by name; None when it builds for the present GPU alone."""
    if not hasattr(trt, "ComputeCapability"):
        return None
    names = (name.lower() for name in trt.ComputeCapability.__members__)
    return tuple(sorted((name for name in names if _TARGET.fullmatch(name)), key=lambda name: int(name[2:])))


def parse_targets(text: str) -> tuple[str, ...]:
    """Reads ``sm89,sm120``.

    Raises:
        ConfigError: a word isn't an architecture.
    """
    words = [word.strip().lower() for word in text.split(",")]
    wrong = next((word for word in words if not _TARGET.fullmatch(word)), None)
    if wrong is not None:
        raise ConfigError(f"an architecture is written sm89 or sm120, several with commas between; got {wrong!r}")
    return tuple(dict.fromkeys(words))


def choose_targets(
    flavour: TensorRTPackage, trt: Any, wanted: tuple[str, ...], gpu: GpuModel | None
) -> tuple[str, ...]:
    """Returns the architectures to build for: `wanted`, or where that is empty the present GPU's, in ascending order.

    Raises:
        ConfigError: the module doesn't build for one of them.
        EngineError: none is wanted and there is no GPU, or the module needs a GPU and there is none.
    """
    known = known_targets(trt)
    package = f"{flavour.value} {trt.__version__}"
    if gpu is None and known is None:
        other = TensorRTPackage.TENSORRT_RTX.value
        raise EngineError(
            f"{package} builds on the GPU that is to run the engine, and this machine has none that the driver shows;"
            f" --flavour {other} builds for a named architecture anywhere"
        )
    if gpu is None and not wanted:
        listed = ", ".join(known or ())
        raise EngineError(f"this machine has no NVIDIA GPU to build for: name one with --target ({package}: {listed})")
    targets = wanted or (gpu.target,) if gpu else wanted
    possible = known if known is not None else (gpu.target,) if gpu else ()
    unknown = next((target for target in targets if target not in possible), None)
    if unknown is not None:
        what = "knows" if known is not None else "builds only for the present GPU,"
        raise ConfigError(f"{package} can't build for {unknown}: it {what} {', '.join(possible)}")
    return tuple(sorted(targets, key=lambda name: int(name[2:])))


def present_gpu(index: int = 0) -> GpuModel | None:
    """Asks the NVIDIA driver for a GPU of this machine; None when there is no driver or no such GPU."""
    try:
        cuda = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    calls: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), index)),
        ("cuDeviceGetName", (name, len(name), device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), _CC_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), _CC_MINOR, device)),
    )
    if any(getattr(cuda, call)(*arguments) != 0 for call, arguments in calls):
        return None
    return GpuModel(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")
