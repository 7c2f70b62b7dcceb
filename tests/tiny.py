"""Small real ONNX models with known answers, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamer.models.spec import ModelSpec

LABELS = ("person", "car", "cat")


def tiny_spec(
    *, family: str = "nanodet", labels: tuple[str, ...] = LABELS, size_wh: tuple[int, int] = (64, 64)
) -> ModelSpec:
    """A description with three levels (four for Plus) and reg_max 3."""
    plus = family == "nanodet-plus"
    return ModelSpec(
        name="tiny",
        family="nanodet-plus" if plus else "nanodet",
        input_size_wh=size_wh,
        keep_ratio=not plus,
        mean_bgr=(103.53, 116.28, 123.675),
        std_bgr=(57.375, 57.12, 58.395),
        strides=(8, 16, 32, 64) if plus else (8, 16, 32),
        reg_max=3,
        anchor_offset=0.0 if plus else 0.5,
        activation="LeakyReLU",
        labels=labels,
    )


def tiny_model(spec: ModelSpec, *, sigmoid: bool = True, seed: int = 0) -> onnx.ModelProto:
    """A network that looks at the picture: one strided convolution a level, then the official output layout.

    Its scores depend on the input's brightness, so wrong preprocessing changes the answer.
    """
    random = np.random.default_rng(seed)
    channels = spec.output_channels
    nodes, constants, levels = [], [], []
    for stride in spec.strides:
        weight = random.standard_normal((channels, 3, stride, stride), np.float32) / np.float32(stride * np.sqrt(3))
        constants.append(numpy_helper.from_array(weight, f"weight{stride}"))
        constants.append(numpy_helper.from_array(np.array([0, channels, -1], np.int64), f"shape{stride}"))
        nodes.append(
            helper.make_node("Conv", ["images", f"weight{stride}"], [f"conv{stride}"], strides=[stride, stride])
        )
        nodes.append(helper.make_node("Reshape", [f"conv{stride}", f"shape{stride}"], [f"flat{stride}"]))
        nodes.append(helper.make_node("Transpose", [f"flat{stride}"], [f"rows{stride}"], perm=[0, 2, 1]))
        levels.append(f"rows{stride}")
    nodes.append(helper.make_node("Concat", levels, ["raw" if sigmoid else "output"], axis=1))
    if sigmoid:
        split = np.array([spec.num_classes, channels - spec.num_classes], np.int64)
        constants.append(numpy_helper.from_array(split, "split"))
        nodes.append(helper.make_node("Split", ["raw", "split"], ["logits", "bins"], axis=2))
        nodes.append(helper.make_node("Sigmoid", ["logits"], ["scores"]))
        nodes.append(helper.make_node("Concat", ["scores", "bins"], ["output"], axis=2))
    width, height = spec.input_size_wh
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", spec.num_points, channels])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_tiny(path: Path, spec: ModelSpec | None = None, *, described: bool = True, seed: int = 0) -> Path:
    """Writes a tiny model file, with its description in the metadata unless told otherwise."""
    spec = spec or tiny_spec()
    model = tiny_model(spec, seed=seed)
    if described:
        helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, path)
    return path
