"""The stand-in's runtime: engines, execution contexts and the inspector."""

from __future__ import annotations

import ctypes
import json
import re
import weakref
from typing import Any

import numpy as np
import onnx
import onnxruntime

from streamer.engines.tensorrt.package import TensorRTPackage
from tests.fake_tensorrt.rules import (
    ALIGNMENT,
    ExecutionContextAllocationStrategy,
    FakeTensorRT,
    ILogger,
    LayerInformationFormat,
    Plan,
    TensorIOMode,
    checked_logger,
)

WORKSPACE = 1000


def classes(state: FakeTensorRT) -> dict[str, Any]:
    """Returns the module's classes that run engines."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._engines: weakref.WeakSet[ICudaEngine] = weakref.WeakSet()
            self._is_empty = False
            self._log = checked_logger(logger).log
            state.need_context("a runtime that is made")
            self.engine_host_code_allowed = False
            self._is_empty = bool(state.runtime_error)
            if self._is_empty:
                self._log(ILogger.ERROR, state.runtime_error)

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            if self._is_empty:
                state.undefined("a runtime whose creation failed is used (the real one ends the process)")
            state.need_context("an engine that is read")
            plan = Plan.parse(serialized_engine)
            reason = "magicTag == kEXPECTED_MAGIC_TAG failed" if plan is None else self._refusal(plan)
            if plan is None or reason:
                self._log(ILogger.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {reason}")
                return None
            engine = ICudaEngine(plan, self._log)
            self._engines.add(engine)
            return engine

        def _refusal(self, plan: Plan) -> str:
            same = plan.version == state.version
            if state.package is TensorRTPackage.TENSORRT_LEAN and not plan.is_version_compatible:
                return "Internal Error (Unexpected call to stub loadRunner for ReformatRunner)"
            if not same and (not plan.is_version_compatible or _numbers(plan.version) > _numbers(state.version)):
                return f"Serialization (expecting library version {state.version} got {plan.version}, please rebuild)"
            is_lean = state.package is TensorRTPackage.TENSORRT_LEAN
            if plan.is_version_compatible and not plan.has_lean_runtime and not (same and is_lean):
                return "API Usage Error (the plan has no lean runtime)"
            if plan.has_lean_runtime and not self.engine_host_code_allowed:
                return "API Usage Error (IRuntime::getEngineHostCodeAllowed() is false)"
            if plan.target != state.target and not plan.is_hardware_compatible:
                return f"Internal Error (generated on an incompatible device, expecting {state.target})"
            return ""

        def __del__(self) -> None:
            if self._is_empty:
                state.broken.append("a runtime whose creation failed was freed (the real one ends the process)")
            if len(self._engines):
                state.broken.append("a runtime was freed before its engines")

    class ICudaEngine:
        def __init__(self, plan: Plan, log: Any) -> None:
            self._log, self._plan = log, plan
            self.device_memory_size_v2 = WORKSPACE
            self._contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()
            self._session = onnxruntime.InferenceSession(plan.model, providers=["CPUExecutionProvider"])
            ports = [(port.name, TensorIOMode.INPUT) for port in self._session.get_inputs()]
            self._modes = dict([*ports, *((port.name, TensorIOMode.OUTPUT) for port in self._session.get_outputs())])

        @property
        def num_io_tensors(self) -> int:
            return len(self._modes)

        def get_tensor_name(self, index: int) -> str:
            return list(self._modes)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return self._modes.get(name, TensorIOMode.NONE)

        def create_execution_context(
            self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
        ) -> IExecutionContext | None:
            state.need_context("an execution context that is made")
            if not state.has_memory:
                self._log(ILogger.ERROR, "IExecutionContext: Error Code 2: OutOfMemory")
                return None
            context = IExecutionContext(self, strategy)
            self._contexts.add(context)
            return context

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self)

        def __del__(self) -> None:
            if len(self._contexts):
                state.broken.append("an engine was freed before its execution contexts")

    class EngineInspector:
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = weakref.ref(engine)

        def get_engine_information(self, format: LayerInformationFormat) -> str:
            engine = self._engine()
            if engine is None:
                state.undefined("an engine is inspected after it was freed")
            assert format is LayerInformationFormat.JSON
            return state.inspected if state.inspected is not None else _information(engine._plan)

    class IExecutionContext:
        def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
            self._engine, self._log = weakref.ref(engine), engine._log
            self._needs_memory = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._stream: int | None = None
            if state.package is TensorRTPackage.TENSORRT_RTX:
                self.is_stream_capturable = lambda stream: state.is_capturable

        def _living(self) -> ICudaEngine:
            engine = self._engine()
            if engine is None:
                state.undefined("an execution context is used after its engine was freed")
            return engine

        def _refuse(self, reason: str) -> bool:
            self._log(ILogger.ERROR, f"IExecutionContext: Error Code 3: API Usage Error ({reason})")
            return False

        def set_device_memory(self, memory: int, size: int) -> None:
            if not self._needs_memory:
                state.undefined("memory is set for a context that allocates its own")
            if memory % ALIGNMENT or size < self._living().device_memory_size_v2:
                state.undefined(f"{size} bytes of device memory at {memory:#x} are too few, or aren't aligned")
            _check_range(memory, size)
            others = [begin for key, (begin, n) in state.workspaces.items() if key != id(self) and begin < memory + size
                      and memory < begin + n]  # fmt: skip
            if others:
                state.undefined("two execution contexts have the same device memory")
            state.workspaces[id(self)] = (memory, size)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            plan = self._living()._plan
            if self._living().get_tensor_mode(name) is not TensorIOMode.INPUT:
                return self._refuse(f"{name} is no input")
            least, _, most = plan.profile
            if len(shape) != len(least) or not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
                return self._refuse(f"{shape} is outside of optimization profile 0, {least} to {most}")
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if self._living().get_tensor_mode(name) is TensorIOMode.NONE:
                return self._refuse(f"{name} is no tensor of this engine")
            if memory % ALIGNMENT:
                state.undefined(f"the address of {name} isn't aligned to {ALIGNMENT} bytes")
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            engine = self._living()
            state.need_context("an engine that runs")
            if not stream_handle:
                state.undefined("the default stream makes TensorRT synchronise the GPU")
            if self._stream not in (None, stream_handle):
                state.undefined("one execution context is used on two streams")
            if state.cuda.streams.get(stream_handle) != state.cuda.stack[-1]:
                return self._refuse("the stream is another GPU's")
            for name, mode in engine._modes.items():
                if mode is TensorIOMode.INPUT and name not in self._shapes:
                    return self._refuse(f"the shape of {name} is not set")
                if name not in self._addresses:
                    return self._refuse(f"the address of {name} is not set")
            if self._needs_memory and id(self) not in state.workspaces:
                return self._refuse("the device memory is not set")
            if not state.shares_profiles and any(c._stream is not None for c in engine._contexts if c is not self):
                return self._refuse("optimization profile 0 is in use by another execution context")
            self._stream = stream_handle
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            state.cuda.put(stream_handle, lambda: self._run(shapes, addresses))
            return True

        def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
            engine = self._living()
            if self._needs_memory:
                _check_range(*state.workspaces[id(self)])
            feeds = {name: _array_at(addresses[name], shape) for name, shape in shapes.items()}
            outputs = [port.name for port in engine._session.get_outputs()]
            state.bound.append(next(iter(shapes.values()))[0])
            for name, made in zip(outputs, engine._session.run(outputs, feeds), strict=True):
                _array_at(addresses[name], made.shape)[...] = made

        def __del__(self) -> None:
            state.workspaces.pop(id(self), None)

    def _check_range(address: int, nbytes: int) -> None:
        blocks = state.cuda.blocks.items()
        if not any(begin <= address and address + nbytes <= begin + size for begin, (size, *_) in blocks):
            state.undefined(f"{nbytes} bytes at {address:#x} aren't allocated")

    def _array_at(address: int, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        _check_range(address, 4 * size)
        return np.frombuffer((ctypes.c_float * size).from_address(address), np.float32).reshape(shape)

    found: dict[str, Any] = {"Runtime": Runtime, "ICudaEngine": ICudaEngine, "IExecutionContext": IExecutionContext}
    if state.package is not TensorRTPackage.TENSORRT_LEAN:
        found["EngineInspector"] = EngineInspector
    return found


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _information(plan: Plan) -> str:
    """Describes convolutions in the inspector's form: INT8 where their input is dequantised."""
    graph = onnx.load_from_string(plan.model).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if not plan.is_detailed:
        return json.dumps({"Layers": [node.name for node in convolutions], "Bindings": []})

    def tensor(name: str) -> dict[str, str]:
        return {"Name": name, "Datatype": "Int8" if name in dequantised else "Float"}

    layers = [
        {"Name": node.name, "LayerType": "correlation", "Inputs": [tensor(node.input[0])],
         "Outputs": [tensor(node.output[0])], "Metadata": f"[ONNX Layer: {node.name}]"}
        for node in convolutions
    ]  # fmt: skip
    return json.dumps({"Layers": layers, "Bindings": [port.name for port in (*graph.input, *graph.output)]})
