"""Writes an ONNX graph from the ports of an OpenVINO graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from streamer.common.errors import ModelError
from streamer.models.graph.editor import GraphEditor
from streamer.models.graph.openvino_values import Integers, Values

OPSET, IR_VERSION = 17, 8
_KINDS = {
    "f16": TensorProto.FLOAT16,
    "f32": TensorProto.FLOAT,
    "f64": TensorProto.DOUBLE,
    "boolean": TensorProto.BOOL,
    "i8": TensorProto.INT8,
    "u8": TensorProto.UINT8,
    "i16": TensorProto.INT16,
    "u16": TensorProto.UINT16,
    "i32": TensorProto.INT32,
    "u32": TensorProto.UINT32,
    "i64": TensorProto.INT64,
    "u64": TensorProto.UINT64,
}
_METADATA = "framework"
_NEAR = 1e-3


def port_name(port: Any) -> str:
    """Returns a tensor's OpenVINO name, or its node's."""
    names = sorted(port.get_names())
    if names:
        return str(names[0])
    node, index = port.get_node(), port.get_index()
    if node.get_type_name() == "Result":
        return port_name(node.input_value(0))
    return str(node.get_friendly_name()) + (f":{index}" if index else "")


class GraphWriter(GraphEditor):
    """Collects nodes and constants."""

    def __init__(self, network: Any, values: Values) -> None:
        model = helper.make_model(
            helper.make_graph([], "openvino", [], []),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        super().__init__(model)
        self._model = model
        self._network = network
        self._values = values
        self._named: dict[tuple[str, int], str] = {}
        self._written: dict[tuple[str, int], str] = {}  # constants
        for port in [*network.inputs, *(result.get_node().input_value(0) for result in network.outputs)]:
            self._name(port)  # reserves the names of inputs and outputs

    def tensor(self, port: Any) -> str:
        """Returns a port's tensor name; writes a constant on first use."""
        key = _key(port)
        if key not in self._written and (value := self._values.of(port)) is not None:
            self.kind_of(port)
            self._written[key] = self.constant(value, port_name(port))
        return self._written.get(key) or self._name(port)

    def integers(self, port: Any) -> str:
        """Returns a port's tensor name as int64, as shapes and axes must be."""
        value = self._values.of(port)
        if value is not None:
            return self.constant(value.astype(np.int64).reshape(-1), "integers")
        name = self.tensor(port)
        return name if self.kind_of(port) == TensorProto.INT64 else self.node("Cast", [name], to=TensorProto.INT64)

    def constant(self, value: np.ndarray | np.generic, name: str) -> str:
        """Adds a constant and returns its name, which begins with `name`."""
        return super().constant(np.ascontiguousarray(value).reshape(np.shape(value)), name)

    def node(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns that output's name."""
        return super().node(kind, inputs, name or kind.lower(), **attributes)

    def put(self, op: Any, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Adds a node with an operation's outputs."""
        ports = op.outputs()[:1] if kind == "MaxPool" else op.outputs()  # MaxPool's second output, indices, is unused
        outputs = [self._name(port) for port in ports]
        self.graph.node.append(helper.make_node(kind, inputs, outputs, name=op.get_friendly_name(), **attributes))

    def dequantized(self, stored: Integers, size: Sequence[int], name: str) -> str:
        """Adds an integer weight and its DequantizeLinear, with one scale or one for each output channel."""
        scale, zero = (part.reshape(-1) if part.size > 1 else part.reshape(()) for part in (stored.scale, stored.zero))
        parts = [(stored.values.reshape(size), "quantized"), (scale, "scale"), (zero, "zero_point")]
        return self.node("DequantizeLinear", [self.constant(part, f"{name}.{word}") for part, word in parts], axis=0)

    def quantize(self, op: Any, given: str, ranges: Sequence[np.ndarray], levels: int) -> None:
        """Adds a FakeQuantize: as a Q/DQ pair where input and output range are equal and 0 is a step."""
        low, high, given_low, given_high = ranges
        scale = (high - low) / np.float32(levels - 1)
        zero = -low / scale
        same = np.allclose(low, given_low, rtol=1e-5) and np.allclose(high, given_high, rtol=1e-5)
        whole = np.rint(zero)
        single = low.size == high.size == 1
        if not (same and single and levels <= 256 and abs(zero - whole).max() < _NEAR and 0 <= whole.min() <= 255):
            self._in_arithmetic(op, given, ranges, levels)
            return
        if levels < 256:
            given = self.node("Clip", [given, *(self.constant(one.reshape(()), "end") for one in (low, high))])
        point = whole.reshape(())
        signed = int(point) == levels // 2
        pair = [
            self.constant(scale.reshape(()), "scale"),
            self.constant(point.astype(np.uint8) if not signed else np.int8(0), "zero_point"),
        ]
        self.put(op, "DequantizeLinear", [self.node("QuantizeLinear", [given, *pair]), *pair])

    def _in_arithmetic(self, op: Any, given: str, ranges: Sequence[np.ndarray], levels: int) -> None:
        low, high, given_low, given_high = ranges
        steps = np.float32(levels - 1)
        limited = self.node("Max", [given, self.constant(np.minimum(low, high), "low")])
        limited = self.node("Min", [limited, self.constant(np.maximum(low, high), "high")])
        moved = self.node("Sub", [limited, self.constant(low, "low")])
        rounded = self.node("Round", [self.node("Mul", [moved, self.constant(steps / (high - low), "steps")])])
        wide = self.node("Mul", [rounded, self.constant((given_high - given_low) / steps, "step")])
        self.put(op, "Add", [wide, self.constant(given_low, "low")])

    def sizes(self, given: str, size: Sequence[int], wanted: Mapping[int, int]) -> str:
        """Returns a tensor's new sizes: `wanted` by axis, else unchanged."""
        full = [wanted.get(axis, one) for axis, one in enumerate(size)]
        if -1 not in full:
            return self.constant(np.array(full, np.int64), "sizes")
        said = self.node("Shape", [given])
        parts = []
        for axis, one in enumerate(full):
            if one >= 0:
                parts.append(self.constant(np.array([one], np.int64), "size"))
            else:
                parts.append(self.node("Gather", [said, self.constant(np.array([axis], np.int64), "axis")]))
        return self.node("Concat", parts, axis=0)

    def kind_of(self, port: Any) -> int:
        """Returns the ONNX type of a port.

        Raises:
            ModelError: the type isn't supported.
        """
        name = str(port.get_element_type().get_type_name())
        if name not in _KINDS:
            raise ModelError(f"holds numbers of type {name} ({port_name(port)!r}), which aren't read")
        return int(_KINDS[name])

    def model(self) -> onnx.ModelProto:
        """Returns the graph with its inputs, outputs and metadata."""
        inputs = [self._declared(self._name(port), port) for port in self._network.inputs]
        outputs: list[onnx.ValueInfoProto] = []
        for result in self._network.outputs:
            name = self.tensor(result.get_node().input_value(0))
            if name in {value.name for value in outputs}:
                name = self.node("Identity", [name])
            outputs.append(self._declared(name, result))
        self.graph.input.extend(inputs)
        self.graph.output.extend(outputs)
        if self._network.has_rt_info([_METADATA]):
            said = self._network.get_rt_info([_METADATA])
            held = said.astype(dict) if not isinstance(said, dict) else said
            helper.set_model_props(self._model, {str(key): str(value.astype(str)) for key, value in held.items()})
        return self._model

    def _declared(self, name: str, port: Any) -> onnx.ValueInfoProto:
        shape = port.get_partial_shape()
        size: list[int | str] | None = None
        if shape.rank.is_static:
            size = [one.get_length() if one.is_static else f"{name}.{axis}" for axis, one in enumerate(shape)]
        return helper.make_tensor_value_info(name, self.kind_of(port), size)

    def _name(self, port: Any) -> str:
        key = _key(port)
        if key not in self._named:
            self._named[key] = self.fresh(port_name(port))
        return self._named[key]


def _key(port: Any) -> tuple[str, int]:
    return str(port.get_node().get_name()), int(port.get_index())
