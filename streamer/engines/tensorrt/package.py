"""The packages that build TensorRT engines or run them, used through the same calls.

``tensorrt`` (data centre, workstation, Jetson; 10.1 to 11) builds for the present GPU. ``tensorrt_rtx`` (GeForce and
other RTX) builds for named architectures, also without a GPU. ``tensorrt_lean`` only runs version-compatible engines of
``tensorrt``, of its own version or an earlier one. Differences are found in the module itself, not derived
from its name, except for calls that TensorRT-RTX has but documents as without effect: timing caches (which would also
need a GPU) and version-compatible engines.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from streamer.common.errors import ConfigError, EngineError
from streamer.cuda.driver_copy import DRIVER_LIBRARY

_OLDEST_TENSORRT = (10, 1)  # the first with `device_memory_size_v2` and `set_device_memory`
_TARGET = re.compile(r"sm\d{2,3}")
_CC_MAJOR, _CC_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


class TensorRTPackage(StrEnum):
    """A package that builds engines or runs them, in the order of preference."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    TENSORRT_LEAN = "tensorrt-lean"

    @property
    def builder(self) -> TensorRTPackage:
        """The package that builds the engines which this one runs."""
        return TensorRTPackage.TENSORRT if self is TensorRTPackage.TENSORRT_LEAN else self

    @property
    def module_name(self) -> str:
        """The module to import."""
        return self.value.replace("-", "_")

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'nanodet-streamer[{self.value}]'"

    def load(self) -> Any:
        """Imports the module, unless it is missing, broken or too old."""
        try:
            trt = import_module(self.module_name)
        except ModuleNotFoundError as error:
            raise EngineError(f"{self.value} is not installed: {self.install}") from error
        except (ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"{self.value} is installed but can't be loaded ({reason}): {self.install}") from error
        version = tuple(int(number) for number in re.findall(r"\d+", trt.__version__)[:2])
        if self.builder is TensorRTPackage.TENSORRT and version < _OLDEST_TENSORRT:
            wanted = f"wanted {'.'.join(map(str, _OLDEST_TENSORRT))} or later"
            raise EngineError(f"{self.value} {trt.__version__} is too old, {wanted}: {self.install}")
        return trt


@dataclass(frozen=True)
class GpuModel:
    """A GPU of this machine: its name and its architecture, such as ``sm89``."""

    name: str
    target: str


def known_targets(trt: Any) -> tuple[str, ...] | None:
    """Returns the architectures that a module builds for by name; None when it builds only for the present GPU."""
    if not hasattr(trt, "ComputeCapability"):
        return None
    names = (name.lower() for name in trt.ComputeCapability.__members__)
    return _sorted(name for name in names if _TARGET.fullmatch(name))


def parse_targets(text: str) -> tuple[str, ...]:
    """Splits ``sm89,sm120``; `BuildOptions` checks the words."""
    return tuple(dict.fromkeys(word.strip().lower() for word in text.split(",")))


def choose_targets(
    package: TensorRTPackage, trt: Any, wanted: tuple[str, ...], gpu: GpuModel | None
) -> tuple[str, ...]:
    """Returns the architectures to build for, ascending: `wanted`, or where that is empty the present GPU's."""
    known = known_targets(trt)
    version = f"{package.value} {trt.__version__}"
    if gpu is None and known is None:
        other = TensorRTPackage.TENSORRT_RTX.value
        raise EngineError(
            f"{version} builds on the GPU that is to run the engine, and this machine has none that the driver shows;"
            f" --flavour {other} builds for a named architecture anywhere"
        )
    if gpu is None and not wanted:
        listed = ", ".join(known or ())
        raise EngineError(f"this machine has no NVIDIA GPU to build for: name one with --target ({version}: {listed})")
    targets = wanted or (gpu.target,) if gpu else wanted
    possible = known if known is not None else (gpu.target,) if gpu else ()
    unknown = next((target for target in targets if target not in possible), None)
    if unknown is not None:
        what = "knows" if known is not None else "builds only for the present GPU,"
        raise ConfigError(f"{version} can't build for {unknown}: it {what} {', '.join(possible)}")
    return _sorted(targets)


def _sorted(targets: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(targets, key=lambda name: int(name[2:])))


def present_gpu(index: int = 0) -> GpuModel | None:
    """Asks the NVIDIA driver for a GPU of this machine; None when there is no driver or no such GPU."""
    try:
        cuda = ctypes.CDLL(DRIVER_LIBRARY)
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
