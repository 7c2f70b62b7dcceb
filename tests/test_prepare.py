"""What quantisers are given: opset 13 or later, no shapes that are computed, and the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.prepare import prepared
from streamer.common.errors import ModelError
from streamer.models.file import load_model
from streamer.models.graph.editor import opset_of
from tests.quantized import network, normalised, pixels
from tests.tiny import tiny_spec
from tests.variants import Variant, build

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SPEC = tiny_spec()
IMAGES = normalised(SPEC, pixels(SPEC))


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": IMAGES})


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_old_operator_sets_become_17(opset: int) -> None:
    model = network(SPEC, opset=opset)
    before = model.SerializeToString(deterministic=True)
    changed = prepared(model, IMAGES)
    assert opset_of(changed) == 17
    for got, wanted in zip(run(changed), run(model), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert model.SerializeToString(deterministic=True) == before


def test_a_new_plain_model_stays_as_it_is() -> None:
    model = network(SPEC, opset=17)
    assert prepared(model, IMAGES).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def with_computed_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as PyTorch exports it: each enlarging to a size that is computed from another tensor's."""
    up = next(node for node in model.graph.node if node.name == "up")
    place = list(model.graph.node).index(up)
    nodes = [
        helper.make_node("Shape", ["down8.active"], ["shape"]),
        helper.make_node("Shape", [up.input[0]], ["own"]),
        helper.make_node("Slice", ["shape", "two", "four"], ["grid"]),
        helper.make_node("Slice", ["own", "zero", "two"], ["ahead"]),
        helper.make_node("Concat", ["ahead", "grid"], ["size"], axis=0),
    ]
    for name, value in (("zero", 0), ("two", 2), ("four", 4)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "nothing"))
    up.input[:] = [up.input[0], "nothing", "nothing", "size"]
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    return model


@pytest.mark.parametrize("opset", [11, 17])
def test_shapes_are_computed_once(opset: int) -> None:
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    model = with_computed_shapes(network(SPEC, opset=opset))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    changed = prepared(model, IMAGES)
    assert not [node.op_type for node in changed.graph.node if node.op_type in ("Shape", "Slice")]
    for got, wanted in zip(run(changed), run(model), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_model_that_can_not_be_brought_to_17_is_refused_with_the_cure() -> None:
    model = network(SPEC, opset=9)
    stem = next(node for node in model.graph.node if node.name == "up")
    stem.op_type, stem.domain = "Odd", ""
    with pytest.raises(ModelError, match="from opset 9 to 17.*export it with opset 13 or later") as caught:
        prepared(model, IMAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 17])
def test_a_foreign_export_is_quantised_per_channel(opset: int, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    pytest.importorskip("onnxsim", reason="onnxsim is not installed")
    from calibration.methods import Quantizer

    variant = Variant(form="pairs-nchw", opset=opset)
    model = load_model(build(variant, tmp_path), variant.spec()).proto
    inputs = [normalised(variant.spec(), pixels(variant.spec()))]
    for method in ("nncf", "minmax", "entropy", "percentile"):
        quantized = Quantizer(with_computed_shapes(model) if method == "nncf" else model, inputs).quantize(method)
        scales = {tensor.name: tensor for tensor in quantized.graph.initializer}
        made = {node.output[0]: node for node in quantized.graph.node}
        convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
        weights = [made[node.input[1]] for node in convolutions if node.input[1] in made]
        assert len(weights) == len(convolutions)
        assert all(scales[node.input[1]].dims for node in weights)
        assert quantized.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
