"""Compiled kernels that take one struct, launched through `cuda-bindings`.

PyCUDA has no launch attributes, and these kernels need one: where the GPU has it (compute capability 9.0), a kernel may
start while the one before it ends (programmatic dependent launch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.common.errors import UnavailableError
from streamer.cuda.gpu import Gpu
from streamer.cuda.status import check, find_bindings

_DEFAULT_SHARED = 48 << 10
_SHARED_PERCENT = 100
"""Of the L1 cache as shared memory: the same for all kernels, so that one can start beside the one before it."""


def most_shared_memory(gpu: Gpu) -> int:
    """Returns the bytes of shared memory that a block of a kernel may have.

    Raises:
        UnavailableError: `cuda-bindings` isn't installed.
    """
    driver = _load_driver()
    wanted = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    device = check("find a GPU", driver.cuDeviceGet(gpu.index))
    return int(check("ask for its shared memory", driver.cuDeviceGetAttribute(wanted, device)))


def _load_driver() -> Any:
    driver = find_bindings()
    if driver is None:
        raise UnavailableError("cuda-bindings is not installed: pip install 'nanodet-streamer[cuda]'")
    return driver


class KernelModule:
    """A cubin's kernels on one GPU. The caller keeps the context current."""

    def __init__(self, gpu: Gpu, code: bytes) -> None:
        """Loads machine code."""
        self._driver = driver = _load_driver()
        self._overlaps = gpu.compute_capability >= (9, 0)
        self._module = check("load kernels", driver.cuModuleLoadData(code))
        self._functions: dict[str, Any] = {}
        self._shared: dict[str, int] = {}

    def launcher(
        self,
        kernel: str,
        parameters: npt.NDArray[np.void],
        grid: tuple[int, int],
        threads: int,
        shared: int,
        stream: int,
    ) -> KernelLaunch:
        """Returns a launch of one kernel on a stream; it owns a copy of the parameters."""
        driver = self._driver
        if kernel not in self._functions:
            self._functions[kernel] = check(
                f"find the kernel {kernel}", driver.cuModuleGetFunction(self._module, kernel.encode())
            )
        function = self._functions[kernel]
        kinds = driver.CUfunction_attribute
        carveout = kinds.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        check("divide the L1 cache", driver.cuFuncSetAttribute(function, carveout, _SHARED_PERCENT))
        if shared > self._shared.get(kernel, _DEFAULT_SHARED):  # of all its launches
            self._shared[kernel] = shared
            most = kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check("give a kernel shared memory", driver.cuFuncSetAttribute(function, most, shared))
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes, config.hStream = shared, driver.CUstream(stream)
        if self._overlaps:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        return KernelLaunch(driver, function, config, parameters.copy())

    def close(self) -> None:
        """Unloads the code. Safe to call twice."""
        if self._module is not None:
            check("unload kernels", self._driver.cuModuleUnload(self._module))
            self._module = None
            self._functions.clear()


class KernelLaunch:
    """Calling it puts the kernel on its stream."""

    def __init__(self, driver: Any, function: Any, config: Any, parameters: npt.NDArray[np.void]) -> None:
        self._driver, self._function, self._config = driver, function, config
        self._parameters = parameters
        self._addresses = np.array([parameters.ctypes.data], np.uint64)

    def __call__(self) -> None:
        launched = self._driver.cuLaunchKernelEx(self._config, self._function, int(self._addresses.ctypes.data), 0)
        check("launch a kernel", launched)


class Stopwatch:
    """Times work on a stream by the GPU's own events."""

    def __init__(self, stream: int) -> None:
        """Makes the events; the caller keeps the context current."""
        self._driver = driver = _load_driver()
        self._stream = driver.CUstream(stream)
        self._events = [check("make an event", driver.cuEventCreate(0)) for _ in range(2)]

    def ms(self, work: Callable[[], None]) -> float:
        """Runs `work`, which puts something on the stream, and returns how long the GPU took."""
        driver, (begin, end) = self._driver, self._events
        check("record an event", driver.cuEventRecord(begin, self._stream))
        work()
        check("record an event", driver.cuEventRecord(end, self._stream))
        check("wait for an event", driver.cuEventSynchronize(end))
        return float(check("read a time", driver.cuEventElapsedTime(begin, end)))

    def close(self) -> None:
        """Frees the events."""
        for event in self._events:
            check("free an event", self._driver.cuEventDestroy(event))
        self._events = []
