"""The int8 engine from loading to freeing, on fake GPUs that run its kernels on the CPU; and when `auto` takes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamer.app.listing import list_known
from streamer.common.errors import ConfigError, UnavailableError
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.module import KernelModule
from streamer.detector import cuda as detectors
from streamer.engines.int8 import tiles
from streamer.engines.int8.parameters import COMBINATION
from streamer.engines.int8_engine import Int8Engine
from streamer.models.file import ModelFile, load_model
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model
from tests.fake_cuda import FakeCuda, install
from tests.fake_kernels import FakeKernels, install_kernels
from tests.qdq_graphs import CLASSES, QdqGraph, pictures, run_whole

SIZE_WH = (44, 36)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, kernel_folder: Path, tmp_path: Path) -> FakeKernels:
    """Few tiles, and an empty cache."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path))
    for name, some in (("_MEDIUM", tiles._MEDIUM[:1]), ("_SMALL", tiles._SMALL[-1:]), ("_LARGE", tiles._LARGE[:1])):
        monkeypatch.setattr(tiles, name, some)
    for name in ("_REPEATS", "_ROUNDS"):  # the CPU is slow, and no time is looked at
        monkeypatch.setattr(f"streamer.engines.int8.tuning.{name}", 1)
    for name in ("_PATCH_SMALL", "_PATCH_LARGE"):
        monkeypatch.setattr(tiles, name, ())
    return install_kernels(monkeypatch, cuda, kernel_folder)


@pytest.fixture
def gpu(cuda: FakeCuda) -> Iterator[Gpu]:
    """GPU 1; everything on it must be freed."""
    with Gpu(1) as opened:
        yield opened
        assert opened.device_bytes == 0
        assert not cuda.blocks
    assert cuda.primary == [0, 0]


def model(*, quantised: bool = True) -> ModelFile:
    """A small network."""
    graph = QdqGraph(SIZE_WH, opset=17 if quantised else 12)
    image = graph.pair("images", 0.02) if quantised else "images"
    scale = 0.03 if quantised else 0
    tensor = graph.convolution(image, 3, 24, stride=2, quantised=quantised, scale=scale)
    graph.output(graph.convolution(tensor, 24, 16, quantised=quantised, scale=scale), 16)
    return graph.model()


def computed(engine: Int8Engine, gpu: Gpu, file: ModelFile, batch: int) -> npt.NDArray[np.float32]:
    """Binds, enqueues, frees, and returns the network's output."""
    import pycuda.driver as drv

    images = pictures(batch, SIZE_WH)
    values = np.zeros((batch, *SIZE_WH[::-1], 4), engine.input_type)
    levels = np.rint(images.transpose(0, 2, 3, 1) / np.float32(engine.input_scale)) + engine.input_zero_point
    values[..., :3] = np.clip(levels, -128, 127)
    output = np.zeros((batch, file.spec.num_points, file.spec.output_channels), engine.output_type)
    buffers = [DeviceBuffer.holding(gpu, values), DeviceBuffer.holding(gpu, output)]
    with gpu.active():
        stream = drv.Stream()
        binding = engine.bind(batch, buffers[0].address, buffers[1].address, stream.handle)
        binding.enqueue()
    buffers[1].read(output)
    binding.close()
    binding.close()
    for buffer in buffers:
        buffer.free()
    return output.astype(np.float32)


def test_it_computes_batches_and_frees_everything(gpu: Gpu, kernels: FakeKernels) -> None:
    file = model()
    engine = Int8Engine(file, gpu)
    assert (engine.name, engine.precision, engine.input_type) == ("int8", "int8", np.int8)
    for batch in (1, 3):
        expected = run_whole(file.proto, pictures(batch, SIZE_WH), ["output"])["output"]
        found = computed(engine, gpu, file, batch)
        assert np.abs(found - expected)[..., :CLASSES].max() < 0.05
        assert np.abs(found - expected)[..., CLASSES:].max() < 0.1
    with gpu.active():
        engine.close()
        engine.close()
    assert kernels.loaded == 0


def test_a_launch_keeps_its_shared_memory_beside_one_with_less(gpu: Gpu, kernels: FakeKernels) -> None:
    """The limit belongs to the function, which all launches share."""
    with gpu.active():
        module = KernelModule(gpu, json.dumps(["between", {}]).encode())
        most, less = (
            module.launcher("combine", np.zeros((), COMBINATION), (1, 1), 32, kilobytes << 10, 0)
            for kilobytes in (90, 60)
        )
        most()
        less()
        module.close()
    assert kernels.launched == ["combine", "combine"]


def test_what_was_measured_is_read_again(
    gpu: Gpu, kernels: FakeKernels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    file = model()

    def run() -> int:
        """Returns how many kernels are launched."""
        kernels.launched.clear()
        caplog.clear()
        engine = Int8Engine(file, gpu)
        computed(engine, gpu, file, 1)
        with gpu.active():
            engine.close()
        return len(kernels.launched)

    measured = run()
    assert "measuring the int8 engine's kernels" in caplog.text
    (kept,) = (tmp_path / "cuda").glob("tiles-*.json")
    first = kept.read_text()
    plain = run()
    assert plain < measured
    assert "measuring" not in caplog.text
    for damaged in ("", "[1, 2", "[]", first.replace("rows-", "cols-")):
        kept.write_text(damaged)
        assert run() == measured
        assert kept.read_text() == first


def test_a_cache_that_can_not_be_written_costs_only_the_next_measuring(
    gpu: Gpu, kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("streamer.engines.int8.tuning.atomic_file", refuse)
    file = model()
    engine = Int8Engine(file, gpu)
    computed(engine, gpu, file, 1)
    with gpu.active():
        engine.close()


def test_tiles_fit_the_shared_memory_of_a_gpu(gpu: Gpu, kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of Turing has 64 KiB for a block, where one of Hopper has 227."""
    kernels.most_shared = 64 << 10
    big = tiles.Tile(32, 32, 256, 6, 1, 1, 8)
    monkeypatch.setattr(tiles, "_SMALL", (big, *tiles._SMALL))
    file = model()
    engine = Int8Engine(file, gpu)
    computed(engine, gpu, file, 1)
    assert all(macros.get("STAGES") != big.stages for source, macros in kernels.built if source == "convolution")
    with gpu.active():
        engine.close()


def test_what_it_is_not_made_for(gpu: Gpu, kernels: FakeKernels) -> None:
    with pytest.raises(ConfigError, match=r"the int8 engine computes what the file is quantised to, not f16"):
        Int8Engine(model(), gpu, precision="f16")
    with pytest.raises(UnavailableError, match=r"network.onnx isn't quantised: take an INT8 file"):
        Int8Engine(model(quantised=False), gpu)
    gpu.compute_capability = (7, 0)
    with pytest.raises(UnavailableError, match="has no INT8 tensor cores"):
        Int8Engine(model(), gpu)


def test_without_cuda_bindings_it_is_unavailable(
    gpu: Gpu, kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="cuda-bindings is not installed: pip install"):
        Int8Engine(model(), gpu)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
    """Other engines are installed and take everything."""

    class Other:
        def __init__(self, name: str) -> None:
            self.name = name

    monkeypatch.setattr(detectors, "installed_gpu_engines", lambda: dict.fromkeys(detectors.GPU_ENGINES))
    monkeypatch.setattr("streamer.engines.tensorrt_engine.TensorRtEngine", lambda *_, **__: Other("tensorrt"))


@pytest.mark.parametrize(
    ("quantised", "precision", "wanted"),
    [(True, "auto", "int8"), (False, "auto", "tensorrt"), (True, "f16", "tensorrt")],
)
def test_auto_takes_it_for_a_quantised_model_only(
    quantised: bool, precision: str, wanted: str, gpu: Gpu, kernels: FakeKernels, opened: None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level(logging.WARNING):
        engine: Any = detectors.open_engine("auto", model(quantised=quantised), gpu, precision, 4)
    assert engine.name == wanted
    assert not caplog.records
    if isinstance(engine, Int8Engine):
        with gpu.active():
            engine.close()


def test_a_detector_says_what_computes(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, opened: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the report's `engine` has it, for the packaged model; the kernels do nothing here."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path))
    kernels = install_kernels(monkeypatch, cuda, None)
    path, spec = resolve_model("nanodet-g_416")
    file = load_model(path, spec)
    with (
        caplog.at_level(logging.ERROR),
        detectors.open_cuda_detector(
            file, Postprocessor(file.spec), engine="auto", device="cuda:1", precision="auto", depth=2, self_check=False
        ) as detector,
    ):
        assert (detector.info.name, detector.info.precision, detector.info.fallbacks) == ("int8", "int8", ())
        assert cuda.primary[0] == 0
    assert kernels.loaded == 0
    assert not cuda.blocks


def test_it_is_listed() -> None:
    (line,) = [line for line in list_known("engines") if line.startswith("int8 ")]
    assert line.split(maxsplit=1)[1] in ("installed", "pip install 'nanodet-streamer[cuda]'")


@pytest.mark.parametrize("missing", ["cuda", "cuda.bindings"])
def test_another_package_of_cuda_is_not_cuda_bindings(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        if name.startswith("cuda."):
            if missing == "cuda":
                raise ModuleNotFoundError("No module named 'cuda'")
            return None
        return object()

    monkeypatch.setattr("streamer.engines.gpu_engines.importlib.util.find_spec", find)
    assert detectors.installed_gpu_engines()["int8"] == "pip install 'nanodet-streamer[cuda]'"
