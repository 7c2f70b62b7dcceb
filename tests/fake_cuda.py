"""Several fake GPUs on the host, strict about contexts: PyCUDA, the driver's own calls, and PyTorch's current device.

A stream, event, module, function or piece of device memory is used with its own GPU's context current, or the call
fails as on a real GPU. PyCUDA keeps its own stack of contexts beside the driver's, as the real one does, and PyTorch
makes contexts current by itself, also of GPUs that a run doesn't use.
"""

from __future__ import annotations

import contextlib
import ctypes
import types
from collections.abc import Callable, Iterator
from threading import local
from typing import Any

import numpy as np
import pytest

from tests.fake_gpu import put_module
from tests.host_kernels import HostKernels

ILLEGAL = "an illegal memory access was encountered"
_ILLEGAL_STATUS, _INVALID_HANDLE_STATUS = 700, 400
_GiB = 1 << 30
_ALIGNMENT = 256


class FakeCuda:
    """`count` GPUs.

    Attributes:
        failed: GPUs whose context is lost: each call with it current fails.
        switching_fails: whether pushing and popping the context of such a GPU fails too.
        primary: how often each GPU's primary context is retained.
        launched: names of the kernels that were launched on each GPU.
        before_launch: called with the GPU's number before each launch; may raise, wait, or fail a GPU.
        kernels: run the kernels' source; without them a launch does nothing.
        recorded: the work of each stream, by its handle, that a graph is being captured on.
    """

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.failed: set[int] = set()
        self.switching_fails = False
        self.primary = [0] * count
        self.launched: list[list[str]] = [[] for _ in range(count)]
        self.before_launch: Callable[[int], None] = lambda index: None
        self.kernels: HostKernels | None = None
        self.recorded: dict[int, list[Callable[[], None]]] = {}
        self.blocks: dict[int, tuple[int, int, Any]] = {}  # address: bytes, GPU (-1: page-locked), what keeps it
        self.streams: dict[int, int] = {}
        self._threads = local()

    def fail(self, index: int) -> None:
        """Loses a GPU's context, as a kernel that crashed or a GPU that fell off its bus does."""
        self.failed.add(index)

    @property
    def stack(self) -> list[int]:
        """The driver's stack of current contexts on this thread, as numbers of GPUs."""
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
        stack: list[int] = self._threads.stack
        return stack

    @property
    def logical(self) -> list[Any]:
        """PyCUDA's own stack on this thread."""
        if not hasattr(self._threads, "logical"):
            self._threads.logical = []
        logical: list[Any] = self._threads.logical
        return logical

    def need(self, owner: int | None, function: str, error: type[Exception]) -> int:
        """Returns the current GPU; raises where there is none, it has failed, or it isn't `owner`."""
        if not self.stack:
            raise error(f"{function} failed: invalid device context")
        if self.stack[-1] in self.failed:
            raise error(f"{function} failed: {ILLEGAL}")
        if owner is not None and owner != self.stack[-1]:
            raise error(f"{function} failed: invalid resource handle")
        return self.stack[-1]

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """Does work on a stream: at once, or whenever the graph is launched that is being captured."""
        if stream in self.recorded:
            self.recorded[stream].append(work)
        else:
            work()

    def owner_of(self, address: int) -> int:
        """Returns the GPU that an address belongs to, -1 for page-locked memory, -2 for none."""
        for begin, (nbytes, owner, _) in self.blocks.items():
            if begin <= address < begin + nbytes:
                return owner
        return -2

    def touch(self, address: int) -> bool:
        """Whether the current GPU may read an address; where not, its context is lost."""
        if self.owner_of(address) in (-1, self.stack[-1]):
            return True
        self.fail(self.stack[-1])
        return False


def handle_of(index: int) -> int:
    """Returns the handle of a GPU's context."""
    return 0x1000 + index


def install(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> FakeCuda:
    """Replaces PyCUDA, the driver's library, and the kernels' compiler."""
    cuda = FakeCuda(count)
    driver = _pycuda(cuda)
    put_module(monkeypatch, "pycuda", driver=driver)
    monkeypatch.setitem(__import__("sys").modules, "pycuda.driver", driver)
    library = _Library(cuda)
    for module in ("driver_copy", "current_context"):
        monkeypatch.setattr(f"streamer.cuda.{module}.load_driver", lambda: library)
    monkeypatch.setattr("streamer.cuda.kernels.cubin", lambda name, arch: name.encode())
    return cuda


class _Library:
    """The driver's functions that are called without PyCUDA."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def cuCtxGetCurrent(self, into: Any) -> int:
        stack = self._cuda.stack
        into._obj.value = handle_of(stack[-1]) if stack else None
        return 0

    def cuCtxSetCurrent(self, handle: Any) -> int:
        if self._cuda.stack:
            self._cuda.stack.pop()
        if handle.value:
            self._cuda.stack.append(handle.value - handle_of(0))
        return 0

    def cuCtxPushCurrent_v2(self, handle: Any) -> int:
        self._cuda.stack.append(handle.value - handle_of(0))
        return 0

    def cuCtxPopCurrent_v2(self, into: Any) -> int:
        if not self._cuda.stack:
            return 201
        into._obj.value = handle_of(self._cuda.stack.pop())
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: int, source: int, nbytes: int, stream: int) -> int:
        cuda = self._cuda
        if not cuda.stack or cuda.streams[stream] != cuda.stack[-1]:
            return _INVALID_HANDLE_STATUS
        if cuda.stack[-1] in cuda.failed or not (cuda.touch(target) and cuda.touch(source)):
            return _ILLEGAL_STATUS
        ctypes.memmove(target, source, nbytes)
        return 0

    cuMemcpyDtoDAsync_v2 = cuMemcpyHtoDAsync_v2


def _pycuda(cuda: FakeCuda) -> types.ModuleType:
    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    def need(owner: int | None, function: str) -> int:
        return cuda.need(owner, function, LogicError)

    def leave() -> None:
        """PyCUDA's `prepare_context_switch`."""
        if cuda.logical:
            if not cuda.stack:
                raise LogicError("cuCtxPopCurrent failed: invalid device context")
            if cuda.switching_fails and cuda.stack[-1] in cuda.failed:
                raise LogicError(f"cuCtxPopCurrent failed: {ILLEGAL}")
            cuda.stack.pop()

    def current(but: object = None) -> Any:
        while cuda.logical:
            if cuda.logical[-1] is not but and cuda.logical[-1].is_valid:
                return cuda.logical[-1]
            cuda.logical.pop()
        return None

    class Context:
        def __init__(self, index: int) -> None:
            self.index, self.handle, self.is_valid = index, handle_of(index), True

        get_current = staticmethod(current)

        def push(self) -> None:
            leave()
            if cuda.switching_fails and self.index in cuda.failed:
                raise LogicError(f"cuCtxPushCurrent failed: {ILLEGAL}")
            cuda.stack.append(self.index)
            cuda.logical.append(self)

        @staticmethod
        def pop() -> None:
            leave()
            if not cuda.logical:
                raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
            current()
            if not cuda.logical:
                raise LogicError("m_stack::pop failed: invalid device context - cannot pop context from empty stack")
            cuda.logical.pop()
            below = current()
            if below is not None:
                if cuda.switching_fails and below.index in cuda.failed:
                    raise LogicError(f"cuCtxPushCurrent failed: {ILLEGAL}")
                cuda.stack.append(below.index)

        def detach(self) -> None:
            if not self.is_valid:
                raise LogicError("context::detach failed: invalid device context")
            assert current() is self, "out-of-thread contexts leak"
            cuda.primary[self.index] -= 1
            self.is_valid = False
            below = current(self)
            if below is not None:
                cuda.stack.append(below.index)

        def synchronize(self) -> None:
            need(None, "cuCtxSynchronize")

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        @staticmethod
        def count() -> int:
            return cuda.count

        def name(self) -> str:
            return "Fake GPU"

        def total_memory(self) -> int:
            return 8 * _GiB

        def compute_capability(self) -> tuple[int, int]:
            return 9, 0

        def retain_primary_context(self) -> Context:
            cuda.primary[self.index] += 1
            return Context(self.index)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            self.index = need(None, "cuStreamCreate")
            self.handle = id(self)
            cuda.streams[self.handle] = self.index

        def synchronize(self) -> None:
            need(self.index, "cuStreamSynchronize")
            assert self.handle not in cuda.recorded, "a stream that is being captured can't be waited for"

        def wait_for_event(self, event: Event) -> None:
            need(self.index, "cuStreamWaitEvent")

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self.index = need(None, "cuEventCreate")

        def record(self, stream: Stream) -> None:
            need(self.index, "cuEventRecord")
            need(stream.index, "cuEventRecord")

        def synchronize(self) -> None:
            need(self.index, "cuEventSynchronize")

        def time_till(self, other: Event) -> float:
            need(other.index, "cuEventElapsedTime")
            return 1.0

    class Allocation:
        def __init__(self, nbytes: int) -> None:
            self.index = need(None, "cuMemAlloc")
            self._bytes = (ctypes.c_uint8 * (nbytes + _ALIGNMENT))()
            self._address = -(-ctypes.addressof(self._bytes) // _ALIGNMENT) * _ALIGNMENT
            cuda.blocks[self._address] = (nbytes, self.index, self._bytes)

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            need(self.index, "cuMemFree")
            del cuda.blocks[self._address]

    class Pinned:
        def __init__(self, nbytes: int) -> None:
            self._bytes = (ctypes.c_uint8 * nbytes)()
            self.address = ctypes.addressof(self._bytes)
            cuda.blocks[self.address] = (nbytes, -1, self._bytes)
            self.__array_interface__ = {
                "shape": (nbytes,), "typestr": "|u1", "data": (self.address, False), "version": 3,
            }  # fmt: skip

        def free(self) -> None:
            need(None, "cuMemFreeHost")
            del cuda.blocks[self.address]

    class Function:
        def __init__(self, index: int, name: str) -> None:
            self._index, self._name, self._format = index, name, ""

        def prepare(self, arg_format: str) -> None:
            self._format = arg_format

        def prepared_async_call(self, grid: Any, block: object, stream: Stream, *arguments: Any) -> None:
            cuda.before_launch(self._index)
            need(self._index, "cuFuncSetBlockShape")
            need(stream.index, "cuLaunchKernel")
            for kind, value in zip(self._format, arguments, strict=True):
                if kind == "P" and not cuda.touch(value):
                    raise LogicError(f"cuLaunchKernel failed: {ILLEGAL}")
            cuda.launched[self._index].append(self._name)
            kernels = cuda.kernels
            if kernels is not None:
                cuda.put(stream.handle, lambda: kernels.run(self._name, grid, arguments))

    class Module:
        def __init__(self, content: bytes) -> None:
            self._index = need(None, "cuModuleLoadDataEx")

        def get_function(self, name: str) -> Function:
            need(self._index, "cuModuleGetFunction")
            return Function(self._index, name)

    def move(target: int, source: int, nbytes: int, of_device: int) -> None:
        need(None, "cuMemcpy")
        if not cuda.touch(of_device):
            raise LogicError(f"cuMemcpy failed: {ILLEGAL}")
        ctypes.memmove(target, source, nbytes)

    driver = types.ModuleType("pycuda.driver")
    vars(driver).update(
        Error=Error, LogicError=LogicError, Context=Context, Device=Device, Stream=Stream, Event=Event,
        init=lambda: None, mem_alloc=Allocation, module_from_buffer=Module,
        event_flags=types.SimpleNamespace(DISABLE_TIMING=2),
        host_alloc_flags=types.SimpleNamespace(DEVICEMAP=2, PORTABLE=1),
        pagelocked_zeros=lambda nbytes, dtype, mem_flags: (need(None, "cuMemHostAlloc"), np.asarray(Pinned(nbytes)))[1],
        mem_get_info=lambda: (need(None, "cuMemGetInfo"), (_GiB, 8 * _GiB))[1],
        memset_d8=lambda address, value, nbytes: need(cuda.owner_of(address), "cuMemsetD8"),
        memcpy_dtoh=lambda array, address: move(array.ctypes.data, address, array.nbytes, address),
        memcpy_htod=lambda address, array: move(address, array.ctypes.data, array.nbytes, address),
    )  # fmt: skip
    return driver


class FakeTorchCuda:
    """PyTorch's current device, as `c10/cuda/CUDAFunctions.cpp` keeps it beside the driver's current context."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self._threads = cuda, local()
        self.streams: dict[int, Any] = {}

    @property
    def _target(self) -> int:
        return getattr(self._threads, "target", -1)

    @_target.setter
    def _target(self, index: int) -> None:
        self._threads.target = index

    def _runtime_device(self) -> int:
        return self.cuda.stack[-1] if self.cuda.stack else getattr(self._threads, "runtime", 0)

    def _set_runtime_device(self, index: int) -> None:
        self._threads.runtime = index
        self.cuda.primary[index] = max(1, self.cuda.primary[index])
        if self.cuda.stack:
            self.cuda.stack.pop()
        self.cuda.stack.append(index)

    def current_device(self) -> int:
        return self._target if self._target >= 0 else self._runtime_device()

    def set_device(self, index: int) -> None:
        self._target = -1
        if index != self._runtime_device():
            self._set_runtime_device(index)

    def exchange(self, index: int) -> int:
        before = self.current_device()
        self._target = -1
        if before != index:
            self._set_runtime_device(index)
        return before

    def maybe_exchange(self, index: int) -> None:
        if index == self._runtime_device():
            return
        if self.cuda.primary[index]:
            self._set_runtime_device(index)
        else:
            self._target = index

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before = self.exchange(device.index)
        try:
            yield
        finally:
            self.maybe_exchange(before)

    def set_stream(self, stream: Any) -> None:
        if self.current_device() != stream.device.index:
            self.set_device(stream.device.index)
        self.streams[stream.device.index] = stream

    def current_stream(self, index: int) -> Any:
        import torch

        return self.streams.get(index) or types.SimpleNamespace(device=torch.device("cuda", index))

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before = self.current_stream(self.current_device())
        own = self.current_stream(stream.device.index)
        self.set_stream(stream)
        try:
            yield
        finally:
            if before.device != stream.device:
                self.set_stream(own)
            self.set_stream(before)


def install_torch(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeTorchCuda:
    """Has `TorchEngine` run on the fake GPUs; its network does nothing but check that it runs on its own."""
    import torch

    from streamer.engines import torch_engine

    fake = FakeTorchCuda(cuda)

    class ExternalStream:
        def __init__(self, handle: int, device: Any) -> None:
            self.handle, self.device = handle, torch.device("cuda", cuda.streams[handle])
            with fake.device(self.device):
                assert device.index in (self.device.index, None)  # None: the tensors are the host's

        def synchronize(self) -> None:
            with fake.device(self.device):
                assert cuda.stack[-1] == self.device.index

    class CUDAGraph:
        device: Any = None

        def replay(self) -> None:
            with fake.device(self.device):
                index = self.device.index
                assert cuda.stack[-1] == index
                cuda.before_launch(index)
                if index in cuda.failed:
                    raise RuntimeError(f"CUDA error: {ILLEGAL}\nCompile with ...")
                cuda.launched[index].append("graph")

        def reset(self) -> None:
            self.device = None

    @contextlib.contextmanager
    def graph(recorded: CUDAGraph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        with fake.stream(stream):
            yield
        recorded.device = stream.device

    def moved(module: Any, device: Any = None, *_: Any, **__: Any) -> Any:
        if device is not None:
            with fake.device(device):
                module.device = device
        return module

    def tensor_over(address: int, shape: tuple[int, ...], dtype: Any, device: Any) -> Any:
        assert cuda.owner_of(address) == device.index
        return torch.zeros(shape)

    def compiled(points: Any) -> Any:
        def run(images: Any, output: Any) -> None:
            assert cuda.stack[-1] == points.device.index, "PyTorch computes on another GPU than the network's"
            if points.device.index in cuda.failed:
                raise RuntimeError(f"CUDA error: {ILLEGAL}")

        return run

    replaced = {"device": fake.device, "stream": fake.stream, "ExternalStream": ExternalStream, "CUDAGraph": CUDAGraph}
    replaced |= {"graph": graph, "is_available": lambda: True, "empty_cache": lambda: None}
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch_engine.Points, "to", moved)
    monkeypatch.setattr(torch_engine, "tensor_over", tensor_over)
    monkeypatch.setattr(torch_engine, "compiled", compiled)
    return fake
