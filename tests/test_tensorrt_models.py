"""Engines of the real networks, built with TensorRT-RTX for two architectures, on a machine without a GPU too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from streamer.engines.tensorrt.builder import BuiltEngine, build_engine, plan_build
from streamer.engines.tensorrt.layers import Layer
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import load_model
from streamer.models.spec import spec_for
from tests.conftest import SHARED

pytest.importorskip("tensorrt_rtx", reason="engines are built for real with TensorRT-RTX")
pytest.importorskip("torch", reason="models are exported from checkpoints, which runs PyTorch")
pytest.importorskip("onnxsim", reason="export simplifies the graph with onnxsim")

pytestmark = [pytest.mark.slow, pytest.mark.shared]
MODELS = ("nanodet-m_320", "nanodet-g_416", "nanodet-plus-m_416")


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    from calibration.export import export

    name = request.param
    path = tmp_path_factory.mktemp("models") / f"{name}.onnx"
    export(spec_for(name), SHARED / "weights" / f"{name}.pth", path)
    return name, path


def build(path: Path, target: str, **options: Any) -> BuiltEngine:
    wanted = BuildOptions(targets=(target,), max_batch=4, **options)
    return build_engine(plan_build(load_model(path), TensorRTPackage.TENSORRT_RTX, wanted))


def count(path: Path) -> int:
    """Returns how many convolutions a graph has."""
    return sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)


def convolutions(built: BuiltEngine) -> list[Layer]:
    """The kernels that multiply with the weights of one convolution."""
    wanted = ("correlation", "runtime_fusion")
    return [
        layer for layer in built.report.layers if layer.kind in wanted and any(n.endswith("Conv") for n in layer.onnx)
    ]


@pytest.mark.parametrize("target", ["sm89", "sm120"])
@pytest.mark.parametrize("fp16", [False, True])
def test_float_engines(exported: tuple[str, Path], target: str, fp16: bool) -> None:
    name, path = exported
    if fp16:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
    built = build(path, target, fp16=fp16)
    spec = spec_for(name)
    width, height = spec.input_size_wh
    assert built.report.inputs[0].shape == (-1, 3, height, width)
    assert built.report.outputs[0].shape == (-1, spec.num_points, spec.output_channels)
    assert {layer.inputs for layer in convolutions(built)} == {"FP16" if fp16 else "FP32"}
    assert len(convolutions(built)) == count(path)


@pytest.mark.parametrize("target", ["sm89", "sm120"])
def test_int8_engines(exported: tuple[str, Path], target: str) -> None:
    pytest.importorskip("nncf", reason="models are quantised with NNCF")
    from calibration.methods import Quantizer

    name, path = exported
    width, height = spec_for(name).input_size_wh
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((1, 3, height, width), np.float32) for _ in range(2)]
    quantized = path.with_name(f"{name}_int8.onnx")
    if not quantized.exists():
        onnx.save(Quantizer(onnx.load(path), inputs).quantize("nncf"), quantized)
    built = build(quantized, target)
    found = [layer.inputs for layer in convolutions(built)]
    assert len(found) == count(path)
    assert found.count("INT8") > len(found) / 2
