"""One checker for everything CUDA says: PyCUDA's exceptions and the status codes of `cuda-bindings`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from streamer.common.errors import EngineError

# (what the message holds, what to do), in lower case; the first that fits is taken. The words are PyCUDA's
# (`curesult_to_str`) and the names those of the driver API's CUresult and the runtime's cudaError_t.
_ADVICE = (
    ("out of memory", "close other programs on the GPU, lower --depth, or take a smaller model"),
    ("memoryallocation", "close other programs on the GPU, lower --depth, or take a smaller model"),
    ("out_of_memory", "close other programs on the GPU, lower --depth, or take a smaller model"),
    ("no device", "no NVIDIA GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"),
    ("no_device", "no NVIDIA GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"),
    ("invalid device", "there is no GPU of that number: see nvidia-smi -L"),
    ("no binary for gpu", "the kernels were built for another architecture: delete the cache folder's 'cuda' folder"),
    ("insufficient", "the NVIDIA driver is older than this CUDA version needs: update the driver"),
    ("mismatch", "the NVIDIA driver and its libraries differ in version: reboot, or install the driver again"),
    ("ecc uncorrectable", "the GPU's memory is failing: reset or replace it"),
    ("launch failed", "a kernel crashed: please report it with the output of compute-sanitizer"),
    ("illegal", "a kernel crashed: please report it with the output of compute-sanitizer"),
    ("invalid/unknown error code", "see nvidia-smi: does the driver work, and is it new enough for this CUDA?"),
)


def failure(doing: str, error: object) -> EngineError:
    """Returns the exception for what CUDA said while `doing` something: one line, with the fix where one is known."""
    said = " ".join(str(error).split()) or type(error).__name__
    advice = next((advice for words, advice in _ADVICE if words in said.lower()), None)
    return EngineError(f"CUDA failed to {doing}: {said}{f'; {advice}' if advice else ''}")


@contextlib.contextmanager
def checking(doing: str) -> Iterator[None]:
    """Turns any error of PyCUDA within the block into an `EngineError`; `doing` completes "CUDA failed to ..."."""
    import pycuda.driver as drv

    try:
        yield
    except drv.Error as error:
        raise failure(doing, error) from error


def check(doing: str, returned: tuple[Any, ...]) -> Any:
    """Takes what a function of `cuda-bindings` returned, ``(status, *values)``.

    Returns:
        The value, a tuple of values where there are several, or None.

    Raises:
        EngineError: if the status isn't success.
    """
    status, *values = returned
    if int(status) != 0:
        raise failure(doing, f"{getattr(status, 'name', 'status')} ({int(status)})")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)
