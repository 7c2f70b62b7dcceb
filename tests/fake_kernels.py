"""`cuda-bindings` on the fake GPUs as `streamer.cuda.module` uses it: kernels are compiled by g++."""

from __future__ import annotations

import ctypes
import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda import FakeCuda
from tests.fake_gpu import put_module
from tests.host_kernels import compile_kernels

_DEFAULT_SHARED = 48 << 10
_INVALID_VALUE = 1


class FakeKernels:
    """What was loaded and launched.

    Attributes:
        loaded: how many modules are loaded now.
        built: the source and macros of each kernel that was compiled, in order.
        launched: names of kernels.
        most_shared: bytes of shared memory that a block may have.
    """

    def __init__(self) -> None:
        self.loaded = 0
        self.built: list[tuple[str, Mapping[str, int]]] = []
        self.launched: list[str] = []
        self.most_shared = 227 << 10


class _Function:
    def __init__(self, library: object, name: str) -> None:
        self.run: Callable[..., Any] = getattr(library, f"host_{name}", lambda *_: None)
        self.name, self.shared = name, _DEFAULT_SHARED


def install_kernels(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, folder: Path | None) -> FakeKernels:
    """Replaces `cuda-bindings` and nvcc; kernels are compiled into a folder, or do nothing without one."""
    fake = FakeKernels()

    def cubin(source: str, arch: str, macros: Mapping[str, int] | None = None) -> bytes:
        fake.built.append((source, macros or {}))
        return json.dumps([source, macros or {}]).encode()

    def load(code: bytes) -> tuple[int, object]:
        source, macros = json.loads(code)
        fake.loaded += 1
        return 0, object() if folder is None else compile_kernels(folder, f"{source}_host", macros)

    def unload(_: object) -> tuple[int]:
        fake.loaded -= 1
        return (0,)

    def set_attribute(function: _Function, kind: str, value: int) -> tuple[int]:
        if kind == "most":
            if value > fake.most_shared:
                return (_INVALID_VALUE,)
            function.shared = value
        return (0,)

    def launch(config: Any, function: _Function, parameters: int, _: int) -> tuple[int]:
        if config.sharedMemBytes > function.shared or not cuda.stack:
            return (_INVALID_VALUE,)
        address = ctypes.c_uint64.from_address(parameters).value
        grid = (config.gridDimX, config.gridDimY)

        def run() -> None:
            fake.launched.append(function.name)
            function.run(ctypes.c_void_p(address), *grid, config.blockDimX)

        cuda.put(config.hStream, run)
        return (0,)

    def begin(stream: int, _: object) -> tuple[int]:
        cuda.recorded[stream] = []
        return (0,)

    def launch_graph(graph: list[Callable[[], None]], _: int) -> tuple[int]:
        for work in graph:
            work()
        return (0,)

    def done(*_: object) -> tuple[int]:
        return (0,)

    kinds = types.SimpleNamespace(
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT="carveout",
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="most",
    )
    driver = types.SimpleNamespace(
        CUstream=int, CUfunction_attribute=kinds, CUlaunchConfig=types.SimpleNamespace,
        CUlaunchAttribute=lambda: types.SimpleNamespace(value=types.SimpleNamespace()),
        CUlaunchAttributeID=types.SimpleNamespace(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION=6),
        CUdevice_attribute=types.SimpleNamespace(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=97),
        CUstreamCaptureMode=types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1),
        cuDeviceGet=lambda index: (0, index), cuDeviceGetAttribute=lambda kind, device: (0, fake.most_shared),
        cuModuleLoadData=load, cuModuleUnload=unload, cuFuncSetAttribute=set_attribute, cuLaunchKernelEx=launch,
        cuModuleGetFunction=lambda module, name: (0, _Function(module, name.decode())),
        cuStreamBeginCapture=begin, cuStreamEndCapture=lambda stream: (0, cuda.recorded.pop(stream)),
        cuGraphInstantiate=lambda graph, flags: (0, list(graph)), cuGraphDestroy=done, cuGraphLaunch=launch_graph,
        cuGraphExecDestroy=done, cuEventCreate=lambda flags: (0, object()), cuEventRecord=done,
        cuEventSynchronize=done, cuEventElapsedTime=lambda begin, end: (0, 1.0), cuEventDestroy=done,
    )  # fmt: skip
    put_module(monkeypatch, "cuda", __path__=[])
    put_module(monkeypatch, "cuda.bindings", driver=driver)
    for module in ("int8_engine", "int8.tuning"):
        monkeypatch.setattr(f"streamer.engines.{module}.cubin", cubin)
    monkeypatch.setattr("streamer.engines.int8.tuning.find_nvcc", lambda: ("nvcc", "13.0.88"))
    return fake
