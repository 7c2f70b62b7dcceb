"""Infers the shape of every tensor for one picture, before an engine loads the graph.

Engines trust a graph: some read beyond their buffers for an inconsistent one, or exhaust memory for a huge tensor.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper, shape_inference

from streamer.common.errors import ModelError
from streamer.models.graph.constants import Constants, fold_constants

_MOST_VALUES = 1 << 27
"""In one tensor: NanoDet-g at 4096x4096, the largest input."""

_LARGEST_SHAPE = 64
"""Values of a constant that may be, or become, a shape."""

Shape = tuple[int, ...]


def dimensions(value: ValueInfoProto) -> Shape:
    """Returns a tensor's declared dimensions, 0 for each that is symbolic or unknown."""
    return tuple(d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim)


def shapes_of(proto: ModelProto, size_wh: tuple[int, int]) -> dict[str, Shape]:
    """Infers every tensor's shape for one picture of a size, in pixels; the graph isn't modified.

    Returns:
        Dimensions by tensor name, 0 for unknown ones; tensors without a known rank are omitted.

    Raises:
        ModelError: the graph is inconsistent, or a tensor is too large; the message continues the file's name.
    """
    fixed = _without_weights(proto, size_wh)
    graph = fixed.graph
    for node in graph.node:
        if node.op_type == "FusedConv":  # ONNX Runtime's own: a convolution with its activation
            node.op_type, node.domain = "Conv", ""
            del node.input[3:]
            for attribute in [item for item in node.attribute if item.name.startswith("activation")]:
                node.attribute.remove(attribute)
    shapes = _inferred(fixed, size_wh)
    while any(0 in shapes.get(value.name, (0,)) for value in graph.output) and _compute_shapes(fixed, shapes):
        shapes = _inferred(fixed, size_wh)
    for value in proto.graph.output:  # declared dimensions fill in unknown ones
        said, found = dimensions(value), shapes.get(value.name, ())
        if len(found) == len(said):
            shapes[value.name] = tuple(one or other for one, other in zip(found, said, strict=True))
        elif not found:
            shapes[value.name] = said
    for name, shape in shapes.items():
        if min(shape, default=0) < 0 or prod(shape) > _MOST_VALUES:
            raise ModelError(f"has a tensor {name!r} of {list(shape)}; get the file again")
    for node in fixed.graph.node:
        if node.op_type == "Reshape":  # inference doesn't compare its sizes
            before, after = (shapes.get(name, (0,)) for name in (node.input[0], node.output[0]))
            if 0 not in before + after and prod(before) != prod(after):
                raise ModelError(
                    f"contradicts itself (Reshape makes {list(after)} of {list(before)}); get the file again"
                )
    return shapes


def _without_weights(proto: ModelProto, size_wh: tuple[int, int]) -> ModelProto:
    """Returns a copy for one picture with weights as inputs, which is cheap to copy, and without stored shapes."""
    fixed = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph = fixed.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    constants = {constant.name for constant in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in constants:
            graph.input.append(value)
            for dimension, size in zip(graph.input[-1].type.tensor_type.shape.dim, (1, 3, *size_wh[::-1]), strict=True):
                dimension.dim_value = size
    for constant in proto.graph.initializer:
        if prod(constant.dims) > _LARGEST_SHAPE:
            graph.input.append(helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
        else:
            graph.initializer.append(constant)
    for value in proto.graph.output:
        graph.output.append(value)
        graph.output[-1].type.tensor_type.ClearField("shape")
    return fixed


def _inferred(fixed: ModelProto, size_wh: tuple[int, int]) -> dict[str, Shape]:
    """Runs ONNX's shape inference."""
    try:
        graph = shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except Exception as error:  # of no base but Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition("Inference error(s): ")
        width, height = size_wh
        raise ModelError(
            f"contradicts itself for an input of {width}x{height} ({reason[2] or reason[0]}); get the file again, or "
            "describe its input as it is"
        ) from error
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    return shapes | {v.name: dimensions(v) for v in values if v.type.tensor_type.HasField("shape")}


def _compute_shapes(fixed: ModelProto, shapes: dict[str, Shape]) -> bool:
    """Folds known Shape nodes, and Gather nodes behind them, which inference doesn't always follow; True if any."""
    constants = Constants(fixed)
    said: dict[str, np.ndarray] = {}
    found = False
    for node in fixed.graph.node:
        value = None
        if node.op_type == "Shape" and shapes.get(node.input[0]):
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            shape = shapes[node.input[0]]
            value = said[node.output[0]] = np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)
        elif node.op_type == "Gather" and node.input[0] in said:
            indices = constants.get(node.input[1])
            size = len(said[node.input[0]])
            if indices is not None and np.all((indices >= -size) & (indices < size)):
                value = said[node.input[0]][indices]
        if value is not None and np.all(value):
            tensor = numpy_helper.from_array(np.asarray(value, np.int64))
            node.CopyFrom(helper.make_node("Constant", [], list(node.output), value=tensor))
            found = True
    if found:
        fold_constants(fixed)
    return found
