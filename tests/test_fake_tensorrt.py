"""The stand-in for TensorRT is as strict as TensorRT's documentation, and has no name that the real packages lack."""

from __future__ import annotations

import enum
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from streamer.cuda.gpu import NON_BLOCKING, Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.engines.tensorrt.package import TensorRTPackage
from tests.fake_cuda import FakeCuda
from tests.fake_cuda import install as install_cuda
from tests.tiny import tiny_model, tiny_spec

pytest.importorskip("onnxruntime", reason="the stand-in runs engines in ONNX Runtime")

from tests.fake_tensorrt import FakeTensorRT, install
from tests.fake_tensorrt.rules import Plan

UNDEFINED = "undefined behaviour: "
SPEC = tiny_spec()
SHAPE = (2, 3, 64, 64)
PROFILE = ((1, 3, 64, 64), (4, 3, 64, 64), (4, 3, 64, 64))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Two fake GPUs."""
    return install_cuda(monkeypatch)


@pytest.fixture
def gpu(cuda: FakeCuda) -> Iterator[Gpu]:
    """GPU 0, whose context is current."""
    gpu = Gpu(0)
    with gpu.active():
        yield gpu


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeTensorRT:
    """The stand-in."""
    return install(monkeypatch, cuda)


class Parts:
    """A runtime, an engine, a context and all that it needs; `ready` sets everything, but for what is named."""

    def __init__(self, trt: FakeTensorRT, gpu: Gpu) -> None:
        import pycuda.driver as drv

        self.module, self.said = trt.module, []
        said = self.said

        class Logger(trt.module.ILogger):  # type: ignore[misc, name-defined]
            def log(self, severity: Any, msg: str) -> None:
                said.append(msg)

        plan = Plan(trt.version, "sm90", PROFILE, True, False, False, False, tiny_model(SPEC).SerializeToString())
        self.runtime = trt.module.Runtime(Logger())
        self.engine = self.runtime.deserialize_cuda_engine(plan.serialize())
        self.context = self.new_context()
        self.stream = drv.Stream(NON_BLOCKING)
        rows = 2 * SPEC.num_points * SPEC.output_channels
        sizes = {"images": 4 * int(np.prod(SHAPE)), "output": 4 * rows, "memory": self.engine.device_memory_size_v2}
        self.buffers = {name: DeviceBuffer(gpu, size) for name, size in sizes.items()}

    def new_context(self) -> Any:
        strategy = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        return self.engine.create_execution_context(strategy)

    def ready(self, *left_out: str) -> Any:
        context, buffers = self.context, self.buffers
        if "memory" not in left_out:
            context.set_device_memory(buffers["memory"].address, buffers["memory"].nbytes)
        if "shape" not in left_out:
            assert context.set_input_shape("images", SHAPE)
        for name in {"images", "output"} - set(left_out):
            assert context.set_tensor_address(name, buffers[name].address)
        return context


@pytest.fixture
def parts(trt: FakeTensorRT, gpu: Gpu) -> Parts:
    return Parts(trt, gpu)


def test_a_context_with_everything_set_runs(parts: Parts, trt: FakeTensorRT) -> None:
    assert parts.ready().execute_async_v3(parts.stream.handle)
    assert trt.bound == [2]


@pytest.mark.parametrize("left_out", ["shape", "images", "output", "memory"])
def test_what_is_not_set_is_refused(left_out: str, parts: Parts, trt: FakeTensorRT) -> None:
    assert not parts.ready(left_out).execute_async_v3(parts.stream.handle)
    assert trt.bound == []
    assert "is not set" in parts.said[-1]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("images", (5, 3, 64, 64)),
        ("images", (0, 3, 64, 64)),
        ("images", (1, 3, 32, 64)),
        ("images", (3, 64, 64)),
        ("output", (1, 3, 64, 64)),
        ("image", (1, 3, 64, 64)),
    ],
)
def test_a_shape_outside_of_the_profile_is_refused(name: str, shape: tuple[int, ...], parts: Parts) -> None:
    assert not parts.context.set_input_shape(name, shape)
    assert parts.said


def test_an_unknown_tensor_is_refused(parts: Parts) -> None:
    assert not parts.context.set_tensor_address("boxes", 256)


def test_too_little_or_unaligned_memory_is_undefined(parts: Parts) -> None:
    memory = parts.buffers["memory"]
    with pytest.raises(AssertionError, match=UNDEFINED):
        parts.context.set_device_memory(memory.address, memory.nbytes - 1)
    with pytest.raises(AssertionError, match=UNDEFINED):
        parts.context.set_device_memory(memory.address + 16, memory.nbytes)
    with pytest.raises(AssertionError, match=UNDEFINED):
        parts.context.set_tensor_address("images", parts.buffers["images"].address + 16)


def test_two_contexts_with_one_memory_are_undefined(parts: Parts) -> None:
    parts.ready()
    with pytest.raises(AssertionError, match="two execution contexts have the same device memory"):
        parts.new_context().set_device_memory(parts.buffers["memory"].address, parts.buffers["memory"].nbytes)


@pytest.mark.parametrize("freed", ["images", "output", "memory"])
def test_memory_that_was_freed_is_undefined(freed: str, parts: Parts) -> None:
    context = parts.ready()
    parts.buffers[freed].free()
    with pytest.raises(AssertionError, match="aren't allocated"):
        context.execute_async_v3(parts.stream.handle)


def test_a_context_on_two_streams_is_undefined(parts: Parts) -> None:
    import pycuda.driver as drv

    context = parts.ready()
    assert context.execute_async_v3(parts.stream.handle)
    with pytest.raises(AssertionError, match="two streams"):
        context.execute_async_v3(drv.Stream(NON_BLOCKING).handle)


def test_the_default_stream_is_refused(parts: Parts) -> None:
    with pytest.raises(AssertionError, match="default stream"):
        parts.ready().execute_async_v3(0)


def test_a_stream_of_another_gpu_is_refused(parts: Parts) -> None:
    import pycuda.driver as drv

    context = parts.ready()
    with Gpu(1).active():
        stream = drv.Stream(NON_BLOCKING)
    assert not context.execute_async_v3(stream.handle)


def test_without_a_current_cuda_context_it_is_undefined(trt: FakeTensorRT) -> None:
    class Logger(trt.module.ILogger):  # type: ignore[misc, name-defined]
        pass

    with pytest.raises(AssertionError, match="without a current CUDA context"):
        trt.module.Runtime(Logger())


def test_a_logger_must_be_one_and_be_initialised(trt: FakeTensorRT, gpu: Gpu) -> None:
    class Lazy(trt.module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

    for wrong in (None, print, Lazy()):
        with pytest.raises(TypeError):
            trt.module.Runtime(wrong)


@pytest.mark.parametrize("first", ["runtime", "engine"])
def test_freeing_in_the_wrong_order_is_noticed(first: str, parts: Parts, trt: FakeTensorRT) -> None:
    context = parts.ready()
    delattr(parts, first)
    gc.collect()
    assert trt.broken == [f"{'a runtime' if first == 'runtime' else 'an engine'} was freed before its "
                          f"{'engines' if first == 'runtime' else 'execution contexts'}"]  # fmt: skip
    if first == "engine":
        with pytest.raises(AssertionError, match="after its engine was freed"):
            context.execute_async_v3(parts.stream.handle)


def test_freeing_in_the_right_order_is_fine(parts: Parts, trt: FakeTensorRT) -> None:
    parts.ready()
    for name in ("context", "engine", "runtime"):
        delattr(parts, name)
        gc.collect()
    assert trt.broken == []


@pytest.mark.parametrize("damage", [lambda plan: plan[:-1], lambda plan: plan[1:], lambda plan: b"", lambda plan: b"x"])
def test_a_damaged_engine_is_refused(damage: Any, parts: Parts, trt: FakeTensorRT) -> None:
    plan = Plan(trt.version, "sm90", PROFILE, True, False, False, False, b"onnx").serialize()
    assert parts.runtime.deserialize_cuda_engine(damage(plan)) is None
    assert "magicTag" in parts.said[-1]


@pytest.mark.parametrize("real", ["tensorrt_rtx", "tensorrt_lean"])
@pytest.mark.parametrize("package", list(TensorRTPackage))
def test_every_name_is_real(
    real: str, package: TensorRTPackage, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda
) -> None:
    """Of what each of the two real packages has: the one has no runtime of TensorRT, the other no builder."""
    module = pytest.importorskip(real, reason=f"{real} is not installed")
    stand_in = install(monkeypatch, cuda, package).module
    builds = hasattr(module, "Builder")
    unknown = []
    for name, value in vars(stand_in).items():
        if name.startswith("__"):
            continue
        if not hasattr(module, name):
            unknown += [name] * builds
        elif isinstance(value, type):
            members = list(value.__members__) if issubclass(value, enum.Enum) else list(vars(value))
            real_class = getattr(module, name)
            unknown += [f"{name}.{m}" for m in members if not m.startswith("_") and not hasattr(real_class, m)]
    assert unknown == []
