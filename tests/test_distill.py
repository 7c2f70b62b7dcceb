"""Distillation: the trained graph is the ONNX graph, and training brings it nearer to the float model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="distillation runs PyTorch")
ort = pytest.importorskip("onnxruntime", reason="the graph is compared with ONNX Runtime")

from calibration.distill import Recipe, augmented, distill, distillation_loss, tune  # noqa: E402
from calibration.methods import without_layers  # noqa: E402
from calibration.torch_graph import TorchGraph, fake_quantize  # noqa: E402
from streamer.common.errors import ModelError  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402

CLASSES, BINS = 3, 8


def spec(side: int = 64) -> ModelSpec:
    return spec_for(f"nanodet-m_{side}").model_copy(update={"labels": ("a", "b", "c"), "network": None})


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def graph(*, quantized: bool, side: int = 64, seed: int = 0) -> onnx.ModelProto:
    """A small detector with every kind of node that distillation handles: one output as NanoDet has."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def conv(name: str, source: str, inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> str:
        weight = random.normal(0, 0.4, (outputs, inputs // groups, 3, 3)).astype(np.float32)
        constants.append(constant(f"{name}.bias", random.normal(0, 0.1, outputs).astype(np.float32)))
        weight_name = f"{name}.weight"
        if quantized:
            scale = np.float32(0.02 + 0.001 * len(nodes))
            constants.extend([constant(f"{name}.s", scale), constant(f"{name}.z", np.int8(0))])
            nodes.append(helper.make_node("QuantizeLinear", [source, f"{name}.s", f"{name}.z"], [f"{name}.q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [f"{name}.d"]))
            source = f"{name}.d"
            scales = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
            levels = np.clip(np.round(weight / scales[:, None, None, None]), -128, 127).astype(np.int8)
            constants.extend([constant(f"{name}.w8", levels), constant(f"{name}.ws", scales)])
            constants.append(constant(f"{name}.wz", np.zeros(outputs, np.int8)))
            read = [f"{name}.w8", f"{name}.ws", f"{name}.wz"]
            nodes.append(helper.make_node("DequantizeLinear", read, [f"{name}.wd"], axis=0))
            weight_name = f"{name}.wd"
        else:
            constants.append(constant(weight_name, weight))
        options: dict[str, Any] = {"strides": [stride, stride], "pads": [1] * 4, "kernel_shape": [3, 3]}
        nodes.append(
            helper.make_node(
                "Conv", [source, weight_name, f"{name}.bias"], [f"{name}.out"], name=name, group=groups, **options
            )
        )
        nodes.append(helper.make_node("LeakyRelu", [f"{name}.out"], [f"{name}.act"], alpha=0.1))
        return f"{name}.act"

    features = conv("c1", "image", 3, 8, stride=2)
    nodes.append(helper.make_node("MaxPool", [features], ["pooled"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    constants.append(constant("halves", np.array([4, 4], np.int64)))
    nodes.append(helper.make_node("Split", ["pooled", "halves"], ["left", "right"], axis=1))
    nodes.append(helper.make_node("Concat", ["right", conv("c2", "left", 4, 4, groups=4)], ["joined"], axis=1))
    constants.append(constant("two", np.array([1, 1, 2, 2], np.float32)))
    resize = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    nodes.append(helper.make_node("Resize", ["joined", "", "two"], ["large"], **resize))
    constants.append(constant("half", np.array([1, 1, 0.25, 0.25], np.float32)))
    nodes.append(helper.make_node("Resize", ["large", "", "half"], ["small"], **resize))
    width = CLASSES + 4 * BINS
    head = conv("c3", "small", 8, width)
    constants.append(constant("shape", np.array([-1, width, (side // 8) ** 2], np.int64)))
    nodes.append(helper.make_node("Reshape", [head, "shape"], ["points"]))
    nodes.append(helper.make_node("Transpose", ["points"], ["rows"], perm=[0, 2, 1]))
    constants.extend(constant(f"n{at}", np.array([at], np.int64)) for at in (0, CLASSES, width, 2))
    nodes.append(helper.make_node("Slice", ["rows", "n0", f"n{CLASSES}", "n2"], ["logits"]))
    nodes.append(helper.make_node("Slice", ["rows", f"n{CLASSES}", f"n{width}", "n2"], ["bins"]))
    nodes.append(helper.make_node("Sigmoid", ["logits"], ["scores"]))
    nodes.append(helper.make_node("Concat", ["scores", "bins"], ["output"], axis=2))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, side, side])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", (side // 8) ** 2, width])
    unique = {item.name: item for item in constants}
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [image], [output], list(unique.values())),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def floats(model: onnx.ModelProto) -> dict[str, Any]:
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return {node.name: constants[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}


def run_onnx(model: onnx.ModelProto, images: Any) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def pictures(count: int = 6, side: int = 64) -> list[Any]:
    random = np.random.default_rng(1)
    small = random.integers(0, 255, (count, 8, 8, 3)).astype(np.uint8)
    return list(small.repeat(side // 8, 1).repeat(side // 8, 2))


@pytest.mark.parametrize("quantized", [False, True])
def test_the_graph_computes_what_onnx_runtime_does(quantized: bool) -> None:
    model = graph(quantized=quantized)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        got = TorchGraph(model, floats(graph(quantized=False)))(torch.from_numpy(images)).numpy()
    wanted = run_onnx(model, images)
    steps = 0.05 if quantized else 1e-5  # a value on the edge between two levels may fall to either
    assert got.shape == wanted.shape
    assert np.quantile(np.abs(got - wanted), 0.99) <= steps


def test_what_is_written_is_what_was_trained() -> None:
    plain, model = graph(quantized=False), graph(quantized=True)
    trained = TorchGraph(model, floats(plain))
    with torch.no_grad():
        for value in (*trained.weights.values(), *trained.scales.values()):
            value.mul_(1.05)
    images = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        wanted = trained(torch.from_numpy(images)).numpy()
    before = run_onnx(model, images)
    trained.write_into(model)
    onnx.checker.check_model(model, full_check=True)
    after = run_onnx(model, images)
    assert np.quantile(np.abs(after - wanted), 0.99) <= 0.05
    assert np.abs(before - after).max() > 0.1
    constants = {item.name: item for item in model.graph.initializer}
    assert constants["c1.w8"].data_type == TensorProto.INT8
    trained.write_floats_into(plain)
    np.testing.assert_allclose(floats(plain)["c2"], 1.05 * floats(graph(quantized=False))["c2"], rtol=1e-6)


def test_equal_scales_stay_equal() -> None:
    model = graph(quantized=True)
    for item in model.graph.initializer:
        if item.name in ("c1.s", "c3.s"):
            item.CopyFrom(constant(item.name, np.float32(0.03)))
    trained = TorchGraph(model, floats(graph(quantized=False)))
    assert len(trained.scales) == 2
    with torch.no_grad():
        for value in trained.scales.values():
            value.add_(0.1)
    trained.write_into(model)
    constants = {
        item.name: float(numpy_helper.to_array(item)) for item in model.graph.initializer if "." in item.name[-2:]
    }
    assert constants["c1.s"] == constants["c3.s"] == pytest.approx(0.03 * math.exp(0.1))


def test_gradients_of_fake_quantisation_are_those_of_learned_step_sizes() -> None:
    values = torch.tensor([0.3, -0.26, 200.0, -200.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    output = fake_quantize(values, scale)
    torch.testing.assert_close(output, torch.tensor([0.3, -0.3, 12.7, -12.8]))
    output.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1, 1, 0, 0]
    inside = (3 - 3) + (-3 + 2.6)  # rounded less unrounded level
    assert scale.grad is not None and float(scale.grad) == pytest.approx(inside + 127 - 128, abs=1e-5)


def test_an_unknown_operator_is_refused() -> None:
    model = graph(quantized=False)
    model.graph.node.append(helper.make_node("Erf", ["output"], ["more"]))
    with pytest.raises(ModelError, match="can't train a graph with Erf"):
        TorchGraph(model, {})


def test_equal_outputs_have_no_loss_and_others_some() -> None:
    output = torch.rand(2, 10, CLASSES + 4 * BINS)
    assert float(distillation_loss(output, output.clone(), spec())) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(output, output.roll(1, 1), spec())) > 0.01


def test_training_brings_the_output_nearer_to_the_float_model() -> None:
    plain, model = graph(quantized=False), graph(quantized=True)
    losses: list[float] = []
    student, teacher = TorchGraph(model, floats(plain)), TorchGraph(plain, {})
    recipe = Recipe(steps=60, batch=4, weight_rate=1e-3, scale_rate=3e-2)
    distill(student, teacher, spec(), pictures(), recipe, on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_the_same_inputs_give_the_same_graph() -> None:
    plain, model = graph(quantized=False), graph(quantized=True)
    recipe = Recipe(steps=5, batch=2)
    first, second = (tune(model, plain, spec(), pictures(), recipe)[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString() != model.SerializeToString()


def test_layers_back_in_float_have_the_weights_of_the_float_graph_and_round_nothing() -> None:
    plain, quantized = graph(quantized=False), graph(quantized=True)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    whole = without_layers(quantized, plain, {"c1", "c2", "c3"})
    np.testing.assert_array_equal(run_onnx(whole, images), run_onnx(plain, images))
    assert not [node for node in whole.graph.node if node.op_type.endswith("QuantizeLinear")]
    assert not [item.name for item in whole.graph.initializer if item.name.endswith((".w8", ".s"))]
    one = without_layers(quantized, plain, {"c2"})
    onnx.checker.check_model(one, full_check=True)
    assert [node.name for node in quantized.graph.node] == [node.name for node in graph(quantized=True).graph.node]
    left = {name.split(".")[0] for node in one.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    assert left == {"c1", "c3"}


def test_too_little_memory_makes_batches_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fits_eight(student: Any, teacher: Any, about: Any, images: Any, recipe: Recipe) -> None:
        tried.append(recipe.batch)
        if recipe.batch > least:
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("calibration.distill.distill", fits_eight)
    least = 8
    tune(graph(quantized=True), graph(quantized=False), spec(), pictures(), Recipe(batch=20))
    assert tried == [20, 10, 8]
    least = 4
    with pytest.raises(torch.OutOfMemoryError):
        tune(graph(quantized=True), graph(quantized=False), spec(), pictures(), Recipe(batch=8))


def test_augmented_pictures_move_change_and_stay_pictures() -> None:
    random = np.random.default_rng(3)
    stored = torch.from_numpy(np.stack(pictures(4)))
    made = augmented(stored, random)
    assert made.shape == stored.shape and made.dtype == torch.uint8
    assert not any(torch.equal(one, other) for one, other in zip(made, stored, strict=True))
    assert torch.equal(made, augmented(stored, np.random.default_rng(3)))
