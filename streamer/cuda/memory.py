"""Device memory and page-locked host memory, allocated once and reused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.cuda.gpu import Gpu
from streamer.cuda.status import checking


class DeviceMemory:
    """`nbytes` of memory at `address` on `gpu`, owned or not.

    `write` and `read` raise ValueError for a host array that is larger or isn't contiguous.
    """

    def __init__(self, gpu: Gpu, address: int, nbytes: int) -> None:
        self.gpu = gpu
        self.address = address
        self.nbytes = nbytes

    def write(self, array: npt.NDArray[Any]) -> None:
        """Copies a contiguous host array to the beginning of the memory, and waits for it."""
        import pycuda.driver as drv

        self._check_fit(array)
        with self.gpu.active(), checking("copy to the GPU"):
            drv.memcpy_htod(self.address, array)

    def read(self, array: npt.NDArray[Any]) -> None:
        """Fills a contiguous host array from the beginning of the memory, and waits for it."""
        import pycuda.driver as drv

        self._check_fit(array)
        with self.gpu.active(), checking("copy from the GPU"):
            drv.memcpy_dtoh(array, self.address)

    def _check_fit(self, array: npt.NDArray[Any]) -> None:
        if array.nbytes > self.nbytes or not array.flags.c_contiguous:
            raise ValueError(
                f"wanted a contiguous array of at most {self.nbytes} bytes, got {array.nbytes} bytes,"
                f" strides {array.strides}"
            )


class DeviceBuffer(DeviceMemory):
    """Device memory that this process allocated, aligned to 256 bytes."""

    def __init__(self, gpu: Gpu, nbytes: int, *, zeroed: bool = True) -> None:
        """Allocates memory; `zeroed` clears it on the default stream, which may still run on return."""
        import pycuda.driver as drv

        with gpu.active(), checking(f"allocate {nbytes / 1e6:.1f} MB of GPU memory"):
            self._memory: Any = drv.mem_alloc(nbytes)
            if zeroed:
                drv.memset_d8(int(self._memory), 0, nbytes)
        super().__init__(gpu, int(self._memory), nbytes)
        gpu.device_bytes += nbytes

    @staticmethod
    def holding(gpu: Gpu, array: npt.NDArray[Any]) -> DeviceBuffer:
        """Returns a new buffer with a copy of a host array, which may be empty."""
        buffer = DeviceBuffer(gpu, max(1, array.nbytes))
        if array.nbytes:
            buffer.write(np.ascontiguousarray(array))
        return buffer

    def free(self) -> None:
        """Frees the memory. Safe to call twice."""
        if self._memory is not None:
            with self.gpu.active(), checking("free GPU memory"):
                self._memory.free()
            self._memory = None
            self.gpu.device_bytes -= self.nbytes


class Surface(DeviceBuffer):
    """Device memory for one picture that is written on one stream and read on others.

    Attributes:
        ready_event: recorded after the writes; readers wait for it.
        on_free: called before the memory is freed; an exporter waits there until no other process has it mapped.
    """

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        """Allocates memory, not zeroed."""
        import pycuda.driver as drv

        super().__init__(gpu, nbytes, zeroed=False)
        with gpu.active(), checking("make an event"):
            self.ready_event: Any = drv.Event(drv.event_flags.DISABLE_TIMING)
        self.on_free: Callable[[], None] | None = None

    def wait(self) -> None:
        """Waits until the picture is complete."""
        with self.gpu.active(), checking("wait for a picture"):
            self.ready_event.synchronize()

    def read(self, array: npt.NDArray[Any]) -> None:
        """Waits until the picture is complete, and copies it; see `DeviceMemory.read`."""
        self.wait()
        super().read(array)

    def free(self) -> None:
        on_free, self.on_free = self.on_free, None
        if on_free is not None:
            on_free()
        with self.gpu.active():
            self.ready_event = None
        super().free()


class PinnedBuffer:
    """Page-locked host memory, which the GPU can copy asynchronously, and read and write in place.

    Attributes:
        array: (nbytes,) uint8; invalid after `free`.
        address: of its first byte, the same for the host and the GPU.
        nbytes: its size.
    """

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        """Allocates memory, zeroed."""
        import pycuda.driver as drv

        with gpu.active(), checking(f"page-lock {nbytes / 1e6:.1f} MB of host memory"):
            flags = drv.host_alloc_flags.DEVICEMAP | drv.host_alloc_flags.PORTABLE
            self._memory: Any = drv.pagelocked_zeros(nbytes, np.uint8, mem_flags=flags)
        self._gpu = gpu
        self.array: npt.NDArray[np.uint8] = self._memory
        self.address = int(self._memory.ctypes.data)
        self.nbytes = nbytes
        gpu.pinned_bytes += nbytes

    def free(self) -> None:
        """Frees the memory. Safe to call twice."""
        if self._memory is not None:
            with self._gpu.active(), checking("free page-locked memory"):
                self._memory.base.free()
            self._memory = None
            self._gpu.pinned_bytes -= self.nbytes
