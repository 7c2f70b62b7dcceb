"""Converts QOperator models to Q/DQ form: integer operators become float ones between Q/DQ pairs.

ONNX Runtime's quantiser writes QLinearConv and the like by default. OpenVINO computes QLinearLeakyRelu wrongly without
an error, and TensorRT supports none of them. Q/DQ form is equal by definition, and every engine fuses it.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from streamer.common.errors import ModelError
from streamer.models.graph.constants import Constants
from streamer.models.graph.editor import GraphEditor

_ONE_OPERAND = {"QLinearLeakyRelu", "QLinearSigmoid", "QLinearAveragePool", "QLinearGlobalAveragePool"}
_TWO_OPERANDS = {"QLinearAdd", "QLinearMul", "QLinearMatMul"}
_REARRANGEMENTS = {
    *("Concat", "Flatten", "Gather", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose"),
    *("Unsqueeze", "Upsample"),
}
_FIRST_PER_CHANNEL_OPSET = 13
_Scale = tuple[str, str]


def use_pairs(proto: ModelProto) -> None:
    """Replaces integer operators, and rearrangements of quantised values, by float ones between Q/DQ pairs, in place.

    Raises:
        ModelError: an integer operator isn't supported; the message continues the file's name.
    """
    rewriter = _Rewriter(proto)
    for node in list(proto.graph.node):
        rewriter.add(node)
    if rewriter.changed:
        del proto.graph.node[:]
        proto.graph.node.extend(rewriter.nodes)
        del proto.graph.value_info[:]  # some are now wrong


class _Rewriter:
    """Copies nodes one by one, replacing some."""

    def __init__(self, proto: ModelProto) -> None:
        self.nodes: list[NodeProto] = []
        self.changed = False
        self._constants = Constants(proto)
        self._editor = GraphEditor(proto)
        self._per_channel = self._editor.opset >= _FIRST_PER_CHANNEL_OPSET
        self._scales: dict[str, _Scale] = {}  # of quantised activations
        self._scalars: dict[str, str] = {}
        self._dequantized: dict[tuple[str, str, str], str] = {}

    def add(self, node: NodeProto) -> None:
        kind, inputs = node.op_type, list(node.input)
        if kind == "QuantizeLinear" and inputs[0] not in self._constants:
            self._scales[node.output[0]] = (inputs[1], inputs[2] if len(inputs) > 2 else "")
            self.nodes.append(node)
        elif kind == "QLinearConv":
            self._replace(node, self._convolution_operands(inputs), (inputs[6], inputs[7]))
        elif kind in _TWO_OPERANDS:
            pair = [self._dequantize(*inputs[0:3]), self._dequantize(*inputs[3:6], axis=-1)]
            self._replace(node, pair, (inputs[6], _at(inputs, 7)))
        elif kind in _ONE_OPERAND:
            self._replace(node, [self._dequantize(*inputs[:3])], (inputs[3], _at(inputs, 4)))
        elif kind == "QLinearConcat":
            parts = [self._dequantize(*inputs[start : start + 3]) for start in range(2, len(inputs), 3)]
            self._replace(node, parts, (inputs[0], inputs[1]))
        elif kind.startswith("QLinear") or kind == "QGemm":
            raise ModelError(
                f"is in ONNX Runtime's QOperator form with {kind}, which is not read: quantise it in Q/DQ form "
                "(quant_format=QuantFormat.QDQ)"
            )
        elif kind in _REARRANGEMENTS and self._rearranges_quantized(node):
            data = inputs if kind == "Concat" else inputs[:1]
            operands = [self._dequantize(name, *self._scales[name]) for name in data]
            self._replace(node, operands + inputs[len(data) :], self._scales[inputs[0]])
        else:
            self.nodes.append(node)

    def _rearranges_quantized(self, node: NodeProto) -> bool:
        """Whether all inputs of a rearrangement are quantised with one scale."""
        data = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        if (node.op_type == "MaxPool" and len(node.output) > 1) or not all(name in self._scales for name in data):
            return False
        values = [[self._constants.get(part) for part in self._scales[name] if part] for name in data]
        first = values[0]
        return all(
            one is not None and other is not None and one.size == 1 and np.array_equal(one, other)
            for pair in values
            for one, other in zip(first, pair, strict=False)
        )

    def _replace(self, node: NodeProto, operands: list[str], scale: _Scale) -> None:
        """Adds the float operator of `node`, and quantises its outputs under their former names."""
        self.changed = True
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "channels_last" in attributes and attributes.pop("channels_last").i:
            raise ModelError(
                f"holds {node.op_type} with the channels last, as ONNX Runtime optimises for one machine: use the file "
                "from before"
            )
        given = [self._editor.fresh(f"{name}.float") for name in node.output]
        computed = helper.make_node(node.op_type.removeprefix("QLinear"), operands, given, name=node.name)
        computed.attribute.extend(attributes.values())
        self.nodes.append(computed)
        for name, output in zip(given, node.output, strict=True):
            self.nodes.append(helper.make_node("QuantizeLinear", [name, *self._scalar_pair(scale)], [output]))
            self._scales[output] = scale

    def _convolution_operands(self, inputs: list[str]) -> list[str]:
        """Returns the float input, weight and bias of a QLinearConv; the bias has the product of their scales."""
        operands = [self._dequantize(*inputs[:3]), self._dequantize(*inputs[3:6], axis=0)]
        if _at(inputs, 8):
            bias, scale, weight_scale = (self._constants.get(inputs[place]) for place in (8, 1, 4))
            if bias is None or scale is None or weight_scale is None:
                raise ModelError("computes the bias of a QLinearConv, which is not read: quantise it in Q/DQ form")
            values = bias.astype(np.float32) * scale.reshape(-1) * weight_scale.reshape(-1)
            operands.append(self._editor.constant(values.astype(np.float32), f"{inputs[8]}.float"))
        return operands

    def _dequantize(self, name: str, scale: str, zero: str = "", *, axis: int = 0) -> str:
        """Returns the output of a DequantizeLinear, added once a tensor and scale."""
        key = (name, scale, zero)
        if key not in self._dequantized:
            self._dequantized[key] = self._add_dequantizing(name, scale, zero, axis)
        return self._dequantized[key]

    def _add_dequantizing(self, name: str, scale: str, zero: str, axis: int) -> str:
        factors = self._constants.get(scale)
        if factors is None or factors.size == 1:
            output = self._editor.fresh(f"{name}.dequantized")
            pair = self._scalar_pair((scale, zero))
            self.nodes.append(helper.make_node("DequantizeLinear", [name, *pair], [output]))
            return output
        if self._per_channel:
            output = self._editor.fresh(f"{name}.dequantized")
            inputs = [name, scale, zero] if zero else [name, scale]
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [output], axis=axis))
            return output
        values, zeros = self._constants.get(name), self._constants.get(zero) if zero else np.zeros(1, np.int8)
        if values is None or zeros is None:
            raise ModelError("has a scale for each channel of what it computes: quantise it again")
        shape = [1] * values.ndim
        shape[axis] = -1
        floats = (values.astype(np.float32) - zeros.astype(np.float32).reshape(shape)) * factors.reshape(shape)
        return self._editor.constant(floats.astype(np.float32), f"{name}.dequantized")

    def _scalar_pair(self, pair: _Scale) -> list[str]:
        """Returns scale and zero point, as scalars where they have one element."""
        return [self._scalar(name) for name in pair if name]

    def _scalar(self, name: str) -> str:
        if name not in self._scalars:
            value = self._constants.get(name)
            self._scalars[name] = name
            if value is not None and value.ndim > 0 and value.size == 1:
                self._scalars[name] = self._editor.constant(value.reshape(()), f"{name}.scalar")
        return self._scalars[name]


def _at(inputs: list[str], place: int) -> str:
    return inputs[place] if len(inputs) > place else ""
