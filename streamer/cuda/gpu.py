"""One GPU, through PyCUDA on the device's primary context, which PyTorch and TensorRT share."""

from __future__ import annotations

import importlib.util
from types import TracebackType
from typing import Any

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, EngineError
from streamer.cuda.status import checking, failure

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, for every stream of ours: what others put on the default stream waits for none of them.

NVDEC's library does; with ordinary streams each picture would wait for all of the detector's work. With the decoders'
streams ordinary, 60 of them reached 1,388 pictures a second, with none 1,692 (H100, one run).
"""

_INSTALL = "pip install 'nanodet-streamer[cuda]'"


def parse_device(device: str) -> int:
    """Reads ``cuda`` or ``cuda:N`` and returns the GPU's number.

    Raises:
        ConfigError: if it is neither.
    """
    name, _, number = device.partition(":")
    if name != "cuda" or not ((number.isascii() and number.isdigit()) or device == "cuda"):
        raise ConfigError(f"unknown device {device!r}: wanted auto, cpu, cuda or cuda:N, such as cuda:0")
    return int(number or 0)


def load_pycuda() -> Any:
    """Returns `pycuda.driver`, initialised.

    Raises:
        EngineError: if PyCUDA or the NVIDIA driver is missing, or the driver refuses; the line says which.
    """
    if importlib.util.find_spec("pycuda") is None:
        raise EngineError(f"PyCUDA is not installed: {_INSTALL}")
    try:
        import pycuda.driver as drv
    except ImportError as error:
        if "libcuda" in str(error):
            raise EngineError(
                "no NVIDIA driver: libcuda can't be loaded; install the driver, or start the container with --gpus all"
            ) from error
        raise EngineError(f"PyCUDA can't be loaded ({error}): {_INSTALL} again, for this CUDA version") from error
    try:
        drv.init()
    except drv.Error as error:
        raise failure("start", error) from error
    return drv


def find_gpu(index: int) -> Any:
    """Returns a GPU as PyCUDA's `Device`; nothing is opened on it.

    Raises:
        EngineError: if there is no such GPU, or no driver, or PyCUDA is missing.
    """
    drv = load_pycuda()
    count = drv.Device.count()
    if not 0 <= index < count:
        has = f"this machine has {count}, counted from 0" if count else "this machine has none"
        raise EngineError(f"there is no GPU {index}: {has} (see nvidia-smi -L)")
    return drv.Device(index)


def list_gpus() -> list[str]:
    """Returns a line for each GPU, or one that says why there is none."""
    try:
        drv = load_pycuda()
    except EngineError as error:
        return [f"cuda           not usable: {error}"]
    lines = []
    for index in range(drv.Device.count()):
        device = drv.Device(index)
        lines.append(f"cuda:{index:<9} {device.name()}, {device.total_memory() / 2**30:.0f} GiB")
    return lines or ["cuda           no NVIDIA GPU is visible"]


class Gpu(Closeable):
    """A GPU's primary context and what was allocated on it.

    A context must be current on every thread that calls CUDA: each public method of the objects made from a `Gpu`
    enters `active` itself, so they may be made on one thread, used on another and closed on a third, one at a time.

    Attributes:
        index: number of the GPU.
        name: such as ``NVIDIA H100 80GB HBM3``.
        arch: such as ``sm_90``.
        device_bytes: device memory now held by our own buffers.
        pinned_bytes: page-locked host memory now held by our own buffers.
    """

    def __init__(self, index: int = 0) -> None:
        """Retains the primary context.

        Raises:
            EngineError: if there is no such GPU, or no driver, or PyCUDA is missing.
        """
        device = find_gpu(index)
        major, minor = device.compute_capability()
        self.index = index
        self.name = str(device.name())
        self.arch = f"sm_{major}{minor}"
        self.device_bytes = 0
        self.pinned_bytes = 0
        with checking(f"open GPU {index}"):
            self._context = device.retain_primary_context()
        self._active = _Active(self._context)
        self._closed = False

    def active(self) -> _Active:
        """Returns a block in which the context is current on this thread; blocks may be nested."""
        return self._active

    @property
    def handle(self) -> int:
        """The context's handle, for libraries that work within it; it stays ours."""
        return int(self._context.handle)

    def memory_used(self) -> int:
        """Returns the device memory in use by all programs, in bytes."""
        import pycuda.driver as drv

        with self._active, checking("ask for free memory"):
            free, total = drv.mem_get_info()
        return int(total - free)

    def synchronize(self) -> None:
        """Waits for all work on the GPU of this process.

        Raises:
            EngineError: if any of it failed.
        """
        with self._active, checking("finish its work"):
            self._context.synchronize()

    def close(self) -> None:
        """Gives the primary context back. Safe to call twice; what was made from it must be closed before."""
        if not self._closed:
            self._closed = True
            self._context.push()
            self._context.detach()  # leaves PyCUDA's own stack by itself


class _Active:
    """Makes a context current on the calling thread for the length of a block."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._context.push()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.pop()
