"""Multiply-adds and parameters of an ONNX graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, ValueInfoProto, shape_inference

from streamer.common.errors import counted

_WEIGHT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "QLinearMatMul": 3}
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8}
_PASSED_ON = ("DequantizeLinear", "QuantizeLinear", "Identity", "Cast", "Transpose", "Reshape")


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model.

    Attributes:
        multiply_adds: of convolutions and matrix products for one picture; each is two FLOPs.
        parameters: elements of the weights and biases of those layers.
        uncounted: such layers of unknown shape.
    """

    multiply_adds: int
    parameters: int
    uncounted: int

    def __str__(self) -> str:
        left_out = (
            f", {counted(self.uncounted, 'layer')} of unknown shape left out: simplify the file with onnxsim"
            if self.uncounted
            else ""
        )
        return f"{2e-9 * self.multiply_adds:.3g} GFLOPs, {1e-6 * self.parameters:.3g} M parameters{left_out}"


def model_cost(proto: ModelProto) -> ModelCost:
    """Counts the convolutions and matrix products of a float or quantised model, for a batch of one.

    Example:
        >>> print(model_cost(onnx.load("nanodet-m_320.onnx")))
        0.717 GFLOPs, 0.934 M parameters
    """
    graph = shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    shapes = {value.name: shape for value in values if (shape := _shape(value)) is not None}
    shapes.update({constant.name: tuple(constant.dims) for constant in graph.initializer})
    makers = {output: node for node in graph.node for output in node.output}
    multiply_adds, uncounted, weights = 0, 0, dict[str, int]()
    for node in graph.node:
        if node.op_type not in _WEIGHT:
            continue
        counted = _multiply_adds(node, shapes)
        multiply_adds += counted or 0
        uncounted += counted is None
        for places in (_WEIGHT, _BIAS):
            place = places.get(node.op_type)
            if place is None or place >= len(node.input):
                continue
            name = _origin(node.input[place], makers)
            if name in makers and makers[name].op_type != "Constant":
                continue  # the product of two activations
            if name in shapes:
                weights[name] = math.prod(shapes[name])
    return ModelCost(multiply_adds, sum(weights.values()), uncounted)


def _multiply_adds(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Returns a layer's multiply-adds, or None for an unknown shape."""
    weight = shapes.get(node.input[_WEIGHT[node.op_type]])
    entered, made = shapes.get(node.input[0]), shapes.get(node.output[0])
    if weight is None or entered is None or made is None:
        return None
    if node.op_type == "ConvTranspose":
        return math.prod(entered) * math.prod(weight[1:])
    if node.op_type in ("Conv", "QLinearConv"):
        return math.prod(made) * math.prod(weight[1:])
    is_transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return math.prod(made) * (entered[0] if is_transposed else entered[-1])


def _origin(name: str, makers: dict[str, NodeProto]) -> str:
    """Returns the stored tensor of a weight, through Q/DQ nodes, casts and rearrangements."""
    while name in makers and makers[name].op_type in _PASSED_ON:
        name = makers[name].input[0]
    return name


def _shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    sizes = [int(dimension.dim_value) for dimension in value.type.tensor_type.shape.dim]
    if sizes and sizes[0] == 0:
        sizes[0] = 1
    return None if 0 in sizes else tuple(sizes)
