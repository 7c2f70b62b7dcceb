"""The CUDA context that is current on the calling thread, whichever library made it current.

PyTorch, NVDEC and TensorRT make contexts current by themselves and may leave another one than they found. PyCUDA only
knows what it has pushed itself.
"""

from __future__ import annotations

import ctypes

from streamer.common.errors import EngineError
from streamer.cuda.driver_copy import load_driver
from streamer.cuda.status import failure


def get_current() -> int:
    """Returns the current context's handle, 0 for none."""
    handle = ctypes.c_void_p()
    _check("cuCtxGetCurrent", load_driver().cuCtxGetCurrent(ctypes.byref(handle)))
    return handle.value or 0


def is_current(handle: int) -> bool:
    """Returns whether a context is current, or one that was destroyed, for which the driver has an error."""
    try:
        return get_current() == handle
    except EngineError:
        return True


def set_current(handle: int) -> None:
    """Makes a context current in place of the one that is; 0 makes none current."""
    _check("cuCtxSetCurrent", load_driver().cuCtxSetCurrent(ctypes.c_void_p(handle)))


def push_current(handle: int) -> None:
    """Makes a context current on top of the one that is."""
    _check("cuCtxPushCurrent", load_driver().cuCtxPushCurrent_v2(ctypes.c_void_p(handle)))


def pop_current() -> int:
    """Makes the context below the current one current; returns the handle of the one that was."""
    handle = ctypes.c_void_p()
    _check("cuCtxPopCurrent", load_driver().cuCtxPopCurrent_v2(ctypes.byref(handle)))
    return handle.value or 0


class preserving_current:
    """Makes the context that is current before a block current again after it, also where the block fails."""

    def __enter__(self) -> None:
        self._before = get_current()

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            set_current(self._before)
        except EngineError:
            if kind is None:
                raise


def _check(function: str, status: int) -> None:
    if status:
        raise failure(f"switch GPUs ({function})", f"CUresult {status}")
