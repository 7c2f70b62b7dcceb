"""The network rebuilt from an exported file, on the CPU: what the torch engine runs on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from streamer.common.errors import ModelError
from streamer.models.file import ModelFile, load_model
from streamer.models.zoo import resolve_model
from tests.tiny import write_tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from streamer.engines import torch_engine  # noqa: E402  (imports torch)
from streamer.models.nanodet import NEVER_APPLIED  # noqa: E402  (likewise)


@pytest.fixture(scope="module")
def packaged() -> ModelFile:
    """The packaged model."""
    path, spec = resolve_model("nanodet-g_416_float")
    return load_model(path, spec)


@torch.inference_mode()
def test_the_output_equals_the_networks(packaged: ModelFile) -> None:
    network = torch_engine.rebuild(packaged)
    spec = packaged.spec
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 416, 416)).astype(np.float32))
    output = torch.full((2, spec.num_points, spec.output_channels), float("nan"))
    torch_engine.Points(network)(images, output)
    network.sigmoid_scores = True
    torch.testing.assert_close(output, network(images), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_rebuilt_network_computes_what_the_file_does(packaged: ModelFile) -> None:
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = ort.InferenceSession(packaged.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).normal(size=(1, 3, 416, 416)).astype(np.float32)
    (wanted,) = session.run(None, {packaged.proto.graph.input[0].name: images})
    output = torch.empty(wanted.shape)
    torch_engine.Points(torch_engine.rebuild(packaged))(torch.from_numpy(images), output)
    np.testing.assert_allclose(output.numpy(), wanted, atol=2e-3)


def test_int8_weights_are_dequantised() -> None:
    levels = np.array([[[[-128]]], [[[127]]]], np.int8)
    scale = np.array([0.5, 0.25], np.float32)
    for made_up in ("net.conv.weight_quantized", "q_output_net.conv.weight_1"):
        node = helper.make_node("DequantizeLinear", [made_up, "scale", "zero"], ["dq_net.conv.weight"], axis=0)
        constants = {made_up: levels, "scale": scale, "zero": np.zeros(2, np.int8), "net.conv.bias": scale}
        initialisers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        proto = helper.make_model(helper.make_graph([node], "g", [], [], initialisers))
        found = torch_engine.weights_by_name(proto, {"net.conv.weight": None, "net.conv.bias": None, "conv": None})
        assert set(found) == {"net.conv.weight", "net.conv.bias"}
        np.testing.assert_array_equal(found["net.conv.weight"].ravel(), [-64, 31.75])
        assert found["net.conv.weight"].dtype == np.float32


def test_weights_quantised_in_the_graph_are_dequantised() -> None:
    weight = numpy_helper.from_array(np.array([0.3, -0.9], np.float32), "a.weight")
    nodes = [
        helper.make_node("Constant", [], ["scale"], value_float=0.5),
        helper.make_node("Identity", ["scale"], ["same"]),
        helper.make_node("QuantizeLinear", ["a.weight", "same"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "same"], ["dq"]),
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [], [], [weight]), opset_imports=[helper.make_opsetid("", 17)]
    )
    np.testing.assert_array_equal(torch_engine.weights_by_name(proto, {"a.weight": None})["a.weight"], [0.5, 0.0])


def test_float16_weights_are_converted() -> None:
    entry = numpy_helper.from_array(np.ones(3, np.float16), "a.weight")
    proto = helper.make_model(helper.make_graph([], "g", [], [], [entry]))
    assert torch_engine.weights_by_name(proto, {"a.weight": None})["a.weight"].dtype == np.float32


def test_a_foreign_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no 'network'"):
        torch_engine.rebuild(load_model(write_tiny(tmp_path / "tiny.onnx")))


def test_renamed_weights_are_refused_with_the_fix(packaged: ModelFile, tmp_path: Path) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(packaged.proto)
    name = next(entry.name for entry in proto.graph.initializer if entry.name.endswith("weight"))
    for entry in proto.graph.initializer:
        if entry.name == name:
            entry.name = "renamed"
    for node in proto.graph.node:
        for index, used in enumerate(node.input):
            if used == name:
                node.input[index] = "renamed"
    path = tmp_path / "renamed.onnx"
    onnx.save(proto, path)
    with pytest.raises(ModelError, match=r"1 missing.*the torch engine needs a file of `python -m calibration export`"):
        torch_engine.rebuild(load_model(path))


def test_the_int8_model_is_rebuilt_from_its_dequantised_weights(packaged: ModelFile) -> None:
    path, spec = resolve_model("nanodet-g_416")
    int8 = load_model(path, spec)
    assert int8.quantized
    rebuilt, wanted = torch_engine.rebuild(int8).state_dict(), torch_engine.rebuild(packaged).state_dict()
    for name, weight in wanted.items():
        if weight.ndim == 4 and not name.startswith(NEVER_APPLIED):
            error = (rebuilt[name] - weight).norm() / weight.norm().clamp(min=1e-6)
            assert error < 0.05, name
