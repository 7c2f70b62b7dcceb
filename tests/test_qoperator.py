"""ONNX Runtime's QOperator form, made by its own quantiser, as Q/DQ pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.common.errors import ModelError
from streamer.models.graph.int8 import use_uint8
from streamer.models.graph.qoperator import use_pairs
from tests.quantized import network, normalised, pixels, quantized, unoptimised
from tests.tiny import tiny_spec

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SPEC = tiny_spec()


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    """All outputs for the packaged picture, as the graph says, without optimising."""
    session = ort.InferenceSession(model.SerializeToString(), unoptimised(model), ["CPUExecutionProvider"])
    images = normalised(SPEC, pixels(SPEC))
    return session.run(None, {session.get_inputs()[0].name: images})


def distance(some: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The largest relative difference of any output."""
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["qoperator-u8", "qoperator-s8"])
@pytest.mark.parametrize("opset", [11, 17])
def test_pairs_compute_what_the_integer_operators_did(opset: int, form: str, per_channel: bool, tmp_path: Path) -> None:
    model = quantized(network(SPEC, opset=opset), SPEC, form, tmp_path, per_channel=per_channel)
    wanted = run(model)
    assert any(node.op_type == "QLinearConv" for node in model.graph.node)
    use_pairs(model)
    assert not [node.op_type for node in model.graph.node if node.op_type.startswith("QLinear")]
    onnx.checker.check_model(model)
    assert distance(run(model), wanted) < 0.03
    use_uint8(model)  # finds pairs alone, no MaxPool or Resize of quantised values
    assert distance(run(model), wanted) < 0.03


def test_a_float_or_paired_graph_stays_as_it_is(tmp_path: Path) -> None:
    for model in (network(SPEC), quantized(network(SPEC), SPEC, "qdq-s8", tmp_path)):
        before = model.SerializeToString(deterministic=True)
        use_pairs(model)
        assert model.SerializeToString(deterministic=True) == before


def integer(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A graph of int8 nodes from `a` to `b`, between a QuantizeLinear and a DequantizeLinear."""
    whole = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["a"]),
        *nodes,
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([0.02], np.float32), "s")]
    constants += [numpy_helper.from_array(np.array([-7], np.int8), "z")]
    constants += [numpy_helper.from_array(np.array([0, -1], np.int64), "flat")]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(
        whole, "integer", [image], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Reshape", ["a", "flat"], ["b"])],
        [helper.make_node("Transpose", ["a"], ["t"]), helper.make_node("Flatten", ["t"], ["b"])],
        [helper.make_node("Concat", ["a", "a"], ["b"], axis=1)],
        [helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2])],
    ],
    ids=["Reshape", "Transpose", "Concat", "MaxPool"],
)
def test_rearrangements_of_quantised_values_move_out(nodes: list[onnx.NodeProto]) -> None:
    model = integer(*nodes)
    wanted = run(model)
    use_pairs(model)
    use_uint8(model)
    for got, want in zip(run(model), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (helper.make_node("QLinearSoftmax", ["a", "s", "z", "s", "z"], ["b"]), "with QLinearSoftmax.*QuantFormat.QDQ"),
        (
            helper.make_node("QLinearAveragePool", ["a", "s", "z", "s", "z"], ["b"], channels_last=1),
            "channels last.*use the file from before",
        ),
    ],
)
def test_what_is_not_read_is_refused_with_the_cure(node: onnx.NodeProto, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        use_pairs(integer(node))
    assert "\n" not in str(caught.value)
