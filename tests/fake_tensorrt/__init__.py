"""A stand-in for TensorRT's packages, as strict as their documentation: ONNX Runtime runs engines on `tests.fake_cuda`.

What TensorRT documents as a refusal is one (False or None, with an error in its log). What it documents as undefined
behaviour fails the test, or is listed under `FakeTensorRT.broken` where it happens while an object is freed. Unlike the
real bindings, its objects don't keep each other alive.

Execution contexts share profiles, as always from TensorRT 10 on (in 8.6 and 9 with `PROFILE_SHARING_0806`), although a
comment in the headers of 11 still asks for one each; `shares_profiles` turns that off.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import pytest

from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import builder, runtime
from tests.fake_tensorrt.rules import (
    BuilderFlag,
    DataType,
    ExecutionContextAllocationStrategy,
    FakeTensorRT,
    HardwareCompatibilityLevel,
    ILogger,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    TensorIOMode,
)

__all__ = ["GPU", "FakeTensorRT", "install"]

GPU = GpuModel("Fake GPU", "sm90")


def install(
    monkeypatch: pytest.MonkeyPatch,
    cuda: FakeCuda,
    package: TensorRTPackage = TensorRTPackage.TENSORRT,
    version: str = "11.4.0.106",
) -> FakeTensorRT:
    """Makes the stand-in the only package of TensorRT that is installed, and its GPU the present one."""
    state = FakeTensorRT(cuda, package, version, GPU.target)
    module = types.ModuleType(package.module_name)
    module.__spec__ = importlib.machinery.ModuleSpec(package.module_name, None)
    vars(module).update(
        __version__=version, ILogger=ILogger, TensorIOMode=TensorIOMode, BuilderFlag=BuilderFlag,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        LayerInformationFormat=LayerInformationFormat, ProfilingVerbosity=ProfilingVerbosity,
        HardwareCompatibilityLevel=HardwareCompatibilityLevel, float32=DataType.FLOAT, float16=DataType.HALF,
        **runtime.classes(state),
    )  # fmt: skip
    if package.builder is package:
        vars(module).update(
            MemoryPoolType=MemoryPoolType, NetworkDefinitionCreationFlag=NetworkDefinitionCreationFlag,
            **builder.classes(state),
        )  # fmt: skip
    for other in TensorRTPackage:
        monkeypatch.setitem(sys.modules, other.module_name, module if other is package else None)
    monkeypatch.setattr("streamer.engines.tensorrt.builder.present_gpu", lambda index: state.gpu)
    state.gpu, state.module = GPU, module
    return state
