"""Constant folding.

Exporters store scales, zero points and shapes as initializers, as Constant nodes of any form, or behind operators such
as Identity, Cast and Reshape; engines treat all of them alike.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

_REARRANGING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
_COMPUTING = {
    *("Abs", "Add", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Div", "Equal", "Exp", "Floor", "Gather", "Max"),
    *("Min", "Mod", "Mul", "Neg", "Not", "Pow", "Reciprocal", "ReduceProd", "Round", "Shape", "Slice", "Sqrt", "Sub"),
    *("Where",),
}
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
_ANY_SIZE = _REARRANGING | {"Cast", "CastLike", *_QUANTIZING}
_MOST_VALUES = 4096
"""Of an operand where the result may be larger than the operands."""


class Constants:
    """The constant tensors of a graph by name, computed on first use."""

    def __init__(self, proto: ModelProto) -> None:
        graph = proto.graph
        self._opsets = list(proto.opset_import)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, np.ndarray | None] = {
            sparse.values.name: _dense(sparse) for sparse in graph.sparse_initializer
        }
        self._makers: dict[str, NodeProto] = {}
        for node in graph.node:
            if self._is_computable(node):
                self._makers.update(dict.fromkeys(node.output, node))

    def _is_computable(self, node: NodeProto) -> bool:
        if node.op_type == "Constant":
            return True
        known = node.op_type in _REARRANGING or node.op_type in _COMPUTING or node.op_type in _QUANTIZING
        return known and bool(node.input) and all(not name or name in self for name in node.input)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or name in self._values or name in self._makers

    def get(self, name: str) -> np.ndarray | None:
        """Returns a tensor's value; None where it isn't constant or can't be computed.

        Raises:
            ValueError, TypeError: a constant is damaged.
        """
        waiting = [name]
        while waiting:
            if waiting[-1] in self._values or waiting[-1] not in self:
                waiting.pop()
                continue
            wanted = waiting[-1]
            if wanted in self._tensors:
                self._values[wanted] = numpy_helper.to_array(self._tensors[wanted])
                continue
            node = self._makers[wanted]
            missing = [part for part in node.input if part and part not in self._values]
            if missing:
                waiting += missing
                continue
            self._values.update(zip(node.output, self._computed(node), strict=True))
        return self._values.get(name)

    def origin(self, name: str) -> str:
        """Returns the tensor that `name` comes from, through casts, Q/DQ nodes and rearrangements."""
        while (node := self._makers.get(name)) is not None and node.op_type in _ANY_SIZE and name not in self._tensors:
            name = node.input[0]
        return name

    def _computed(self, node: NodeProto) -> list[np.ndarray | None]:
        nothing: list[np.ndarray | None] = [None] * len(node.output)
        if node.op_type == "Constant":
            return [_constant_value(node)]
        operands = [self._values[name] if name else None for name in node.input]
        if any(operand is None for name, operand in zip(node.input, operands, strict=True) if name):
            return nothing
        first = operands[0]
        if node.op_type == "Identity":
            return [first]
        if node.op_type in _QUANTIZING:
            return [_requantised(node, operands)]
        sizes = [operand.size for operand in operands if operand is not None]
        if node.op_type not in _ANY_SIZE and max(sizes) > _MOST_VALUES:
            return nothing
        from onnx.reference import ReferenceEvaluator

        inputs = [helper.make_tensor_value_info(name, 0, None) for name in dict.fromkeys(filter(None, node.input))]
        outputs = [helper.make_tensor_value_info(name, 0, None) for name in node.output]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        fed = {name: value for name, value in zip(node.input, operands, strict=True) if name}
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets))
            return [np.asarray(value) for value in evaluator.run(None, fed)]
        except Exception:  # an inconsistent node; checks report it
            return nothing


def _requantised(node: NodeProto, operands: list[np.ndarray | None]) -> np.ndarray | None:
    """Computes Q/DQ of 8, 16 or 32 bits, which the reference has only for new opsets; None for the rest."""
    values, scale, zero = (*operands, None)[:3]
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if values is None or scale is None or attributes.get("block_size"):
        return None
    dequantizes = node.op_type == "DequantizeLinear"
    if zero is None:
        kind = values.dtype if dequantizes else np.dtype(np.uint8)
        if not dequantizes and attributes.get("output_dtype"):
            kind = helper.tensor_dtype_to_np_dtype(attributes["output_dtype"])
        zero = np.zeros(scale.shape, kind)
    if zero.dtype.kind not in "iu":
        return None
    if scale.size > 1:
        shape = [1] * values.ndim
        shape[attributes.get("axis", 1)] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    scale = np.asarray(scale, np.float32)
    if dequantizes:
        return np.asarray((values.astype(np.float32) - zero.astype(np.float32)) * scale, np.float32)
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(np.asarray(values, np.float32) / scale) + zero.astype(np.float32)
    return np.asarray(np.clip(rounded, limits.min, limits.max).astype(zero.dtype))


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray | None:
    """Returns a sparse tensor as dense; None where too large."""
    shape, values = tuple(sparse.dims), numpy_helper.to_array(sparse.values)
    if np.prod(shape, dtype=np.float64) > 1 << 24:
        return None
    indices = numpy_helper.to_array(sparse.indices)
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), shape)
    whole = np.zeros(shape, values.dtype)
    whole.reshape(-1)[indices] = values
    return whole


def _constant_value(node: NodeProto) -> np.ndarray | None:
    """Returns the value of a Constant node; None for text."""
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return numpy_helper.to_array(attribute.t)
            case "sparse_value":
                return _dense(attribute.sparse_tensor)
            case "value_float":
                return np.array(attribute.f, np.float32)
            case "value_floats":
                return np.array(attribute.floats, np.float32)
            case "value_int":
                return np.array(attribute.i, np.int64)
            case "value_ints":
                return np.array(attribute.ints, np.int64)
    return None


def fold_constants(proto: ModelProto) -> None:
    """Folds constants into initializers, in place, except for stored weights: Q/DQ nodes and casts from float16.

    Raises:
        ValueError, TypeError: a constant is damaged.
    """
    graph = proto.graph
    constants = Constants(proto)
    kept = []
    stored: set[str] = set()
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            continue
        values = {} if stored.intersection(node.input) else _folded(node, constants)
        if not values:
            kept.append(node)
            stored.update(node.output)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    for sparse in list(graph.sparse_initializer):
        if (value := constants.get(sparse.values.name)) is not None:
            graph.initializer.append(numpy_helper.from_array(value, sparse.values.name))
            graph.sparse_initializer.remove(sparse)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _folded(node: NodeProto, constants: Constants) -> dict[str, np.ndarray]:
    """Returns all outputs of a node that can be folded, or none."""
    if node.op_type in _QUANTIZING or any(name not in constants for name in node.output if name):
        return {}
    if node.op_type == "Cast":
        operand = constants.get(node.input[0])
        if operand is not None and operand.dtype == np.float16 and operand.ndim > 1:
            return {}
    values = {name: constants.get(name) for name in node.output if name}
    found = {name: np.asarray(value) for name, value in values.items() if value is not None and value.dtype != object}
    return found if len(found) == len(values) else {}
