"""Every TensorRT name the engine uses, against the real package; TensorRT-RTX needs no GPU for that."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.common.errors import EngineError
from streamer.cuda.gpu import Gpu
from streamer.engines import tensorrt_engine
from streamer.engines.tensorrt import loading
from streamer.engines.tensorrt.builder import build_engine, plan_build
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage, present_gpu
from streamer.models.file import load_model
from tests.real_gpu import opened_gpu
from tests.tensorrt_names import builder_names, runtime_names
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def trt() -> Any:
    """The real package."""
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


@pytest.fixture(scope="module", params=["tensorrt_rtx", "tensorrt_lean"])
def package(request: pytest.FixtureRequest) -> Any:
    """Each real package that runs engines and can be installed without a GPU."""
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def test_every_name_exists(package: Any) -> None:
    used = runtime_names()
    assert {("", "Runtime"), ("ICudaEngine", "create_execution_context")} <= used
    assert {("Runtime", "deserialize_cuda_engine"), ("Runtime", "engine_host_code_allowed")} <= used
    assert {("IExecutionContext", "execute_async_v3"), ("IExecutionContext", "set_device_memory")} <= used
    for owner, dotted in sorted(used):
        found = getattr(package, owner) if owner else package
        for name in dotted.split("."):
            assert hasattr(found, name), f"TensorRT has no {owner}.{dotted}"
            found = getattr(found, name)


def test_every_name_exists_in_the_bindings_of_tensorrt(tmp_path: Path) -> None:
    """Of the package `tensorrt` itself, but for what only TensorRT-RTX has and the code asks for."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to stand for TensorRT's libraries")
    engine = {f"{owner}.{dotted}" if owner else dotted for owner, dotted in runtime_names()}
    names = sorted((engine | builder_names()) - {"__version__"})
    script = Path(__file__).with_name("tensorrt_bindings_alone.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), *names], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == [
        "BuilderFlag.REQUIRE_USER_ALLOCATION",
        "ComputeCapability",
        "ComputeCapability.__members__",
        "IBuilderConfig.num_compute_capabilities",
        "IBuilderConfig.set_compute_capability",
    ]


def test_without_a_gpu_loading_is_one_line(package: Any) -> None:
    """`tensorrt_lean` makes a runtime then, whose first use ends the process."""
    if present_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError) as error:
        loading.deserialize(package, bytes(1000), allow_host_code=False)
    assert str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """GPU 0, whose context is current."""
    with opened_gpu() as opened, opened.active():
        yield opened


@pytest.mark.gpu
@pytest.mark.parametrize("content", [b"", b"engine", bytes(1000), bytes(range(256)) * 4000], ids=len)
def test_what_is_no_engine_is_refused_in_one_line(gpu: Gpu, package: Any, content: bytes) -> None:
    with pytest.raises(EngineError) as error:
        loading.deserialize(package, content, allow_host_code=True)
    assert str(error.value) and "\n" not in str(error.value)


@pytest.mark.gpu
def test_an_engine_of_tensorrt_rtx_is_refused_by_the_lean_package(gpu: Gpu, trt: Any, tmp_path: Path) -> None:
    lean = pytest.importorskip("tensorrt_lean", reason="tensorrt_lean is not installed")
    model = load_model(write_tiny(tmp_path / "tiny.onnx"))
    built = build_engine(plan_build(model, TensorRTPackage.TENSORRT_RTX, BuildOptions(targets=("sm89",))))
    for data in (built.data, built.data[: len(built.data) // 2]):
        with pytest.raises(EngineError) as error:
            loading.deserialize(lean, data, allow_host_code=True)
        assert "\n" not in str(error.value)


@pytest.mark.gpu
def test_the_lean_package_alone_names_the_command_that_builds(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_lean", reason="tensorrt_lean is not installed")
    monkeypatch.setattr(tensorrt_engine, "installed_package", lambda: TensorRTPackage.TENSORRT_LEAN)
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    model = load_model(write_tiny(tmp_path / "tiny.onnx"))
    with pytest.raises(EngineError, match=r"doesn't build engines.*--version-compatible --fp16"):
        tensorrt_engine.TensorRtEngine(model, gpu, batch=4)


def test_graphs_are_asked_for_by_the_real_name(trt: Any) -> None:
    assert "is_stream_capturable" in inspect.getsource(tensorrt_engine.TensorRtBinding.capture)
    assert hasattr(trt.IExecutionContext, "is_stream_capturable")


def test_the_engine_that_would_be_run_is_built_for_real(trt: Any, tmp_path: Path) -> None:
    model = load_model(write_tiny(tmp_path / "tiny.onnx"))
    options = BuildOptions(fp16=True, max_batch=1, targets=("sm89",))
    built = build_engine(plan_build(model, TensorRTPackage.TENSORRT_RTX, options))
    assert trt.__version__ in str(built.report.fingerprint)
    assert len(built.data) > 1000
    assert [port.precision for port in (*built.report.inputs, *built.report.outputs)] == ["FP32", "FP32"]
    spec = model.spec
    assert built.report.inputs[0].shape[1:] == (3, spec.input_size_wh[1], spec.input_size_wh[0])
    assert built.report.outputs[0].shape[1:] == (spec.num_points, spec.output_channels)
    assert built.report.outputs[0].name == model.proto.graph.output[0].name


def test_the_installed_package_is_found(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tensorrt_engine.importlib.util.find_spec
    monkeypatch.setattr(
        tensorrt_engine.importlib.util, "find_spec", lambda name: None if name == "tensorrt" else here(name)
    )
    assert tensorrt_engine.installed_package() is TensorRTPackage.TENSORRT_RTX
    monkeypatch.setattr(
        tensorrt_engine.importlib.util, "find_spec", lambda name: object() if name == "tensorrt_lean" else None
    )
    assert tensorrt_engine.installed_package() is TensorRTPackage.TENSORRT_LEAN
    monkeypatch.setattr(tensorrt_engine.importlib.util, "find_spec", lambda name: object())
    assert tensorrt_engine.installed_package() is TensorRTPackage.TENSORRT
    monkeypatch.setattr(tensorrt_engine.importlib.util, "find_spec", lambda name: None)
    assert tensorrt_engine.installed_package() is TensorRTPackage.TENSORRT_RTX  # whose load names the fix
