"""Calls that only put work on a stream, made without letting other Python threads in.

PyCUDA and `cuda-bindings` give up the interpreter's lock around a copy. Where a hundred threads want that lock, getting
it back takes a hundred times as long as the call.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from streamer.cuda.status import failure


def copy_on_device(target: int, source: int, nbytes: int, stream: int) -> None:
    """Puts a copy within the GPU on a stream; a context must be current.

    Args:
        target: address to copy to.
        source: address to copy from.
        nbytes: how much.
        stream: the stream's handle.

    Raises:
        EngineError: if CUDA refuses.
    """
    _checked(_driver().cuMemcpyDtoDAsync_v2(target, source, nbytes, stream))


def copy_to_device(target: int, source: int, nbytes: int, stream: int) -> None:
    """Puts a copy from page-locked memory to the GPU on a stream; a context must be current. See `copy_on_device`.

    Raises:
        EngineError: if CUDA refuses.
    """
    _checked(_driver().cuMemcpyHtoDAsync_v2(target, source, nbytes, stream))


def _checked(status: int) -> None:
    if status:
        raise failure("copy", f"CUresult {status}")


@lru_cache(maxsize=1)
def _driver() -> Any:
    driver = ctypes.PyDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    for name in ("cuMemcpyDtoDAsync_v2", "cuMemcpyHtoDAsync_v2"):
        getattr(driver, name).argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return driver
