"""The GPU path's parts that need no GPU: errors, opening a GPU, choosing an engine."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.common.errors import ConfigError, EngineError
from streamer.cuda.gpu import Gpu, expects_gpu, list_gpus, load_pycuda, parse_device
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.status import check, checking, failure
from streamer.detector import cuda as cuda_detector
from streamer.detector.base import EngineInfo
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import ModelFile, load_model
from streamer.models.postprocess import Postprocessor
from tests.fake_gpu import FakeGpu, install
from tests.family_models import family_model, saved
from tests.tiny import write_tiny

# --- status ---


class Status:
    def __init__(self, value: int, name: str) -> None:
        self.value, self.name = value, name

    def __int__(self) -> int:
        return self.value


def test_check_returns_the_values() -> None:
    ok = Status(0, "CUDA_SUCCESS")
    assert check("x", (ok,)) is None
    assert check("x", (ok, 5)) == 5
    assert check("x", (ok, 5, 6)) == (5, 6)


def test_check_raises_one_line_with_the_fix() -> None:
    with pytest.raises(EngineError) as caught:
        check("launch a graph", (Status(2, "CUDA_ERROR_OUT_OF_MEMORY"),))
    assert str(caught.value).startswith("CUDA failed to launch a graph: CUDA_ERROR_OUT_OF_MEMORY (2); close other")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("cuMemAlloc failed: out of memory", "lower --depth"),
        ("cuInit failed: no device", "CUDA_VISIBLE_DEVICES"),
        ("cuModuleLoadDataEx failed: no binary for gpu", "another architecture"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)", "reboot"),
        ("cudaErrorInsufficientDriver", "update the driver"),
        ("cuStreamSynchronize failed: an illegal memory access", "compute-sanitizer"),
        ("cuInit failed: invalid/unknown error code", "nvidia-smi"),
    ],
)
def test_known_failures_come_with_advice(said: str, advice: str) -> None:
    assert advice in str(failure("do it", RuntimeError(said)))


def test_unknown_failures_come_without() -> None:
    assert str(failure("do it", RuntimeError("odd\n thing"))) == "CUDA failed to do it: odd thing"
    assert str(failure("do it", RuntimeError())) == "CUDA failed to do it: RuntimeError"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A fake GPU."""
    return install(monkeypatch)


def test_pycuda_errors_become_engine_errors(gpu: FakeGpu) -> None:
    import pycuda.driver as drv

    with pytest.raises(EngineError, match="CUDA failed to copy: launch failed; a kernel crashed"), checking("copy"):
        raise drv.Error("launch failed")
    with pytest.raises(KeyError), checking("copy"):
        raise KeyError


# --- opening ---


@pytest.mark.parametrize(("text", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_devices_are_read(text: str, index: int) -> None:
    assert parse_device(text) == index


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", "cuda:1:2", "CUDA:0", "cuda:²"])
def test_wrong_devices_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted auto, cpu, cuda or cuda:N"):
        parse_device(text)


def test_without_pycuda_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"PyCUDA is not installed: pip install 'nanodet-streamer\[cuda\]'"):
        load_pycuda()
    assert list_gpus() == ["cuda           not usable: PyCUDA is not installed: pip install 'nanodet-streamer[cuda]'"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("libcuda.so.1: cannot open shared object file", "no NVIDIA driver: libcuda can't be loaded"),
        ("undefined symbol: _ZN5boost", "PyCUDA can't be loaded"),
    ],
)
def test_a_missing_driver_differs_from_a_broken_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, told: str
) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("")
    (tmp_path / "pycuda" / "driver.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "pycuda"}
    try:
        with pytest.raises(EngineError, match=told):
            load_pycuda()
    finally:
        sys.modules.pop("pycuda", None)
        sys.modules.update(real)


def test_a_driver_that_refuses_says_why(gpu: FakeGpu) -> None:
    gpu.init_error = "cuInit failed: no device"
    with pytest.raises(EngineError, match="CUDA failed to start: cuInit failed: no device; no NVIDIA GPU is visible"):
        load_pycuda()


@pytest.mark.parametrize(("count", "has"), [(0, "this machine has none"), (2, "this machine has 2, counted from 0")])
def test_a_missing_gpu(gpu: FakeGpu, count: int, has: str) -> None:
    gpu.count = count
    with pytest.raises(EngineError, match=f"there is no GPU 2: {has}"):
        Gpu(2)


def test_gpus_are_listed(gpu: FakeGpu) -> None:
    gpu.count = 2
    assert list_gpus()[:2] == ["cuda:0         Fake GPU, 8 GiB", "cuda:1         Fake GPU, 8 GiB"]


# --- choosing an engine ---


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    """A tiny model file."""
    return load_model(write_tiny(tmp_path / "tiny.onnx"))


def opened(model: ModelFile, engine: str = "auto", **more: Any) -> Any:
    """Opens a detector on the fake GPU."""
    options = {"device": "cuda", "precision": "auto", "depth": None, "self_check": False, **more}
    return cuda_detector.open_cuda_detector(model, Postprocessor(model.spec), engine=engine, **options)


def refuse(name: str, *_: Any) -> Any:
    raise EngineError(f"no {name} here")


def named(engine: str) -> Any:
    """Returns what is read of an engine."""
    return types.SimpleNamespace(name=engine, precision="f16")


class Opened:
    """Stands for `CudaDetector`, which takes the GPU over and closes it when it can't be made."""

    refused: str | None = None
    raw_output = None

    def __init__(self, model: Any, gpu: Gpu, engine: Any, *_: Any, batches: list[int], **__: Any) -> None:
        self.gpu, self.batches = gpu, batches
        self.info = EngineInfo(engine.name, "f16", gpu.name, "m", "0")
        if engine.name == self.refused:
            self.gpu.close()
            raise EngineError(f"no {engine.name} here")

    def close(self) -> None:
        self.gpu.close()


def test_auto_raises_every_reason(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, model: ModelFile) -> None:
    monkeypatch.setattr(cuda_detector, "load_engine", refuse)
    with pytest.raises(EngineError) as caught:
        opened(model)
    reasons = "; ".join(f"{name}: no {name} here" for name in cuda_detector.GPU_ENGINES)
    assert str(caught.value) == f"no engine works on Fake GPU ({reasons})"
    assert gpu.is_all_freed()


@pytest.mark.parametrize("fails_at", ["load_engine", "CudaDetector", "check_output"])
def test_auto_takes_the_next_engine_and_warns_why(
    fails_at: str,
    monkeypatch: pytest.MonkeyPatch,
    gpu: FakeGpu,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(step: str, name: str) -> Any:
        return refuse(name) if (step, name) == (fails_at, "tensorrt") else named(name)

    monkeypatch.setattr(cuda_detector, "GPU_ENGINES", ("tensorrt", "torch"))
    monkeypatch.setattr(cuda_detector, "load_engine", lambda name, *_: fail("load_engine", name))
    monkeypatch.setattr(cuda_detector, "check_output", lambda model, name, *_: fail("check_output", name))
    monkeypatch.setattr(cuda_detector, "CudaDetector", Opened)
    monkeypatch.setattr(Opened, "refused", "tensorrt" if fails_at == "CudaDetector" else None)
    with contextlib.closing(opened(model, self_check=True)) as detector:
        assert detector.info.name == "torch"
        assert detector.info.fallbacks == ("tensorrt: no tensorrt here",)
    assert [(r.levelname, r.message) for r in caplog.records if r.levelname != "INFO"] == [
        ("WARNING", "using torch, not tensorrt: no tensorrt here")
    ]
    assert gpu.is_all_freed()


def test_an_engine_that_is_not_available_is_no_fallback(
    monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, model: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    load = cuda_detector.load_engine
    found = importlib.util.find_spec
    absent = [package.module_name for package in TensorRTPackage]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else found(name))
    monkeypatch.setattr(cuda_detector, "GPU_ENGINES", ("tensorrt", "torch"))
    monkeypatch.setattr(
        cuda_detector, "load_engine", lambda name, *_: named(name) if name == "torch" else load(name, *_)
    )
    monkeypatch.setattr(cuda_detector, "CudaDetector", Opened)
    with caplog.at_level(logging.INFO), contextlib.closing(opened(model)) as detector:
        assert (detector.info.name, detector.info.fallbacks) == ("torch", ())
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "not using tensorrt: TensorRT is not installed: pip install" in caplog.text


def test_a_named_engine_is_never_replaced(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, model: ModelFile) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cuda_detector, "load_engine", lambda name, *_: (asked.append(name), refuse(name)))
    with pytest.raises(EngineError, match=r"^no tensorrt here$"):
        opened(model, "tensorrt")
    assert asked == ["tensorrt"]
    assert gpu.is_all_freed()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, model: ModelFile) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found(name) if name.startswith("pycuda") else None)
    with pytest.raises(EngineError, match=r"PyTorch is not installed: pip install 'nanodet-streamer\[torch\]'"):
        opened(model, "torch")


@pytest.mark.parametrize(
    ("fixed", "batch", "streams", "batches", "warns"),
    [
        (None, "auto", 1, [1], False),
        (None, "auto", 2, [1, 4], False),
        (None, "auto", 16, [1, 4, 16], False),
        (None, 3, 16, [3], False),
        (None, None, 16, [1], False),
        (1, "auto", 16, [1], False),
        (1, None, 16, [1], False),
        (1, 1, 16, [1], False),
        (1, 8, 16, [1], True),
    ],
)
def test_batch_sizes(
    fixed: int | None,
    batch: Any,
    streams: int,
    batches: list[int],
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    gpu: FakeGpu,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[int] = []
    if fixed:
        model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = fixed

    def load(name: str, model: Any, gpu: Any, precision: str, largest: int) -> Any:
        asked.append(largest)
        return named(name)

    monkeypatch.setattr(cuda_detector, "load_engine", load)
    monkeypatch.setattr(cuda_detector, "CudaDetector", Opened)
    with contextlib.closing(opened(model, "torch", batch=batch, streams=streams)) as detector:
        assert detector.batches == batches
    assert asked == [max(batches)]
    assert ("has a fixed batch of 1, not 8" in caplog.text) == warns


# --- whether a GPU is expected ---


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root folder of a machine without anything of NVIDIA's."""
    found = importlib.util.find_spec

    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pycuda" else found(name))
    monkeypatch.setattr("ctypes.CDLL", absent)
    return tmp_path


def put_pci(folder: Path, vendor: str, kind: str) -> None:
    device = folder / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")


def test_a_bare_machine_expects_no_gpu(bare: Path) -> None:
    assert not expects_gpu(bare)


@pytest.mark.parametrize(
    ("vendor", "kind", "expected"),
    [
        ("0x10de", "0x030000", True),  # a GeForce
        ("0x10de", "0x030200", True),  # an H100
        ("0x10de", "0x040300", False),  # its sound
        ("0x8086", "0x030000", False),
    ],
)
def test_gpus_without_a_driver_are_found(vendor: str, kind: str, expected: bool, bare: Path) -> None:
    put_pci(bare, vendor, kind)
    assert expects_gpu(bare) == expected


def test_a_device_that_cannot_be_read_is_none(bare: Path) -> None:
    put_pci(bare, "0x10de", "0x030000")
    (bare / "sys/bus/pci/devices/0000:01:00.0/class").unlink()
    assert not expects_gpu(bare)


@pytest.mark.parametrize("what", ["device file", "library", "pycuda"])
def test_a_driver_or_pycuda_expects_a_gpu(what: str, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "device file":
        (bare / "dev").mkdir()
        (bare / "dev" / "nvidiactl").touch()
    elif what == "library":
        monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert expects_gpu(bare)


def test_a_variable_number_of_detections_is_refused_before_a_gpu_is_opened(tmp_path: Path) -> None:
    made = family_model("picodet-detections")
    loaded = load_model(saved(made, tmp_path), made.spec())
    with pytest.raises(EngineError, match=r"variable number of detections: use --device cpu, or export it without its"):
        cuda_detector.open_cuda_detector(
            loaded, Postprocessor(loaded.spec), engine="auto", device="cuda", precision="auto", depth=None
        )


def test_a_family_without_anchor_points_has_its_constants(gpu: FakeGpu) -> None:
    with Gpu(0) as device:
        buffer = DeviceBuffer.holding(device, np.empty((6, 0), np.float32))
        assert buffer.nbytes == 1
        buffer.free()
    assert gpu.is_all_freed()
