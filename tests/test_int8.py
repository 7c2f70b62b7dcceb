"""The INT8 artifact on the CPU engines: same arithmetic in every form, same detections as float."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from streamer.common.errors import ModelError
from streamer.engines import open_engine
from streamer.models.file import load_model
from streamer.models.graph.constants import fold_constants
from streamer.models.graph.int8 import RANGES_KEY, is_quantized, quantize_convolution_outputs, use_uint8
from tests.hidden_constants import FORMS, hide_constants
from tests.tiny import tiny_spec

SIZE = 16
CHANNELS = 8


def int8_network(activation: str = "LeakyRelu", *, zero_point: int = 0) -> onnx.ModelProto:
    """Two padded 3x3 convolutions with the artifact's placement: a pair before each, none behind the first."""
    random = np.random.default_rng(5)
    constants = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    nodes = []

    def pair(tensor: str, scale: float) -> str:
        names = (
            constant(f"{tensor}.s", np.array(scale, np.float32)),
            constant(f"{tensor}.z", np.array(zero_point, np.int8)),
        )
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *names], [f"{tensor}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.q", *names], [f"{tensor}.d"]))
        return f"{tensor}.d"

    def convolution(tensor: str, channels: int, name: str) -> str:
        weight = random.integers(-127, 128, (CHANNELS, channels, 3, 3)).astype(np.int8)
        scale = random.uniform(0.001, 0.003, CHANNELS).astype(np.float32)
        inputs = [
            constant(f"{name}.w", weight),
            constant(f"{name}.ws", scale),
            constant(f"{name}.wz", np.zeros(CHANNELS, np.int8)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.wd"], axis=0))
        bias = constant(f"{name}.b", random.standard_normal(CHANNELS).astype(np.float32))
        nodes.append(helper.make_node("Conv", [tensor, f"{name}.wd", bias], [name], pads=[1, 1, 1, 1]))
        return name

    first = convolution(pair("images", 0.02), 3, "first")
    slope = {"alpha": 0.1} if activation == "LeakyRelu" else {}
    nodes.append(helper.make_node(activation, [first], ["active"], **slope))
    quantized = pair("active", 0.05)
    nodes.append(helper.make_node("Concat", [quantized, quantized], ["both"], axis=1))
    second = convolution("both", 2 * CHANNELS, "second")
    nodes.append(helper.make_node("Identity", [second], ["output"]))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])
    stale = [helper.make_tensor_value_info("images.q", TensorProto.INT8, [1, 3, SIZE, SIZE])]
    graph = helper.make_graph(nodes, "int8", [image], [output], constants, value_info=stale)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def values() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)


def evaluate(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return ReferenceEvaluator(model).run(None, {"images": values()})[0]


@pytest.mark.parametrize("zero_point", [0, -7])
def test_uint8_is_the_same_arithmetic(zero_point: int) -> None:
    model = int8_network(zero_point=zero_point)
    before = evaluate(model)
    use_uint8(model)
    np.testing.assert_array_equal(evaluate(model), before)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    activations = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert len(activations) == 2
    assert {(constants[n.input[2]].dtype, int(constants[n.input[2]])) for n in activations} == {
        (np.dtype(np.uint8), 128 + zero_point)
    }
    assert constants["first.w"].dtype == np.int8


def test_uint8_in_onnxruntime_is_the_same_arithmetic() -> None:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model = int8_network()
    outputs = []
    for change in (lambda _: None, use_uint8):
        change(model)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        outputs.append(session.run(None, {"images": values()})[0])
    np.testing.assert_array_equal(*outputs)


def test_uint8_twice_changes_nothing_more() -> None:
    model = int8_network()
    use_uint8(model)
    once = model.SerializeToString(deterministic=True)
    use_uint8(model)
    assert model.SerializeToString(deterministic=True) == once


def test_quantized_tensor_that_is_not_a_pair_is_refused() -> None:
    model = int8_network()
    model.graph.node.append(helper.make_node("MaxPool", ["images.q"], ["pooled"], kernel_shape=[2, 2]))
    with pytest.raises(ModelError, match="MaxPool"):
        use_uint8(model)


def test_a_zero_point_that_is_not_constant_is_refused() -> None:
    model = int8_network()
    model.graph.node[1].input[2] = "images"
    with pytest.raises(ModelError, match="zero point.*quantise the model again"):
        use_uint8(model)


@pytest.mark.parametrize("empty", [[], [""]])
def test_a_zero_point_that_is_left_out_is_zero(empty: list[str]) -> None:
    model = int8_network()
    before = evaluate(model)
    model.graph.node[1].input[2:] = empty
    use_uint8(model)
    np.testing.assert_array_equal(evaluate(model), before)


def test_pairs_without_zero_points_are_int8_where_the_node_says_so() -> None:
    model = int8_network()
    before = evaluate(model)
    model.opset_import[0].version = 21
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not node.input[0].endswith(".w"):
            del node.input[2:]
            if node.op_type == "QuantizeLinear":
                node.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    np.testing.assert_array_equal(evaluate(model), before)
    use_uint8(model)
    np.testing.assert_array_equal(evaluate(model), before)
    assert not any(node.attribute for node in model.graph.node if node.op_type == "QuantizeLinear")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_scales_and_zero_points_of_any_form(form: str) -> None:
    model = int8_network("Relu", zero_point=3)
    before = evaluate(model)
    hide_constants(model, {f"{name}.{kind}" for name in ("images", "active") for kind in "sz"}, form)
    use_uint8(model)
    quantize_convolution_outputs(with_ranges(model, json.dumps({"first": [-6.0, 6.0]})))
    assert added_pairs(model) == {"first", "both"}
    fold_constants(model)  # the reference evaluator computes no sparse tensors
    assert np.corrcoef(evaluate(model).ravel(), before.ravel())[0, 1] > 0.999


def with_ranges(model: onnx.ModelProto, text: str) -> onnx.ModelProto:
    model.metadata_props.add(key=RANGES_KEY, value=text)
    return model


def added_pairs(model: onnx.ModelProto) -> set[str]:
    return {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"} - {"images", "active"}


@pytest.mark.parametrize("activation", ["LeakyRelu", "Relu"])
def test_convolution_outputs_get_a_pair_and_concat_an_exact_one(activation: str) -> None:
    model = int8_network(activation)
    before = evaluate(model)
    use_uint8(model)
    quantize_convolution_outputs(with_ranges(model, json.dumps({"first": [-6.0, 6.0], "second": [-9.0, 9.0]})))
    assert added_pairs(model) == {"first", "both"}
    # a step of the inner pair is 12/255 or less; the second convolution's weights sum to less than 40 in magnitude
    assert np.abs(evaluate(model) - before).max() < 0.4 * np.ptp(before)
    assert np.corrcoef(evaluate(model).ravel(), before.ravel())[0, 1] > 0.999


def test_without_ranges_only_exact_pairs_are_added() -> None:
    model = int8_network()
    before = evaluate(model)
    use_uint8(model)
    quantize_convolution_outputs(model)
    assert added_pairs(model) == {"both"}
    np.testing.assert_array_equal(evaluate(model), before)


def test_relu_needs_no_negative_half() -> None:
    model = int8_network("Relu")
    use_uint8(model)
    quantize_convolution_outputs(with_ranges(model, json.dumps({"first": [-50.0, 6.0]})))
    zero = next(c for c in model.graph.initializer if c.name == "first.zero_point")
    assert int(numpy_helper.to_array(zero)) == 0


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[1]", '{"first": [1]}', '{"first": [2, 1]}', '{"first": [0, NaN]}', '{"first": "a"}']
)
def test_damaged_ranges(text: str) -> None:
    model = int8_network()
    use_uint8(model)
    with pytest.raises(ModelError, match="metadata is damaged"):
        quantize_convolution_outputs(with_ranges(model, text))


@pytest.mark.parametrize("scale", ["images.d", "first.ws"])
def test_a_scale_that_is_no_single_constant_is_refused(scale: str) -> None:
    model = int8_network()
    use_uint8(model)
    for node in model.graph.node:
        if node.output[0] == "active.q":
            node.input[1] = scale
    with pytest.raises(ModelError, match="quantise the model again"):
        quantize_convolution_outputs(with_ranges(model, json.dumps({"first": [-6.0, 6.0]})))


def test_float_model_is_not_quantized() -> None:
    assert is_quantized(int8_network())
    assert not is_quantized(helper.make_model(helper.make_graph([], "empty", [], [])))


def int8_file(tmp_path: Path) -> Path:
    """A NanoDet file whose levels come from a quantised 3x3 convolution behind a quantised LeakyReLU."""
    spec = tiny_spec()
    channels = spec.output_channels
    random = np.random.default_rng(3)
    constants, nodes = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def pair(tensor: str, scale: float) -> str:
        names = [constant(f"{tensor}.s", np.array(scale, np.float32)), constant(f"{tensor}.z", np.array(0, np.int8))]
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *names], [f"{tensor}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.q", *names], [f"{tensor}.d"]))
        return f"{tensor}.d"

    def convolution(tensor: str, size: tuple[int, int], name: str, **attributes: object) -> str:
        weight = random.standard_normal((size[0], size[1], 3, 3)) / np.sqrt(9 * size[1])
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        inputs = [
            constant(f"{name}.w", np.round(weight / scale[:, None, None, None]).astype(np.int8)),
            constant(f"{name}.ws", scale.astype(np.float32)),
            constant(f"{name}.wz", np.zeros(size[0], np.int8)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.wd"], axis=0))
        bias = constant(f"{name}.b", np.zeros(size[0], np.float32))
        nodes.append(helper.make_node("Conv", [tensor, f"{name}.wd", bias], [name], pads=[1, 1, 1, 1], **attributes))
        return name

    tensor, wide = pair("images", 0.02), 3
    ranges: dict[str, list[float]] = {}
    levels = []
    for index, stride in enumerate((2, 4, *spec.strides)):
        name = convolution(tensor, (32, wide), f"conv{index}", strides=[2, 2])
        nodes.append(helper.make_node("LeakyRelu", [name], [f"active{index}"], alpha=0.1))
        inner = pair(f"active{index}", 0.02)
        mid = convolution(inner, (32, 32), f"mid{index}", strides=[1, 1])
        nodes.append(helper.make_node("LeakyRelu", [mid], [f"midactive{index}"], alpha=0.1))
        ranges |= {name: [-2.5, 2.5], mid: [-2.5, 2.5]}
        # two branches of one scale joined: what OpenVINO's signed kernels get wrong
        tensor, wide = f"joined{index}", 64
        nodes.append(helper.make_node("Concat", [pair(f"midactive{index}", 0.02), inner], [tensor], axis=1))
        if stride in spec.strides:
            level = convolution(tensor, (channels, wide), f"head{index}")
            shape = constant(f"shape{index}", np.array([0, channels, -1], np.int64))
            nodes.append(helper.make_node("Reshape", [level, shape], [f"flat{index}"]))
            nodes.append(helper.make_node("Transpose", [f"flat{index}"], [f"rows{index}"], perm=[0, 2, 1]))
            levels.append(f"rows{index}")
    sizes = constant("split", np.array([spec.num_classes, channels - spec.num_classes], np.int64))
    nodes += [
        helper.make_node("Concat", levels, ["raw"], axis=1),
        helper.make_node("Split", ["raw", sizes], ["logits", "bins"], axis=2),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["scores", "bins"], ["output"], axis=2),
    ]
    width, height = spec.input_size_wh
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", spec.num_points, channels])
    graph = helper.make_graph(nodes, "tiny", [image], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    helper.set_model_props(model, spec.to_metadata() | {RANGES_KEY: json.dumps(ranges)})
    onnx.save(model, tmp_path / "int8.onnx")
    return tmp_path / "int8.onnx"


def test_engines_compute_the_artifact_as_the_reference_does(tmp_path: Path, engine: str) -> None:
    path = int8_file(tmp_path)
    model = load_model(path)
    assert model.quantized
    pixels = np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8)
    normalised = (pixels - np.array(model.spec.mean_bgr)) / np.array(model.spec.std_bgr)
    images = normalised.astype(np.float32).transpose(2, 0, 1)[None]
    wanted = ReferenceEvaluator(model.proto).run(None, {"images": images})[0][0]
    runner = open_engine(engine, model, slots=1)
    try:
        assert runner.precision == "int8"
        runner.input(0)[:] = pixels
        runner.start(0)
        got = runner.wait(0)[0].copy()
    finally:
        runner.close()
    classes = model.spec.num_classes
    # bf16 and the pair before each activation move values by a few steps; a wrong kernel by whole units
    assert np.abs(got[:, :classes] - wanted[:, :classes]).max() < 0.05
    assert np.abs(got[:, classes:] - wanted[:, classes:]).max() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["DEFAULT", "AVX512_CORE_VNNI"])
def test_openvino_is_right_with_and_without_amx(tmp_path: Path, isa: str) -> None:
    """Signed activations are computed wrongly by OpenVINO's kernels for processors without AMX."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    test = f"{__file__}::test_engines_compute_the_artifact_as_the_reference_does[openvino]"
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}", test],
        env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
