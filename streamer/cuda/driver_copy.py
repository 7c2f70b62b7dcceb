"""Asynchronous copies that keep the GIL.

PyCUDA and `cuda-bindings` release the GIL around a copy. With many threads waiting for the GIL, getting it back takes
far longer than the call, which only puts work on a stream.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

from streamer.cuda.status import failure

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""NVIDIA's driver for programs."""


def copy_on_device(target: int, source: int, nbytes: int, stream: int) -> None:
    """Puts a copy between two device addresses on a stream, given by its handle; a context must be current."""
    _check(load_driver().cuMemcpyDtoDAsync_v2(target, source, nbytes, stream))


def copy_to_device(target: int, source: int, nbytes: int, stream: int) -> None:
    """Puts a copy from page-locked memory to the GPU on a stream; see `copy_on_device`."""
    _check(load_driver().cuMemcpyHtoDAsync_v2(target, source, nbytes, stream))


def _check(status: int) -> None:
    if status:
        raise failure("copy", f"CUresult {status}")


@lru_cache(maxsize=1)
def load_driver() -> Any:
    """Returns the driver's library; its functions return a CUresult and keep the GIL."""
    driver = ctypes.PyDLL(DRIVER_LIBRARY)  # PyDLL keeps the GIL
    for name in ("cuMemcpyDtoDAsync_v2", "cuMemcpyHtoDAsync_v2"):
        getattr(driver, name).argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return driver
