"""Several GPUs in one process: contexts, and what PyTorch leaves current. On fakes that are strict about both."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from streamer.common.errors import EngineError
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.detector.cuda import CudaDetector, open_cuda_detector
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile, load_model
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model
from tests.fake_cuda import ILLEGAL, FakeCuda, FakeTorchCuda, install, install_torch

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Two fake GPUs."""
    return install(monkeypatch)


@pytest.fixture
def torch_cuda(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeTorchCuda:
    """PyTorch on them."""
    return install_torch(monkeypatch, cuda)


@pytest.fixture(scope="module")
def model() -> ModelFile:
    """The packaged model."""
    path, spec = resolve_model("nanodet-g_416_float")
    return load_model(path, spec)


def opened(model: ModelFile, device: str, **options: Any) -> CudaDetector:
    return open_cuda_detector(
        model, Postprocessor(model.spec), engine="torch", device=device, precision="f32", depth=2, self_check=False,
        **options,
    )  # fmt: skip


def frame(index: int = 0) -> Frame:
    return Frame(np.zeros((48, 64, 3), np.uint8), "f", index, index / 30, 0.0)


def detect(detector: CudaDetector, frames: int = 6) -> int:
    return len(list(detector.stream(frame(index) for index in range(frames))))


# --- contexts ---


def test_two_gpus_are_used_in_turn_and_nested(cuda: FakeCuda) -> None:
    first, second = Gpu(0), Gpu(1)
    buffers = [DeviceBuffer(gpu, 64) for gpu in (first, second, first)]
    with first.active(), second.active():
        assert cuda.stack == [1]
        for buffer in buffers:
            buffer.write(np.arange(64, dtype=np.uint8))
        assert cuda.stack == [1]
    assert cuda.stack == []
    for buffer in buffers:
        buffer.free()
    second.close()
    first.close()
    assert cuda.primary == [0, 0]
    assert (cuda.stack, cuda.logical) == ([], [])


def test_what_a_library_leaves_current_is_not_popped_in_its_place(cuda: FakeCuda) -> None:
    gpu = Gpu(1)
    cuda.stack.append(0)  # the caller's own
    with gpu.active():
        cuda.stack[-1] = 0  # as cudaSetDevice(0) does
    assert cuda.stack == [0]
    with gpu.active():
        cuda.stack.clear()  # as cuCtxSetCurrent(NULL) does, and more
    assert cuda.logical == []
    gpu.close()
    assert cuda.primary == [0, 0]


@pytest.mark.parametrize("spoiled", [[], [0]])
def test_a_failure_within_a_block_is_raised_itself(cuda: FakeCuda, spoiled: list[int]) -> None:
    gpu = Gpu(1)
    with pytest.raises(EngineError, match="^as it is$") as caught, gpu.active():
        cuda.stack[:] = spoiled
        raise EngineError("as it is")
    assert caught.value.__context__ is None
    with gpu.active():
        assert cuda.stack[-1] == 1


def test_closing_leaves_the_contexts_below_as_they_were(cuda: FakeCuda) -> None:
    outer, inner = Gpu(0), Gpu(1)
    with outer.active():
        inner.close()
        assert cuda.stack == [0]
        DeviceBuffer(outer, 16).free()
    assert cuda.stack == []
    assert cuda.primary == [1, 0]


def test_a_gpu_may_be_closed_within_its_own_block(cuda: FakeCuda) -> None:
    gpu = Gpu(1)
    with gpu.active():
        gpu.close()
    assert (cuda.stack, cuda.logical, cuda.primary) == ([], [], [0, 0])
    gpu.close()


def test_a_gpu_may_be_closed_while_another_thread_uses_it(cuda: FakeCuda) -> None:
    gpu, entered, closed = Gpu(1), threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def use() -> None:
        try:
            with gpu.active():
                entered.set()
                closed.wait(60)
            with Gpu(0).active():
                assert cuda.stack[-1] == 0
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    entered.wait(60)
    gpu.close()
    closed.set()
    thread.join(60)
    assert not failed


def test_closing_a_failed_gpu_raises_nothing(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    import pycuda.driver as drv

    gpu = Gpu(1)

    def refuse(self: object) -> None:
        raise drv.LogicError(f"cuDevicePrimaryCtxRelease failed: {ILLEGAL}")

    monkeypatch.setattr(drv.Context, "detach", refuse)
    gpu.close()


def test_a_gpu_that_can_not_be_used_says_so(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    import pycuda.driver as drv

    gpu = Gpu(1)

    def refuse(self: object) -> None:
        raise drv.LogicError("cuCtxPushCurrent failed: unspecified launch failure")

    monkeypatch.setattr(drv.Context, "push", refuse)
    with pytest.raises(EngineError, match="CUDA failed to use GPU 1: cuCtxPushCurrent failed"):
        PinnedBuffer(gpu, 16)


# --- the fakes are strict ---


def test_memory_of_another_gpu_is_an_illegal_access(cuda: FakeCuda) -> None:
    first, second = Gpu(0), Gpu(1)
    buffer = DeviceBuffer(first, 16)
    buffer.gpu = second
    with pytest.raises(EngineError, match=ILLEGAL):
        buffer.write(np.zeros(16, np.uint8))
    assert cuda.failed == {1}


# --- PyTorch ---


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_the_torch_engine_runs_on_any_gpu(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, model: ModelFile, device: str
) -> None:
    with opened(model, device) as detector:
        assert detect(detector) == 6
    index = int(device[-1])
    assert cuda.launched[index]
    assert not cuda.launched[1 - index]
    assert cuda.primary[1 - index] == 0, "a context costs hundreds of MB on a GPU that nobody asked for"
    assert cuda.stack == []
    assert not cuda.blocks


def test_the_torch_engine_runs_beside_a_context_of_gpu_0(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, model: ModelFile
) -> None:
    beside = Gpu(0)
    with beside.active(), opened(model, "cuda:1") as detector:
        assert cuda.stack == [0]
        assert detect(detector) == 6
        assert cuda.stack == [0]
    beside.close()


def test_two_detectors_run_in_turn_and_on_two_threads(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, model: ModelFile
) -> None:
    detectors = [opened(model, "cuda:0"), opened(model, "cuda:1")]
    for detector in detectors * 2:
        assert detect(detector) == 6
    found = [0, 0]
    failed: list[BaseException] = []

    def run(index: int) -> None:
        try:
            found[index] = detect(detectors[index], 50)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (found, failed) == ([50, 50], [])
    for detector in reversed(detectors):
        detector.close()
    assert not cuda.blocks


def test_a_gpu_that_fails_raises_an_engine_error_of_one_line(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, model: ModelFile
) -> None:
    detector, other = opened(model, "cuda:1"), opened(model, "cuda:0")
    cuda.fail(1)
    with pytest.raises(EngineError, match=f"CUDA failed to .*{ILLEGAL}") as caught:
        detect(detector)
    assert "\n" not in str(caught.value)
    assert cuda.stack == []
    assert detect(other) == 6
    other.close()
