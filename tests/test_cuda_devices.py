"""Several GPUs in one process: contexts, and what PyTorch leaves current. On fakes that are strict about both."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.app.cli import main
from streamer.common.errors import EngineError
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.detector.cuda import CudaDetector, open_cuda_detector
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile, load_model
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model
from tests.fake_cuda import ILLEGAL, FakeCuda, FakeTorchCuda, install, install_torch
from tests.media import write_clip

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


def test_closing_pops_a_context_that_the_driver_has_destroyed(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer.cuda import current_context

    def refuse() -> int:
        raise EngineError("CUDA failed to switch GPUs (cuCtxGetCurrent): CUresult 709")

    gpu = Gpu(1)
    cuda.stack.append(0)
    monkeypatch.setattr(current_context, "get_current", refuse)
    gpu.close()
    assert cuda.stack == [0]


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


@pytest.mark.parametrize("switching_fails", [False, True])
def test_a_thread_that_met_a_failed_gpu_still_uses_the_others(cuda: FakeCuda, switching_fails: bool) -> None:
    cuda.switching_fails = switching_fails
    failed, other = Gpu(1), Gpu(0)
    lost, kept = DeviceBuffer(failed, 16), DeviceBuffer(other, 16)
    with pytest.raises(EngineError, match=ILLEGAL), failed.active():
        cuda.fail(1)
        lost.write(np.zeros(16, np.uint8))
    for _ in range(3):
        kept.write(np.ones(16, np.uint8))
        with pytest.raises(EngineError, match=ILLEGAL):
            lost.write(np.zeros(16, np.uint8))
        with other.active(), other.active():
            kept.write(np.ones(16, np.uint8))
    kept.free()
    other.close()
    failed.close()


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
    assert cuda.primary[1 - index] == 0, "a context costs hundreds of MB on a GPU that the run doesn't use"
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


# --- a run ---


def run_on(devices: str, folder: Path, *sources: str) -> tuple[int, dict[str, Any]]:
    """Runs the program on fake GPUs, sources to JSON lines; returns the exit status and the report."""
    report = folder / "report.json"
    named = [f"s{number}={uri}" for number, uri in enumerate(sources)]
    arguments = [argument for source in named for argument in ("--source", source)]
    status = main(
        [*arguments, "--output", f"{folder}/{{source}}.jsonl", "--device", devices, "--engine", "torch", "--precision",
         "f32", "--decode", "cpu", "--batch", "2", "--depth", "2", "--no-self-check", "--report", str(report)]
    )  # fmt: skip
    return status, json.loads(report.read_text())


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


def test_a_run_spreads_its_sources(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 20))
    status, report = run_on("cuda:*", tmp_path, *[clip] * 4)
    assert status == 0, capsys.readouterr().err
    assert [gpu["name"] for gpu in report["gpus"]] == ["cuda:0", "cuda:1"]
    assert [gpu["sources"] for gpu in report["gpus"]] == [["s0", "s2"], ["s1", "s3"]]
    assert {gpu["engine"]["name"] for gpu in report["gpus"]} == {"torch"}
    assert all(lines_of(tmp_path / f"s{number}.jsonl") == list(range(20)) for number in range(4))
    assert not cuda.blocks
    assert cuda.stack == []


def fail_after_ten_graphs(cuda: FakeCuda) -> None:
    """Lets GPU 1 fail once it has launched ten graphs."""

    def fail(index: int) -> None:
        if index == 1 and cuda.launched[1].count("graph") > 10:
            cuda.fail(1)

    cuda.before_launch = fail


def test_a_run_outlives_one_of_its_gpus(
    cuda: FakeCuda,
    torch_cuda: FakeTorchCuda,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 60))

    fail_after_ten_graphs(cuda)
    status, report = run_on("cuda:0,cuda:1", tmp_path, *[clip] * 4)
    failed = f"cuda:1 has failed: PyTorch failed: CUDA error: {ILLEGAL}"
    assert status == 1
    assert [line for line in capsys.readouterr().err.splitlines() if "error:" in line] == [f"error: {failed}"]
    assert f"{failed}; its streams move: 2 to cuda:0" in caplog.messages
    assert report["errors"] == [{"where": "cuda:1", "what": failed}]
    assert [gpu["sources"] for gpu in report["gpus"]] == [["s0", "s2", "s1", "s3"], []]
    assert [gpu["failed"] for gpu in report["gpus"]] == [False, True]
    dropped = [source["frames_dropped"] for source in report["sources"]]
    assert dropped[0] == dropped[2] == 0
    assert 0 < dropped[1] + dropped[3] <= 4
    for number, lost in enumerate(dropped):
        written = lines_of(tmp_path / f"s{number}.jsonl")
        assert written == sorted(set(written))
        assert len(written) == 60 - lost


def test_a_run_ends_with_its_only_gpu_and_one_line(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 60))

    fail_after_ten_graphs(cuda)
    status, report = run_on("cuda:1", tmp_path, clip)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert status == 1
    assert errors == [f"error: PyTorch failed: CUDA error: {ILLEGAL}"]
    assert [error["where"] for error in report["errors"]] == ["run"]
    assert "gpus" not in report


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:0,cuda:0", "device 'cuda:0,cuda:0' names GPU 0 twice"),
        ("cuda:0,cuda:5", "there is no GPU 5: this machine has 2, counted from 0"),
        ("cuda:0,gpu", "unknown device 'gpu'"),
    ],
)
def test_wrong_devices_are_one_line(
    cuda: FakeCuda, torch_cuda: FakeTorchCuda, capsys: pytest.CaptureFixture[str], device: str, said: str
) -> None:
    status = main(["--device", device, "--engine", "torch", "--output", "null", "--no-self-check"])
    assert status in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
