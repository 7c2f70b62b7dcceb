"""One GPU, through PyCUDA on the device's primary context, which PyTorch and TensorRT share."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from pathlib import Path
from typing import Any

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, EngineError
from streamer.cuda.current_context import is_current, pop_current, push_current, set_current
from streamer.cuda.driver_copy import DRIVER_LIBRARY
from streamer.cuda.status import checking, failure

log = logging.getLogger(__name__)

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, for all our streams: work on the default stream, such as NVDEC's, doesn't wait for them.

With blocking streams 60 decoders reached 1,388 pictures a second, with these 1,692 (H100, one run).
"""

_INSTALL = "pip install 'nanodet-streamer[cuda]'"
_DRIVER_PLACES = ("proc/driver/nvidia", "dev/nvidiactl", "dev/nvhost-gpu", "dev/nvmap")
"""Of the kernel's driver on servers and desktops, and on Jetson."""
_PCI_DEVICES = "sys/bus/pci/devices"


EVERY_GPU = "cuda:*"
"""The device that stands for all GPUs of the machine."""


def parse_device(device: str) -> int:
    """Parses ``cuda`` or ``cuda:N`` and returns the GPU's number.

    Raises:
        ConfigError: if it is neither.
    """
    name, _, number = device.partition(":")
    if name != "cuda" or not ((number.isascii() and number.isdigit()) or device == "cuda"):
        raise ConfigError(
            f"unknown device {device!r}: wanted auto, cpu, cuda or cuda:N, such as cuda:0; several GPUs are"
            f" cuda:0,cuda:1 or {EVERY_GPU}"
        )
    return int(number or 0)


def parse_devices(device: str) -> tuple[int, ...]:
    """Parses a GPU as `parse_device` does, several with commas between, or `EVERY_GPU`; returns their numbers.

    Raises:
        ConfigError: if one is unknown, or there twice.
    """
    if device == EVERY_GPU:
        count = load_pycuda().Device.count()
        return tuple(range(count)) or (0,)  # without one, opening it names the fix
    numbers = tuple(parse_device(part.strip()) for part in device.split(","))
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ConfigError(f"device {device!r} names GPU {twice} twice")
    return numbers


def load_pycuda() -> Any:
    """Returns `pycuda.driver`, initialised."""
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
    """Returns a GPU as PyCUDA's `Device`, without opening a context."""
    drv = load_pycuda()
    count = drv.Device.count()
    if not 0 <= index < count:
        has = f"this machine has {count}, counted from 0" if count else "this machine has none"
        raise EngineError(f"there is no GPU {index}: {has} (see nvidia-smi -L)")
    return drv.Device(index)


def list_gpus() -> list[str]:
    """Returns a line for each GPU, or one with the reason why there is none."""
    try:
        drv = load_pycuda()
    except EngineError as error:
        return [f"cuda           not usable: {error}"]
    devices = [drv.Device(index) for index in range(drv.Device.count())]
    lines = [
        f"cuda:{index:<9} {device.name()}, {device.total_memory() / 2**30:.0f} GiB"
        for index, device in enumerate(devices)
    ]
    if len(lines) > 1:
        lines.append(f"{EVERY_GPU:14} all of these: {','.join(f'cuda:{index}' for index in range(len(lines)))}")
    return lines or ["cuda           no NVIDIA GPU is visible"]


def expects_gpu(root: Path = Path("/")) -> bool:
    """Whether a run on this machine is expected to use a GPU: PyCUDA, NVIDIA's driver or one of its GPUs is there.

    A machine with only PyTorch or a builder of engines expects none: they are also used without a GPU.
    """
    if importlib.util.find_spec("pycuda") is not None or any((root / place).exists() for place in _DRIVER_PLACES):
        return True
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return any(map(_is_nvidia_gpu, (root / _PCI_DEVICES).glob("*")))
    return True


def _is_nvidia_gpu(device: Path) -> bool:
    """Whether a folder of `_PCI_DEVICES` is one of NVIDIA's display controllers (PCI class 03)."""
    try:
        vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
    except (OSError, ValueError):
        return False
    return vendor == "0x10de" and kind.startswith("0x03")


class Gpu(Closeable):
    """A GPU's primary context and counts of the memory allocated on it.

    A context must be current on the thread that calls CUDA. The methods of objects made from a `Gpu` enter `active`
    themselves, so an object may be made, used and closed on different threads, one at a time.

    Attributes:
        index: number of the GPU.
        name: such as ``NVIDIA H100 80GB HBM3``.
        compute_capability: such as (9, 0).
        arch: such as ``sm_90``.
        device_bytes: device memory held by this program's buffers.
        pinned_bytes: page-locked host memory held by them.
    """

    def __init__(self, index: int = 0) -> None:
        """Retains the primary context."""
        device = find_gpu(index)
        major, minor = self.compute_capability = device.compute_capability()
        self.index = index
        self.name = str(device.name())
        self.arch = f"sm_{major}{minor}"
        self.device_bytes = 0
        self.pinned_bytes = 0
        with checking(f"open GPU {index}"):
            self._context = device.retain_primary_context()
        self._active = _Active(index, self._context)

    def active(self) -> _Active:
        """Returns a context manager that makes the CUDA context current on this thread; it may be nested."""
        return self._active

    @property
    def handle(self) -> int:
        """The CUDA context's handle, which stays owned by this object."""
        return int(self._context.handle)

    def memory_used(self) -> int:
        """Returns the device memory in use by all programs, in bytes."""
        import pycuda.driver as drv

        with self._active, checking("ask for free memory"):
            free, total = drv.mem_get_info()
        return int(total - free)

    def synchronize(self) -> None:
        """Waits for all of this process's work on the GPU."""
        with self._active, checking("finish its work"):
            self._context.synchronize()

    def close(self) -> None:
        """Releases the primary context, after everything made from it is closed. Safe to call twice."""
        active = self._active
        if active.is_closed:
            return
        active.is_closed = True
        import pycuda.driver as drv

        try:
            with checking(f"close GPU {self.index}"):
                self._context.push()
                self._context.detach()  # takes it off PyCUDA's own stack, and leaves it current
            above = None if drv.Context.get_current() is None else pop_current()
            if is_current(active.handle):
                pop_current()
            if above is not None:
                push_current(above)
        except EngineError as error:  # of a GPU that has failed nothing can be freed
            log.info("%s", error)


class _Active:
    """Makes a context current on the calling thread within a block.

    Attributes:
        handle: the context's.
        is_closed: whether the context was released, also while a block is being left.
    """

    def __init__(self, index: int, context: Any) -> None:
        self._index, self._context, self.handle = index, context, int(context.handle)
        self.is_closed = False

    def __enter__(self) -> None:
        try:
            try:
                self._context.push()
            except Exception:  # PyCUDA can't pop the context of another GPU, which has failed: this one it can
                set_current(self.handle)
                self._context.push()
        except Exception as error:
            raise failure(f"use GPU {self._index}", error) from error

    def __exit__(self, *_: object) -> None:
        if self.is_closed:
            return
        try:
            set_current(self.handle)  # a library may have left another, which PyCUDA would pop in its place
            self._context.pop()
        except Exception as error:  # of a GPU that has failed, which the next call on it says too
            log.debug("GPU %d can't be left", self._index, exc_info=error)
