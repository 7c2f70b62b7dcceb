"""The TensorRT engine on the stand-in of `tests.fake_tensorrt`: built, cached, loaded, bound, run, closed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.common.errors import EngineError
from streamer.cuda.gpu import NON_BLOCKING, Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.detector import open_detector
from streamer.detector.cuda import open_cuda_detector
from streamer.engines.tensorrt.builder import build_engine, plan_build
from streamer.engines.tensorrt.cache import read_report, write_engine
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from tests.fake_cuda import FakeCuda
from tests.fake_cuda import install as install_cuda
from tests.fake_graphs import install_graphs
from tests.host_kernels import HostKernels, compile_kernels
from tests.tensorrt_models import float_model, quantized_graph, save

onnxruntime = pytest.importorskip("onnxruntime", reason="the stand-in runs engines in ONNX Runtime")

from streamer.engines.tensorrt_engine import TensorRtEngine  # noqa: E402
from tests.fake_tensorrt import FakeTensorRT, install  # noqa: E402

RNG = np.random.default_rng(14)
LEAN = TensorRTPackage.TENSORRT_LEAN


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """Two fake GPUs, and an empty cache folder."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    return install_cuda(monkeypatch)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> Iterator[FakeTensorRT]:
    """TensorRT's stand-in; nothing is left of it afterwards, and nothing was freed in the wrong order."""
    state = install(monkeypatch, cuda)
    yield state
    gc.collect()
    assert state.broken == []
    assert not cuda.blocks
    assert cuda.primary == [0, 0]


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    """A tiny float model."""
    (tmp_path / "models").mkdir()
    return float_model(tmp_path / "models" / "tiny.onnx")


@pytest.fixture(scope="module")
def kernels(kernel_folder: Path) -> HostKernels:
    """The kernels on this machine's CPU."""
    return HostKernels(compile_kernels(kernel_folder))


class Opened:
    """An engine on a GPU, and buffers to bind it to."""

    def __init__(self, model: ModelFile, gpu: Gpu, **options: Any) -> None:
        self.model, self.gpu = model, gpu
        self.buffers: list[DeviceBuffer] = []
        self.streams: list[Any] = []
        self.engine = TensorRtEngine(model, gpu, **{"precision": "f32", **options})

    def bind(self, batch: int, stream: Any = None) -> tuple[Any, DeviceBuffer, DeviceBuffer]:
        """Returns a binding on a new stream, its input and its output."""
        import pycuda.driver as drv

        spec = self.model.spec
        width, height = spec.input_size_wh
        with self.gpu.active():
            stream = stream or drv.Stream(NON_BLOCKING)
            self.streams.append(stream)
            sizes = (4 * batch * 3 * height * width, 4 * batch * spec.num_points * spec.output_channels)
            image, output = (DeviceBuffer(self.gpu, nbytes) for nbytes in sizes)
            self.buffers += [image, output]
            return self.engine.bind(batch, image.address, output.address, stream.handle), image, output

    def close(self) -> None:
        for buffer in self.buffers:
            buffer.free()
        with self.gpu.active():
            self.engine.close()
        self.gpu.close()


@pytest.fixture
def opened(trt: FakeTensorRT, model: ModelFile) -> Iterator[Callable[..., Opened]]:
    """Opens engines on GPU 0, and closes them."""
    kept: list[Opened] = []

    def open_one(**options: Any) -> Opened:
        gpu = Gpu(0)
        try:
            kept.append(Opened(options.pop("model", model), gpu, **options))
        except BaseException:
            gpu.close()
            raise
        return kept[-1]

    yield open_one
    for one in kept:
        one.close()


def expected(model: ModelFile, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])


def detector_of(model: ModelFile, **options: Any) -> Any:
    wanted = {"engine": "tensorrt", "device": "cuda", "precision": "f32", "depth": 2, "self_check": True, **options}
    return open_cuda_detector(model, Postprocessor(model.spec, 0.1), **wanted)


def frames(count: int) -> list[Frame]:
    pictures = [RNG.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(count)]
    return [Frame(picture, "f", index, index / 30, 0.0) for index, picture in enumerate(pictures)]


def bind_and_check(one: Opened, batch: int, model: ModelFile) -> Any:
    """Binds an engine, compares its output of noise with the model's, and returns the binding."""
    binding, image, output = one.bind(batch)
    pixels = RNG.standard_normal((batch, 3, 64, 64), np.float32)
    image.write(pixels)
    with one.gpu.active():
        binding.enqueue()
    wanted = expected(model, pixels)
    found = np.empty_like(wanted)
    output.read(found)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    return binding


class TestEngine:
    @pytest.mark.parametrize("batch", [1, 3, 16])
    def test_it_computes_every_batch_up_to_the_largest(
        self, batch: int, opened: Callable[..., Opened], trt: FakeTensorRT, model: ModelFile
    ) -> None:
        one = opened(batch=16)
        binding = bind_and_check(one, batch, model)
        binding.close()
        binding.close()
        one.engine.close()  # while the closed binding is still there
        assert trt.broken == []
        assert [plan.profile for plan in trt.built] == [((1, 3, 64, 64), (16, 3, 64, 64), (16, 3, 64, 64))]
        assert (one.engine.name, one.engine.precision) == ("tensorrt", "f32")

    def test_a_larger_batch_than_the_engines_is_refused(self, opened: Callable[..., Opened], cuda: FakeCuda) -> None:
        one = opened(batch=4)
        before = len(cuda.blocks)
        with pytest.raises(EngineError, match=r"TensorRT refuses a batch of 5: build the engine with --max-batch 5"):
            one.bind(5)
        assert len(cuda.blocks) == before + 2, "the input and the output of the test"

    def test_a_cached_engine_with_a_smaller_largest_batch_is_not_used(
        self, opened: Callable[..., Opened], trt: FakeTensorRT
    ) -> None:
        for batch, builds in ((1, 1), (4, 2), (1, 2), (4, 2), (16, 3)):
            opened(batch=batch)
            assert len(trt.built) == builds

    def test_it_is_built_again_for_another_version(
        self, opened: Callable[..., Opened], trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda
    ) -> None:
        opened()
        later = install(monkeypatch, cuda, version="11.5.0.1")
        opened()
        assert [plan.version for plan in (*trt.built, *later.built)] == ["11.4.0.106", "11.5.0.1"]

    def test_no_memory_for_a_context_is_one_line(self, opened: Callable[..., Opened], trt: FakeTensorRT) -> None:
        one = opened()
        trt.has_memory = False
        with pytest.raises(EngineError, match="can't make an execution context on Fake GPU: is its memory full"):
            one.bind(1)

    def test_a_refused_run_is_one_line(self, opened: Callable[..., Opened], trt: FakeTensorRT) -> None:
        one = opened()
        (first, *_), (second, *_) = one.bind(1), one.bind(1)
        trt.shares_profiles = False
        with one.gpu.active():
            first.enqueue()
            with pytest.raises(EngineError, match="TensorRT refused to run the network"):
                second.enqueue()
        first.close()
        second.close()

    def test_a_runtime_that_fails_is_not_used(self, opened: Callable[..., Opened], trt: FakeTensorRT) -> None:
        opened()
        trt.runtime_error = (
            "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 35)"
        )
        with pytest.raises(
            EngineError, match=r"tensorrt 11\.4\.0\.106 can't run tiny-.*\.engine on Fake GPU: createInfer"
        ):
            opened()
        gc.collect()
        assert trt.broken == []

    def test_an_engine_for_another_gpu_is_one_line(self, opened: Callable[..., Opened], trt: FakeTensorRT) -> None:
        opened()
        trt.target = "sm89"
        with pytest.raises(EngineError, match=r"incompatible device, expecting sm89\); use --engine torch") as error:
            opened()
        assert "\n" not in str(error.value)

    def test_int8_and_fp16_are_reported_as_the_inspector_tells(
        self, opened: Callable[..., Opened], trt: FakeTensorRT, tmp_path: Path
    ) -> None:
        model = save(tmp_path / "int8.onnx", quantized_graph())
        assert opened(model=model, precision="auto").engine.precision == "int8+f16"
        layers = read_report(next((tmp_path / "cache" / "engines").glob("*.engine"))).layers
        assert [(layer.onnx, layer.inputs, layer.outputs) for layer in layers] == [
            ((f"conv{stride}",), "INT8", "FP32") for stride in (8, 16, 32)
        ]
        trt.inspected = '{"Layers": [{"Name": "all", "Inputs": [{"Datatype": "Half"}], "Outputs": []}]}'
        assert opened(model=model, precision="f32").engine.precision == "f32"
        trt.inspected = '{"Layers": ["conv8"]}'
        assert opened(model=model, precision="f32", batch=2).engine.precision == "int8+f32"

    def test_an_engine_that_cannot_be_inspected_is_built(
        self, trt: FakeTensorRT, model: ModelFile, caplog: pytest.LogCaptureFixture
    ) -> None:
        trt.runtime_error = "out of memory"
        plan = plan_build(model, TensorRTPackage.TENSORRT, BuildOptions())
        with caplog.at_level(logging.INFO), Gpu(0) as gpu, gpu.active():
            assert build_engine(plan).report.layers == ()
        assert "the engine can't be inspected here: out of memory" in caplog.text


class TestDetector:
    @pytest.mark.parametrize(("device", "graphs"), [("cuda:0", True), ("cuda:1", False)])
    def test_it_finds_what_the_host_finds(
        self, device: str, graphs: bool, trt: FakeTensorRT, cuda: FakeCuda, kernels: HostKernels, model: ModelFile,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        launched = install_graphs(monkeypatch, cuda) if graphs else []
        cuda.kernels = kernels
        wanted = frames(9)
        with detector_of(model, device=device, batch="auto", streams=2) as detector:
            assert detector.info.name == "tensorrt"
            found = []
            for index in range(0, len(wanted), detector.batch):
                detector.submit_batch(wanted[index : index + detector.batch])
                while detector.in_flight:
                    found.append(detector.collect())
            raw = detector.raw_output(wanted[0])
        assert set(trt.bound) == {1, 4}
        assert len(trt.built) == 1
        assert bool(launched) == graphs
        assert [frame.index for frame, *_ in found] == list(range(9))
        assert any(len(detections.scores) for _, detections, _ in found)
        alone = Postprocessor(model.spec, 0.1)(raw, Letterbox.for_model(wanted[0], model.spec))
        np.testing.assert_allclose(np.sort(found[0][1].scores), np.sort(alone.scores), atol=1e-5)
        assert len(alone.scores)

    def test_auto_keeps_it_for_several_sources(
        self, trt: FakeTensorRT, cuda: FakeCuda, kernels: HostKernels, model: ModelFile
    ) -> None:
        """Engines for batch 1 alone made every such run fall back to the CPU."""
        cuda.kernels = kernels
        with open_detector(model.path, streams=2, batch="auto", depth=2) as detector:
            assert (detector.info.name, detector.info.precision, detector.info.fallbacks) == ("tensorrt", "f16", ())
            assert len(list(detector.stream(frames(2)))) == 2
        assert [plan.profile[-1][0] for plan in trt.built] == [4]

    def test_auto_says_why_it_is_not_used(
        self, trt: FakeTensorRT, cuda: FakeCuda, kernels: HostKernels, model: ModelFile,
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("streamer.detector.cuda.GPU_ENGINES", ("tensorrt",))
        cuda.kernels = kernels
        trt.has_memory = False
        with open_detector(model.path, streams=2, batch="auto", depth=2) as detector:
            assert detector.info.name in ("openvino", "onnxruntime")
            (fallback,) = detector.info.fallbacks
        assert fallback.startswith(
            "GPU: no engine works on Fake GPU (tensorrt: TensorRT can't make an execution context"
        )
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert any(message.startswith("running on the CPU, not on a GPU: no engine works") for message in warnings)

    def test_a_context_that_cannot_be_captured_runs_without_a_graph(
        self, cuda: FakeCuda, kernels: HostKernels, model: ModelFile, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        state = install(monkeypatch, cuda, TensorRTPackage.TENSORRT_RTX, "1.7.1.116")
        launched = install_graphs(monkeypatch, cuda)
        cuda.kernels = kernels
        state.is_capturable = False
        with caplog.at_level(logging.INFO), detector_of(model, self_check=False) as detector:
            assert len(list(detector.stream(frames(3)))) == 3
        assert launched == []
        assert "it runs without a CUDA graph" in caplog.text
        gc.collect()
        assert state.broken == []

    def test_a_file_with_a_fixed_batch_runs_one_by_one(
        self, trt: FakeTensorRT, cuda: FakeCuda, kernels: HostKernels, tmp_path: Path
    ) -> None:
        model = float_model(tmp_path / "fixed.onnx")
        model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        cuda.kernels = kernels
        with detector_of(model, batch="auto", streams=16, self_check=False) as detector:
            assert (detector.batch, detector.depth) == (1, 2)
            assert len(list(detector.stream(frames(3)))) == 3
        assert set(trt.bound) == {1}


class TestLean:
    """A machine that only runs engines: built with the same or an earlier `tensorrt`, version-compatible."""

    @pytest.fixture
    def ready(self, trt: FakeTensorRT, model: ModelFile, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> Any:
        """Builds an engine with some version and options into a file, then installs the lean package."""

        def build(
            path: Path, *, built_by: str = "11.0.0.114", lean: str = "11.4.0.106", **options: Any
        ) -> FakeTensorRT:
            install(monkeypatch, cuda, version=built_by)
            path.parent.mkdir(parents=True, exist_ok=True)
            wanted = BuildOptions(**{"max_batch": 16, "version_compatible": True, **options})
            with Gpu(0) as gpu, gpu.active():
                write_engine(path, build_engine(plan_build(model, TensorRTPackage.TENSORRT, wanted)))
            return install(monkeypatch, cuda, LEAN, lean)

        return build

    @pytest.mark.parametrize("built_by", ["11.0.0.114", "11.4.0.106", "10.13.3.9"])
    def test_an_engine_built_elsewhere_is_run(
        self, built_by: str, ready: Any, opened: Callable[..., Opened], model: ModelFile, tmp_path: Path
    ) -> None:
        state = ready(tmp_path / "cache" / "engines" / "any.engine", built_by=built_by)
        one = opened(batch=4)
        binding = bind_and_check(one, 4, model)
        binding.close()
        del binding
        assert (state.built, state.broken) == ([], [])

    def test_of_several_the_smallest_that_suffices_is_run(
        self, ready: Any, opened: Callable[..., Opened], tmp_path: Path
    ) -> None:
        folder = tmp_path / "cache" / "engines"
        for batch in (1, 4, 8, 16):
            ready(folder / f"{batch}.engine", max_batch=batch)
        one = opened(batch=3)
        one.bind(4)[0].close()
        with pytest.raises(EngineError, match="refuses a batch of 5"):
            one.bind(5)

    @pytest.mark.parametrize(
        "unfit",
        [{"version_compatible": False}, {"built_by": "11.5.0.1"}, {"max_batch": 2}, {"fp16": True}],
        ids=lambda unfit: next(iter(unfit)),
    )
    def test_one_that_does_not_fit_is_not_run(
        self, unfit: dict[str, Any], ready: Any, opened: Callable[..., Opened], tmp_path: Path
    ) -> None:
        ready(tmp_path / "cache" / "engines" / "any.engine", **unfit)
        with pytest.raises(
            EngineError, match=r"doesn't build engines.*--log-level info says why those there don't fit$"
        ):
            opened(batch=4)

    @pytest.mark.parametrize("place", ["models", "cache/engines"])
    def test_one_without_code_is_run_by_its_own_version_from_both_folders(
        self, place: str, ready: Any, opened: Callable[..., Opened], tmp_path: Path
    ) -> None:
        path = tmp_path / place / "tiny.engine"
        ready(path, built_by="11.3.0.99", exclude_lean_runtime=True)
        with pytest.raises(EngineError, match="doesn't build engines"):
            opened()
        ready(path, built_by="11.4.0.106", exclude_lean_runtime=True)
        opened()

    def test_one_without_code_is_not_run_by_the_package_that_builds(
        self, ready: Any, opened: Callable[..., Opened], model: ModelFile, monkeypatch: pytest.MonkeyPatch,
        cuda: FakeCuda,
    ) -> None:  # fmt: skip
        """TensorRT documents that it has to load a lean runtime for it first."""
        ready(model.path.with_suffix(".engine"), built_by="11.4.0.106", exclude_lean_runtime=True)
        state = install(monkeypatch, cuda)
        opened()
        assert len(state.built) == 1

    @pytest.mark.parametrize("package", [TensorRTPackage.TENSORRT, LEAN])
    def test_one_with_code_is_not_run_from_the_models_folder(
        self, package: TensorRTPackage, ready: Any, opened: Callable[..., Opened], model: ModelFile,
        monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """A model that was downloaded, with an engine beside it, must not run code."""
        ready(model.path.with_suffix(".engine"))
        state = install(monkeypatch, cuda, package)
        if package is LEAN:
            with pytest.raises(EngineError, match="doesn't build engines"):
                opened()
            return
        with caplog.at_level(logging.INFO):
            opened()
        assert len(state.built) == 1
        assert "tiny.engine contains code: move it and its .json to" in caplog.text

    def test_without_one_the_line_names_the_command(
        self, trt: FakeTensorRT, opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda
    ) -> None:
        install(monkeypatch, cuda, LEAN)
        with pytest.raises(EngineError) as error:
            opened(precision="auto", batch=16)
        assert str(error.value).startswith(
            "tensorrt-lean 11.4.0.106 doesn't build engines, and there is none of tiny.onnx for Fake GPU in"
        )
        assert str(error.value).endswith(
            "python -m calibration build tiny.onnx --flavour tensorrt --version-compatible --fp16 --max-batch 16 -o"
            " tiny.engine"
        )
        assert "\n" not in str(error.value)
