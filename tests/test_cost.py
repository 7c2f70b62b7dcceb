"""What a picture costs: multiply-adds and parameters, by hand and of the packaged model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.cost import ModelCost, model_cost
from streamer.models.zoo import resolve_model


def model(nodes: list[onnx.NodeProto], *, batch: int | str, **constants: tuple[int, ...]) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants.items()]
    graph = helper.make_graph(nodes, "g", [image], [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def conv(stride: int = 1, group: int = 1) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", ["image", "w", "b"], ["out"], strides=[stride, stride], pads=[1] * 4, group=group, kernel_shape=[3, 3]
    )


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize(
    ("node", "weight", "multiply_adds"),
    [
        (conv(), (5, 3, 3, 3), 8 * 8 * 5 * 27),
        (conv(stride=2), (5, 3, 3, 3), 4 * 4 * 5 * 27),
        (conv(group=3), (6, 1, 3, 3), 8 * 8 * 6 * 9),
        (
            helper.make_node("ConvTranspose", ["image", "w", "b"], ["out"], kernel_shape=[2, 2], strides=[2, 2]),
            (3, 5, 2, 2),
            8 * 8 * 3 * 5 * 4,
        ),
    ],
    ids=["plain", "stride", "depthwise", "transposed"],
)
def test_convolutions(node: onnx.NodeProto, weight: tuple[int, ...], multiply_adds: int, batch: int | str) -> None:
    outputs = weight[1] if node.op_type == "ConvTranspose" else weight[0]
    got = model_cost(model([node], batch=batch, w=weight, b=(outputs,)))
    assert got == ModelCost(multiply_adds, int(np.prod(weight)) + outputs, 0)


def test_matrix_products_and_products_of_activations() -> None:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"], transB=1),
        helper.make_node("Transpose", ["scores"], ["column"]),
        helper.make_node("MatMul", ["column", "scores"], ["out"]),
    ]
    assert model_cost(model(nodes, batch=1, w=(10, 192), b=(10,))) == ModelCost(192 * 10 + 10 * 1 * 10, 1930, 0)


def test_a_layer_of_unknown_shape_is_said() -> None:
    reshape = helper.make_node("Reshape", ["image", "shape"], ["reshaped"])
    proto = model([reshape, helper.make_node("Conv", ["reshaped", "w"], ["out"])], batch=1, w=(5, 3, 3, 3))
    proto.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [4]))
    got = model_cost(proto)
    assert got == ModelCost(0, 135, 1)
    assert str(got).endswith("1 layer of unknown shape left out: simplify the file with onnxsim")


def test_the_packaged_int8_model_costs_what_upstream_says_of_nanodet_g() -> None:
    # Upstream's table: 4.2 GFLOPs and 3.81 M parameters, which include the head's layer that is never applied.
    got = model_cost(onnx.load(resolve_model("nanodet-g_416")[0]))
    assert 2e-9 * got.multiply_adds == pytest.approx(4.2, abs=0.05)
    assert 1e-6 * got.parameters == pytest.approx(3.81, abs=0.05)
    assert got.uncounted == 0
