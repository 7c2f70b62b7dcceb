"""A small network that looks at pictures, and what real quantisers make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamer.common.cpu_info import processor_flags
from streamer.detector.self_check import packaged_frame
from streamer.models.graph.saturation import has_saturating_sums, has_uint8_integer_convolutions
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec

CHANNELS = 8


def pixels(spec: ModelSpec) -> np.ndarray:
    """The packaged picture as the network's (H, W, 3) uint8 BGR."""
    frame = packaged_frame()
    width, height = spec.input_size_wh
    image = np.zeros((height, width, 3), np.uint8)
    Letterbox.fit(frame.size_wh, spec.input_size_wh, spec.keep_ratio).apply(frame, image)
    return image


def normalised(spec: ModelSpec, image: np.ndarray) -> np.ndarray:
    """(1, 3, H, W) float32 of pixels."""
    values = (image.astype(np.float32) - np.array(spec.mean_bgr, np.float32)) / np.array(spec.std_bgr, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def network(spec: ModelSpec, *, opset: int = 17, activation: str = "LeakyRelu", seed: int = 0) -> onnx.ModelProto:
    """Convolutions, activations, a pooling, an enlarging, a sum and a concatenation, then NanoDet's own outputs.

    The tensors `cls8`, `dis8`, ... are the last convolutions' (batch, channels, H, W) of each stride; the graph's
    outputs are these, and its nodes end there.
    """
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def convolution(tensor: str, channels: tuple[int, int], name: str, **attributes: Any) -> str:
        wide, deep = channels
        size = attributes.pop("kernel", 3)
        weight = random.standard_normal((wide, deep, size, size)) / np.sqrt(deep * size * size / 2)
        bias = constant(f"{name}.bias", random.standard_normal(wide).astype(np.float32) * 0.3)
        inputs = [tensor, constant(f"{name}.weight", weight.astype(np.float32)), bias]
        pads = attributes.pop("pads", [1, 1, 1, 1])
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, pads=pads, **attributes))
        return name

    def active(tensor: str) -> str:
        slope = {"alpha": 0.1} if activation == "LeakyRelu" else {}
        nodes.append(helper.make_node(activation, [tensor], [f"{tensor}.active"], name=f"{tensor}.active", **slope))
        return f"{tensor}.active"

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    stem = active(convolution("images", (CHANNELS, 3), "stem", strides=[2, 2]))
    tensor = add("MaxPool", [stem], "pool", kernel_shape=[2, 2], strides=[2, 2])
    levels: dict[int, str] = {}
    stride = 4
    while stride < spec.strides[-1]:
        stride *= 2
        tensor = active(convolution(tensor, (CHANNELS, CHANNELS), f"down{stride}", strides=[2, 2]))
        levels[stride] = tensor
    scales = constant("scales", np.array([1, 1, 2, 2], np.float32))
    if opset >= 11:
        enlarged = add("Resize", [levels[16], constant("roi", np.zeros(0, np.float32)), scales], "up", mode="nearest")
    else:
        enlarged = add("Resize" if opset == 10 else "Upsample", [levels[16], scales], "up", mode="nearest")
    total = add("Add", [levels[8], enlarged], "sum")
    levels[8] = add("Concat", [total, levels[8]], "both", axis=1)
    outputs = []
    bins = 4 * (spec.reg_max + 1)
    for stride in spec.strides:
        deep = 2 * CHANNELS if stride == 8 else CHANNELS
        level = active(convolution(levels[stride], (CHANNELS, deep), f"level{stride}"))
        width, height = (-(-side // stride) for side in spec.input_size_wh)
        for kind, channels in (("cls", spec.num_classes), ("dis", bins)):
            name = convolution(level, (channels, CHANNELS), f"{kind}{stride}", kernel=1, pads=[0, 0, 0, 0])
            size = ["batch", channels, height, width]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))
    width, height = spec.input_size_wh
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])
    graph = helper.make_graph(nodes, "network", [image], outputs, constants)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=4 if opset < 11 else 9)


class Pictures:
    """What ONNX Runtime's quantiser calibrates on."""

    def __init__(self, spec: ModelSpec, name: str) -> None:
        image = pixels(spec)
        inputs = (normalised(spec, one) for one in (image, image[:, ::-1], image // 2))
        self._rest: Iterator[dict[str, np.ndarray]] = ({name: values} for values in inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


def quantized(model: onnx.ModelProto, spec: ModelSpec, form: str, folder: Path, **options: Any) -> onnx.ModelProto:
    """Returns what ONNX Runtime's quantiser, or NNCF's, makes of a model.

    Args:
        model: float, its input named ``images``.
        spec: its description.
        form: ``qdq``, ``qoperator`` or ``dynamic``, then ``-u8`` or ``-s8`` for the activations; or ``nncf``.
        folder: for the quantiser's files.
        options: more of `quantize_static`'s.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(model, before)
    if form == "nncf":
        return _by_nncf(model, spec)
    kind, _, sign = form.partition("-")
    activations = QuantType.QInt8 if sign == "s8" else QuantType.QUInt8
    if kind == "dynamic":
        quantize_dynamic(before, after, weight_type=activations, **options)
    else:
        how = QuantFormat.QDQ if kind == "qdq" else QuantFormat.QOperator
        quantize_static(
            before, after, Pictures(spec, "images"), quant_format=how,
            activation_type=activations, weight_type=QuantType.QInt8, **options,
        )  # fmt: skip
    return onnx.load(after)


def _by_nncf(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    import logging

    from streamer.common.telemetry import without_telemetry

    with without_telemetry():
        import nncf
    logging.getLogger("nncf").setLevel(logging.ERROR)
    pictures = Pictures(spec, "images")
    inputs = [values for values in iter(pictures.get_next, None) if values is not None]
    quantised: onnx.ModelProto = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs))
    return quantised


def unoptimised(model: onnx.ModelProto) -> Any:
    """Returns ONNX Runtime's options to run a model as it is: optimised as little as keeps its sums right here."""
    import onnxruntime as ort

    options, level = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.log_severity_level = 4
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    if has_saturating_sums(processor_flags()) and has_uint8_integer_convolutions(model):
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.graph_optimization_level = level.ORT_ENABLE_EXTENDED
    return options
