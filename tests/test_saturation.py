"""Weights whose sums fit 16 bits, for processors without dot-product instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.models.graph.constants import Constants
from streamer.models.graph.saturation import (
    has_saturating_sums,
    has_uint8_integer_convolutions,
    prevent_saturation,
)
from tests.quantized import network, quantized
from tests.tiny import tiny_spec


def convolution(weights: np.ndarray, scale: np.ndarray, *, group: int = 1) -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["float_w"], axis=0),
        helper.make_node("Conv", ["x", "float_w"], ["y"], group=group),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weights.shape[1] * group, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scale, "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def stored(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """The weights and their scales as the graph reads them now."""
    constants = Constants(model)
    node = next(node for node in model.graph.node if node.op_type == "DequantizeLinear")
    weights, scale = constants.get(node.input[0]), constants.get(node.input[1])
    assert weights is not None and scale is not None
    return weights, scale


def largest_sums(weights: np.ndarray) -> tuple[int, int]:
    """What two products of neighbouring channels reach with activations of 0 to 255."""
    pairs = weights[:, : weights.shape[1] // 2 * 2].astype(int).reshape(len(weights), -1, 2, *weights.shape[2:])
    return 255 * int(np.minimum(pairs, 0).sum(2).min()), 255 * int(np.maximum(pairs, 0).sum(2).max())


@pytest.mark.parametrize("per_channel", [True, False])
def test_sums_fit_and_values_stay(per_channel: bool) -> None:
    weights = np.random.default_rng(0).integers(-127, 128, (16, 8, 3, 3)).astype(np.int8)
    scale = np.linspace(0.01, 0.02, 16, dtype=np.float32) if per_channel else np.array(0.01, np.float32)
    model = convolution(weights, scale)
    assert largest_sums(weights)[1] > 32767
    prevent_saturation(model)
    fitting, larger = stored(model)
    least, most = largest_sums(fitting)
    assert -32768 <= least and most <= 32767 and fitting.dtype == np.int8
    by_channel = (-1, 1, 1, 1) if per_channel else ()
    moved = fitting * larger.reshape(by_channel) - weights * scale.reshape(by_channel)
    assert (np.abs(moved) <= 0.501 * larger.reshape(by_channel)).all()
    assert (larger >= scale).all() and (larger <= 2 * scale).all()


def test_channels_that_fit_stay_as_they_are() -> None:
    weights = np.zeros((2, 4, 1, 1), np.int8)
    weights[0, :, 0, 0] = [64, 64, -127, 1]  # signs differ
    weights[1, :, 0, 0] = [127, 1, 0, 127]
    model = convolution(weights, np.array([0.5, 0.5], np.float32))
    prevent_saturation(model)
    assert np.array_equal(stored(model)[0], weights)


def test_any_two_weights_are_a_pair_where_channels_are_no_multiple_of_four() -> None:
    weights = np.zeros((2, 3, 2, 2), np.int8)
    weights[0, [0, 2], [0, 1], [0, 1]] = 127  # of different channels and places
    weights[1, 1] = 64
    model = convolution(weights, np.array([0.5, 0.5], np.float32))
    prevent_saturation(model)
    fitting, scale = stored(model)
    assert fitting[0].max() == 64 and fitting[1].max() == 64
    assert scale[0] == pytest.approx(0.5 * 254 / 128) and scale[1] == 0.5


def test_depthwise_weights_stay_as_they_are() -> None:
    weights = np.full((4, 1, 3, 3), 127, np.int8)
    model = convolution(weights, np.full(4, 0.1, np.float32), group=4)
    prevent_saturation(model)
    assert np.array_equal(stored(model)[0], weights)


def test_whose_sums_saturate() -> None:
    assert has_saturating_sums(frozenset({"sse4_1", "avx2"})) and has_saturating_sums(frozenset({"avx2", "avx512f"}))
    for dot_products in ("avx512_vnni", "avx_vnni", "amx_int8"):
        assert not has_saturating_sums(frozenset({"avx2", dot_products}))
    assert not has_saturating_sums(frozenset()) and not has_saturating_sums(frozenset({"asimd"}))


@pytest.mark.parametrize(("form", "expected"), [("qoperator-u8", True), ("qoperator-s8", False), ("qdq-s8", False)])
def test_integer_operators_of_uint8_are_found(form: str, expected: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    spec = tiny_spec()
    assert has_uint8_integer_convolutions(quantized(network(spec), spec, form, tmp_path)) is expected
