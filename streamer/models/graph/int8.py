"""Adapts the INT8 file to CPU engines when it is loaded.

The file has a Q/DQ pair in front of each quantised convolution: int8, one scale a tensor, zero point 0. TensorRT and
OpenVINO fuse that. Two engines need more:

- OpenVINO without AMX computes wrong results with signed activations and reports no error: `use_uint8` moves each zero
  point from 0 (int8) to 128 (uint8), which changes no value.
- ONNX Runtime fuses a convolution only if its output is quantised too: `quantize_convolution_outputs` adds these pairs
  with ranges that calibration stored in the metadata.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from streamer.common.errors import ModelError
from streamer.models.graph.attributes import attribute
from streamer.models.graph.constants import Constants
from streamer.models.spec import METADATA_PREFIX

RANGES_KEY = f"{METADATA_PREFIX}int8_convolution_ranges"
"""Metadata: JSON of {convolution's output tensor: [min, max]}, measured before the activation."""

_REMEDY = "get the file again, or quantise the model again"
ACTIVATIONS = {"LeakyRelu", "Relu"}
_REARRANGEMENTS = {"Concat", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Transpose"}
_EVERY_INPUT_IS_DATA = {"Concat"}


def is_quantized(proto: ModelProto) -> bool:
    """True when the graph holds QuantizeLinear or DequantizeLinear nodes."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node)


def use_uint8(proto: ModelProto) -> None:
    """Moves every int8 activation of the graph to uint8, in place; weights stay int8. The arithmetic is the same.

    q = round(x / scale) + zero point, so 128 on both sides of a pair cancels.

    Raises:
        ModelError: an int8 activation has a reader other than DequantizeLinear, or a zero point isn't constant.
    """
    graph = proto.graph
    constants = Constants(proto)
    users = _users(graph)
    added: set[str] = set()
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] in constants or not _makes_int8(node, constants):
            continue
        readers = users[node.output[0]]
        others = [reader.op_type for reader in readers if reader.op_type != "DequantizeLinear"]
        if others:
            raise ModelError(
                f"the INT8 model feeds {node.output[0]!r} to {others[0]}: wanted QuantizeLinear/DequantizeLinear pairs,"
                " as `python -m calibration quantize` writes them"
            )
        for pair in (node, *readers):
            zero = f"{pair.input[1]}.zero.uint8" if _lacks_zero_point(pair) else f"{pair.input[2]}.uint8"
            if zero not in added and zero not in constants:
                graph.initializer.append(numpy_helper.from_array(_uint8_zero_point(pair, constants), zero))
                added.add(zero)
            pair.input[:] = [*pair.input[:2], zero]
        for item in list(node.attribute):
            if item.name == "output_dtype":
                node.attribute.remove(item)
    _forget_types(graph)


def quantize_convolution_outputs(proto: ModelProto) -> None:
    """Adds the pairs that ONNX Runtime needs to compute in integers throughout, in place; takes a `use_uint8` graph.

    Each quantised convolution with a range in the metadata gets a pair before its activation, and each rearrangement of
    values with one scale gets a pair of that scale, which is exact.

    Raises:
        ModelError: the ranges in the metadata are damaged, or a scale or zero point isn't constant.
    """
    graph = proto.graph
    ranges = _ranges(proto)
    users = _users(graph)
    constants = Constants(proto)
    scales: dict[str, tuple[str, str]] = {}  # float tensor: (scale, zero point) of the pair it comes from
    renamed: dict[str, str] = {}
    nodes: list[NodeProto] = []

    def add_pair(tensor: str, scale: str, zero: str) -> None:
        renamed[tensor] = f"{tensor}.dequantized"
        scales[renamed[tensor]] = (scale, zero)
        nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{tensor}.quantized"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.quantized", scale, zero], [renamed[tensor]]))

    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        output = node.output[0]
        readers = [reader for part in node.output for reader in users[part]]
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants and len(node.input) > 2:
            scales[output] = (node.input[1], node.input[2])
        elif node.op_type == "Conv" and node.input[0] in scales and output in ranges and len(readers) == 1:
            after = users[readers[0].output[0]] if readers[0].op_type in ACTIVATIONS else []
            if len(after) == 1 and after[0].op_type == "QuantizeLinear":
                activation_scale = _scalar(constants, after[0].input[1])
                add_pair(output, *_add_range(graph, output, ranges[output], activation_scale, readers[0]))
        elif node.op_type in _REARRANGEMENTS and not any(reader.op_type == "QuantizeLinear" for reader in readers):
            data = list(node.input) if node.op_type in _EVERY_INPUT_IS_DATA else [node.input[0]]
            shared = {_values(constants, scales[name]) for name in data if name in scales}
            if len(shared) == 1 and all(name in scales for name in data):
                kept = scales[data[0]]
                for part in node.output[:1] if node.op_type == "MaxPool" else node.output:
                    add_pair(part, *kept)
    del graph.node[:]
    graph.node.extend(nodes)
    _forget_types(graph)


def slope_below_zero(activation: NodeProto) -> float:
    """Returns the slope of a LeakyRelu or Relu for negative values."""
    if activation.op_type == "Relu":
        return 0.0
    return float(attribute(activation, "alpha", 0.01))


def _users(graph: GraphProto) -> defaultdict[str, list[NodeProto]]:
    users: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    return users


def _lacks_zero_point(node: NodeProto) -> bool:
    """Whether a Q/DQ node omits its zero point, which is then 0."""
    return len(node.input) < 3 or not node.input[2]


def _makes_int8(node: NodeProto, constants: Constants) -> bool:
    """Whether a QuantizeLinear node outputs int8; the default is uint8."""
    zero_point = None if _lacks_zero_point(node) else _constant(constants, node.input[2])
    return quantized_type(node, zero_point, constants) == np.int8


def quantized_type(node: NodeProto, zero_point: np.ndarray | None, constants: Constants) -> np.dtype[Any] | None:
    """Returns the type of a Q/DQ node's quantised side, or None where it isn't constant or known.

    Without a zero point it is uint8 by default; a DequantizeLinear then takes its input's type.
    """
    if zero_point is not None:
        return zero_point.dtype
    if node.op_type == "DequantizeLinear":
        value = constants.get(node.input[0])
        return None if value is None else value.dtype
    named = attribute(node, "output_dtype", 0) or TensorProto.UINT8
    return np.dtype(helper.tensor_dtype_to_np_dtype(named)) if named in TensorProto.DataType.values() else None


def _uint8_zero_point(node: NodeProto, constants: Constants) -> np.ndarray:
    """Returns a Q/DQ node's int8 zero point, plus 128, as uint8."""
    if _lacks_zero_point(node):
        return np.full(_constant(constants, node.input[1]).shape, 128, np.uint8)
    return np.asarray(_constant(constants, node.input[2]).astype(np.int16) + 128).astype(np.uint8)


def _forget_types(graph: GraphProto) -> None:
    """Drops the stored types of inner tensors, some of which are now wrong; engines infer them."""
    del graph.value_info[:]


def _ranges(proto: ModelProto) -> dict[str, tuple[float, float]]:
    text = next((entry.value for entry in proto.metadata_props if entry.key == RANGES_KEY), "{}")
    try:
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"the model's metadata is damaged at {RANGES_KEY!r}: quantise the model again") from None
    if not all(np.isfinite(pair).all() and pair[0] <= pair[1] for pair in ranges.values()):
        raise ModelError(f"the model's metadata is damaged at {RANGES_KEY!r}: quantise the model again")
    return ranges


def _add_range(
    graph: GraphProto, tensor: str, measured: tuple[float, float], activation_scale: float, activation: NodeProto
) -> tuple[str, str]:
    """Adds a uint8 scale and zero point for `measured`, limited to what the activation's scale resolves."""
    slope = slope_below_zero(activation)
    least = -128 * activation_scale / slope if slope > 0 else 0.0
    low = min(max(measured[0], least), 0.0)
    high = max(min(measured[1], 127 * activation_scale), activation_scale)
    scale = (high - low) / 255
    names = f"{tensor}.scale", f"{tensor}.zero_point"
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
    graph.initializer.append(numpy_helper.from_array(np.array(round(-low / scale), np.uint8), names[1]))
    return names


def _values(constants: Constants, pair: tuple[str, str]) -> tuple[bytes, bytes]:
    scale, zero = (_constant(constants, name).tobytes() for name in pair)
    return scale, zero


def _constant(constants: Constants, name: str) -> np.ndarray:
    value = constants.get(name)
    if value is None:
        raise ModelError(f"the INT8 model has no constant {name!r}, where a scale or a zero point belongs; {_REMEDY}")
    return value


def _scalar(constants: Constants, name: str) -> float:
    value = _constant(constants, name)
    if value.size != 1:
        raise ModelError(f"the INT8 model has {value.size} numbers in {name!r}, wanted one scale; {_REMEDY}")
    return float(value.item())
