"""Graphs refused before TensorRT parses them, and the cast to FP16."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.common.errors import EngineError, ModelError
from streamer.engines.tensorrt.graph import check_quantization, to_float16
from tests.hidden_constants import FORMS, hide_constants
from tests.tensorrt_models import quantized_graph
from tests.tiny import tiny_model, tiny_spec


def test_a_symmetric_int8_graph_passes() -> None:
    check_quantization(quantized_graph(), "m.onnx")


def test_a_float_graph_passes() -> None:
    check_quantization(tiny_model(tiny_spec()), "m.onnx")


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        ({"bias": np.int32}, r"m\.onnx: node 'dqb8' dequantises 'b8' from int32.*leave the bias in float"),
        ({"zero_point": 3}, r"m\.onnx: node 'q8' \(QuantizeLinear\) has zero point 3, TensorRT takes only 0"),
        ({"zero_point": 128, "activation": np.uint8}, "node 'q8' .* has zero point 128"),
        ({"weight_zero_point": -5}, r"node 'dqw8' \(DequantizeLinear\) has zero point -5"),
        ({"activation": np.uint8}, r"node 'q8' \(QuantizeLinear\) is uint8, TensorRT takes it for int8 and clips"),
    ],
)
def test_unsupported_quantization_is_refused_in_one_line(graph: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as error:
        check_quantization(quantized_graph(**graph), "m.onnx")
    assert "\n" not in str(error.value)
    assert "calibration quantize" in str(error.value)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_zero_points_of_any_form_are_seen(form: str) -> None:
    proto = quantized_graph()
    proto.graph.initializer.append(numpy_helper.from_array(np.array(9, np.int8), "nine"))
    hide_constants(proto, {"nine"}, form)
    next(node for node in proto.graph.node if node.name == "dq8").input[2] = "nine"
    with pytest.raises(ModelError, match="node 'dq8' .* has zero point 9"):
        check_quantization(proto, "m.onnx")


def test_a_zero_point_that_is_computed_is_refused() -> None:
    proto = quantized_graph()
    proto.graph.node.insert(0, helper.make_node("Cast", ["images"], ["computed"], to=TensorProto.INT8))
    next(node for node in proto.graph.node if node.name == "q8").input[2] = "computed"
    with pytest.raises(ModelError, match="node 'q8' .* computes its zero point"):
        check_quantization(proto, "m.onnx")


def test_a_quantizer_without_a_zero_point_is_uint8() -> None:
    proto = quantized_graph()
    node = next(node for node in proto.graph.node if node.name == "q8")
    del node.input[2]
    with pytest.raises(ModelError, match="'q8' .* is uint8"):
        check_quantization(proto, "m.onnx")
    node.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    check_quantization(proto, "m.onnx")


def test_an_int32_bias_without_a_zero_point_is_refused() -> None:
    proto = quantized_graph(bias=np.int32)
    del next(node for node in proto.graph.node if node.name == "dqb8").input[2]
    with pytest.raises(ModelError, match="'dqb8' dequantises 'b8' from int32"):
        check_quantization(proto, "m.onnx")


class TestFloat16:
    def run(self, proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
        onnxruntime = pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        output: np.ndarray = session.run(None, {"images": images})[0]
        return output

    def images(self) -> np.ndarray:
        return np.random.default_rng(1).standard_normal((2, 3, 64, 64), np.float32)

    def test_it_computes_nearly_the_same_with_float32_at_both_ends(self) -> None:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        proto = tiny_model(tiny_spec())
        before = proto.SerializeToString()
        half = to_float16(proto, "m.onnx")
        assert proto.SerializeToString() == before
        wanted, got = self.run(proto, self.images()), self.run(half, self.images())
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())
        stored = {i.name: i.data_type for i in half.graph.initializer if i.name.startswith("weight")}
        assert set(stored.values()) == {TensorProto.FLOAT16}
        assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT

    def test_a_quantised_graph_keeps_its_int8_and_gets_float16_scales(self) -> None:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        proto = quantized_graph()
        half = to_float16(proto, "m.onnx")
        types = {i.name: i.data_type for i in half.graph.initializer}
        for stride in (8, 16, 32):
            assert types[f"wq{stride}"] == types[f"z{stride}"] == TensorProto.INT8
            assert types[f"s{stride}"] == types[f"ws{stride}"] == types[f"b{stride}"] == TensorProto.FLOAT16
        onnx.checker.check_model(half, full_check=False)
        wanted, got = self.run(proto, self.images()), self.run(half, self.images())
        assert np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max()

    def test_weights_already_stored_as_float16(self) -> None:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        proto = tiny_model(tiny_spec())
        weight = proto.graph.initializer[0]
        half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "stored")
        name = weight.name
        weight.CopyFrom(half)
        proto.graph.node.insert(0, helper.make_node("Cast", ["stored"], [name], to=TensorProto.FLOAT))
        wanted = self.run(proto, self.images())
        got = self.run(to_float16(proto, "m.onnx"), self.images())
        np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())

    def test_a_constant_beyond_its_range_is_refused(self) -> None:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        proto = tiny_model(tiny_spec())
        large = numpy_helper.to_array(proto.graph.initializer[0]) * 1e6
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(large.astype(np.float32), "weight8"))
        with pytest.raises(ModelError, match=r"m\.onnx: 'weight8' exceeds float16's range: build without FP16"):
            to_float16(proto, "m.onnx")

    def test_without_the_converter_the_fix_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime.transformers.float16", None)
        with pytest.raises(EngineError, match=r"pip install 'nanodet-streamer\[onnxruntime\]'"):
            to_float16(tiny_model(tiny_spec()), "m.onnx")
