from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.models.graph.constants import Constants, fold_constants
from tests.hidden_constants import FORMS


def model_of(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto, opset: int = 19) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph(
        nodes, "g", [image], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
@pytest.mark.parametrize("value", [np.array(0.25, np.float32), np.array(-7, np.int8), np.array(200, np.uint8)])
def test_every_form_has_its_value(form: str, value: np.ndarray, opset: int) -> None:
    model = model_of([*FORMS[form]("c", value), helper.make_node("Identity", ["x"], ["y"])], opset=opset)
    constants = Constants(model)
    assert "c" in constants
    got = constants.get("c")
    assert got is not None
    assert (got.dtype, got.shape) == (value.dtype, ())
    assert got == value
    fold_constants(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]
    assert numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "c")) == value


def test_what_depends_on_an_input_is_no_constant() -> None:
    model = model_of([helper.make_node("Identity", ["x"], ["z"]), helper.make_node("Shape", ["z"], ["y"])])
    constants = Constants(model)
    assert "z" not in constants
    assert constants.get("z") is None
    assert constants.get("there is none") is None


def test_a_random_number_is_no_constant() -> None:
    model = model_of([helper.make_node("RandomNormal", [], ["z"], shape=[2]), helper.make_node("Exp", ["z"], ["y"])])
    assert "y" not in Constants(model)


def test_a_long_chain() -> None:
    names = ["c", *(f"c{index}" for index in range(3000)), "y"]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(names)]
    constants = Constants(model_of(nodes, numpy_helper.from_array(np.float32(3), "c")))
    assert constants.get("y") == 3
    assert constants.origin("y") == "c"


def test_a_node_that_can_not_be_computed_stays() -> None:
    one, shape = numpy_helper.from_array(np.ones(3, np.float32), "a"), numpy_helper.from_array(np.array([2, 2]), "s")
    model = model_of([helper.make_node("Reshape", ["a", "s"], ["y"])], one, shape)
    assert Constants(model).get("y") is None
    fold_constants(model)
    assert len(model.graph.node) == 1


def test_small_operands_do_not_make_a_huge_result() -> None:
    many = np.zeros(5000, np.int64)
    nodes = [helper.make_node("Gather", ["a", "i"], ["y"])]
    tensors = numpy_helper.from_array(np.ones(9, np.float32), "a"), numpy_helper.from_array(many, "i")
    assert Constants(model_of(nodes, *tensors)).get("y") is None


def test_how_a_weight_is_stored_stays() -> None:
    weight = numpy_helper.from_array(np.ones((2, 2), np.int8), "w")
    half = numpy_helper.from_array(np.ones((2, 2), np.float16), "h")
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("Transpose", ["wd"], ["wt"]),
        helper.make_node("Cast", ["h"], ["hf"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wt", "hf"], ["y"]),
    ]
    model = model_of(nodes, weight, half, scale)
    np.testing.assert_array_equal(Constants(model).get("wt"), np.full((2, 2), 0.5))
    assert Constants(model).origin("wt") == "w"
    before = model.SerializeToString(deterministic=True)
    fold_constants(model)
    assert model.SerializeToString(deterministic=True) == before


def test_sparse_initializers_become_whole() -> None:
    values = helper.make_tensor("c", TensorProto.FLOAT, [2], [5.0, 6.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [2, 2], [0, 1, 1, 0]), [2, 2])
    model = model_of([helper.make_node("Identity", ["c"], ["y"])])
    model.graph.sparse_initializer.append(sparse)
    np.testing.assert_array_equal(Constants(model).get("c"), [[0, 5], [6, 0]])
    fold_constants(model)
    assert not model.graph.sparse_initializer
    assert {tensor.name for tensor in model.graph.initializer} == {"c", "y"}
