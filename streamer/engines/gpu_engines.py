"""GPU engines by name, without importing any of their packages."""

from __future__ import annotations

import importlib.util

_INSTALL = {
    "int8": "pip install 'nanodet-streamer[cuda]'",
    "tensorrt": "pip install 'nanodet-streamer[tensorrt]', or [tensorrt-rtx] on a GeForce RTX",
    "torch": "pip install 'nanodet-streamer[torch]'",
}
_PACKAGES = {
    "int8": ("cuda.bindings",),
    "tensorrt": ("tensorrt", "tensorrt_rtx", "tensorrt_lean"),
    "torch": ("torch",),
}
PACKAGE_NAMES = {"int8": "cuda-bindings", "tensorrt": "TensorRT", "torch": "PyTorch"}
GPU_ENGINES = tuple(_INSTALL)
"""In the order in which ``auto`` tries them."""


def installed_gpu_engines() -> dict[str, str | None]:
    """Returns for every GPU engine None when its package is installed, else the command that installs it."""
    return {name: None if any(map(_is_installed, _PACKAGES[name])) else command for name, command in _INSTALL.items()}


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent isn't; `cuda` alone may be another package's
        return False
