"""Errors of CUDA, from PyCUDA's exceptions and the status codes of `cuda-bindings`."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from streamer.common.errors import EngineError

_NO_MEMORY = "close other programs on the GPU, lower --depth, or take a smaller model"
_NO_DEVICE = "no NVIDIA GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
_CRASHED = "a kernel crashed: please report it with the output of compute-sanitizer"
# (part of the message in lower case, advice); the first match counts. The words are PyCUDA's (`curesult_to_str`), the
# names those of the driver API's CUresult and the runtime's cudaError_t.
_ADVICE = (
    ("out of memory", _NO_MEMORY),
    ("memoryallocation", _NO_MEMORY),
    ("out_of_memory", _NO_MEMORY),
    ("no device", _NO_DEVICE),
    ("no_device", _NO_DEVICE),
    ("invalid device", "there is no GPU of that number: see nvidia-smi -L"),
    ("no binary for gpu", "the kernels were built for another architecture: delete the cache folder's 'cuda' folder"),
    ("insufficient", "the NVIDIA driver is older than this CUDA version needs: update the driver"),
    ("mismatch", "the NVIDIA driver and its libraries differ in version: reboot, or install the driver again"),
    ("ecc uncorrectable", "the GPU's memory is failing: reset or replace it"),
    ("launch failed", _CRASHED),
    ("illegal", _CRASHED),
    ("invalid/unknown error code", "see nvidia-smi: does the driver work, and is it new enough for this CUDA?"),
)


def find_bindings() -> Any | None:
    """Returns `cuda.bindings.driver`; None where `cuda-bindings` isn't installed."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return None
    from cuda.bindings import driver

    return driver


def failure(action: str, error: object) -> EngineError:
    """Returns "CUDA failed to `action`: ..." as an exception: one line, with the fix where one is known."""
    message = " ".join(str(error).split()) or type(error).__name__
    advice = next((advice for words, advice in _ADVICE if words in message.lower()), None)
    return EngineError(f"CUDA failed to {action}: {message}{f'; {advice}' if advice else ''}")


@contextlib.contextmanager
def checking(action: str) -> Iterator[None]:
    """Converts PyCUDA's errors within the block to `EngineError`; `action` completes "CUDA failed to ..."."""
    import pycuda.driver as drv

    try:
        yield
    except drv.Error as error:
        raise failure(action, error) from error


def check(action: str, returned: tuple[Any, ...]) -> Any:
    """Unpacks what a function of `cuda-bindings` returned, ``(status, *values)``.

    Returns:
        The value, a tuple of values where there are several, or None.
    """
    status, *values = returned
    if int(status) != 0:
        raise failure(action, f"{getattr(status, 'name', 'status')} ({int(status)})")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)
