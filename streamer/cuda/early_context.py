"""Creates a GPU's primary context on a thread of its own, while the program imports packages and reads its model.

Creating it takes a third of a second or more and needs nothing of Python: the driver's calls run without the GIL.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from streamer.cuda.driver_copy import DRIVER_LIBRARY

log = logging.getLogger(__name__)


@contextmanager
def early_context(device: str) -> Iterator[None]:
    """Creates the context of a GPU in the background, and keeps it at least until the block ends.

    Whoever uses the GPU retains the same context within the block. Nothing happens for ``cpu``, without PyCUDA or
    without a driver; a failure is left for the one who uses the GPU, as that one reports it.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    name, _, number = device.partition(":")
    if name not in ("auto", "cuda") or importlib.util.find_spec("pycuda") is None:
        yield
        return
    index = int(number) if number.isascii() and number.isdigit() else 0
    releases: list[Callable[[], int]] = []
    thread = threading.Thread(target=_retain, args=(index, releases), name="early-context", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        for release in releases:
            release()


def _retain(index: int, releases: list[Callable[[], int]]) -> None:
    """Retains the context, and adds the call that releases it where that succeeded."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        log.debug("no driver: %s", error)
        return
    context, gpu = ctypes.c_void_p(), ctypes.c_int()
    status = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(gpu), index)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), gpu)
    )
    if status:
        log.debug("GPU %d has no context yet: the driver's status is %d", index, status)
    else:
        releases.append(partial(driver.cuDevicePrimaryCtxRelease_v2, gpu))
