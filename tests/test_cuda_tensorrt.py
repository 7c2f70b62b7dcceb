"""Every TensorRT name the engine uses, against the real package; TensorRT-RTX needs no GPU for that."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from streamer.engines import tensorrt_engine
from streamer.engines.tensorrt.builder import build_engine, plan_build
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import load_model
from tests.tiny import write_tiny

OWNERS = {
    "trt": "",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "_runtime": "Runtime",
}


@pytest.fixture(scope="module")
def trt() -> Any:
    """The real package."""
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def used_names() -> set[tuple[str, str]]:
    """Returns (TensorRT class or "", dotted name) for all that `tensorrt_engine.py` asks of TensorRT."""
    used = set()
    for node in ast.walk(ast.parse(inspect.getsource(tensorrt_engine))):
        names: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            names.insert(0, inner.id)
        if names[:1] == ["self"]:
            names = names[1:]
        if len(names) > 1 and names[0] in OWNERS:
            used.add((OWNERS[names[0]], ".".join(names[1:])))
    return used


def test_every_name_exists(trt: Any) -> None:
    used = used_names()
    assert {("", "Runtime"), ("ICudaEngine", "create_execution_context")} <= used
    assert {("IExecutionContext", "execute_async_v3"), ("IExecutionContext", "set_device_memory")} <= used
    for owner, dotted in sorted(used):
        found = getattr(trt, owner) if owner else trt
        for name in dotted.split("."):
            assert hasattr(found, name), f"TensorRT has no {owner}.{dotted}"
            found = getattr(found, name)


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
    monkeypatch.setattr(tensorrt_engine.importlib.util, "find_spec", lambda name: object())
    assert tensorrt_engine.installed_package() is TensorRTPackage.TENSORRT
    monkeypatch.setattr(tensorrt_engine.importlib.util, "find_spec", lambda name: None)
    assert tensorrt_engine.installed_package() is TensorRTPackage.TENSORRT_RTX  # whose load names the fix
