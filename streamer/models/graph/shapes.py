"""The shape of every tensor of a network, worked out for one picture, before an engine sees it.

Engines trust a graph: of one that contradicts itself some compute values from beyond their buffers, and one that asks
for a huge tensor takes the machine's memory with it.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper, shape_inference

from streamer.common.errors import ModelError
from streamer.models.graph.constants import Constants, fold_constants

_MOST_VALUES = 1 << 27
"""In one tensor; what NanoDet-g has at 4096x4096, the largest input."""

_LARGEST_SHAPE = 64
"""Values in a constant that may be a shape, or computed to one."""

Shape = tuple[int, ...]


def dimensions(value: ValueInfoProto) -> Shape:
    """Returns a tensor's declared dimensions, 0 for each that is symbolic or unknown."""
    return tuple(d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim)


def shapes_of(proto: ModelProto, size_wh: tuple[int, int]) -> dict[str, Shape]:
    """Works out every tensor's shape.

    Args:
        proto: a graph with one input (batch, 3, H, W) beside its constants; left as it is.
        size_wh: width and height of the input; the batch is 1.

    Returns:
        Dimensions by tensor's name, 0 for each that can't be told; a tensor of which nothing is known is left out.

    Raises:
        ModelError: if the graph contradicts itself, or has a tensor too large for any NanoDet; the message goes behind
            the file's name.
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
    for value in proto.graph.output:  # what the file says of them counts where inference can't tell
        said, found = dimensions(value), shapes.get(value.name, ())
        if len(found) == len(said):
            shapes[value.name] = tuple(one or other for one, other in zip(found, said, strict=True))
        elif not found:
            shapes[value.name] = said
    for name, shape in shapes.items():
        if min(shape, default=0) < 0 or prod(shape) > _MOST_VALUES:
            raise ModelError(f"has a tensor {name!r} of {list(shape)}; get the file again")
    for node in fixed.graph.node:
        if node.op_type == "Reshape":  # whose sizes inference doesn't compare
            before, after = (shapes.get(name, (0,)) for name in (node.input[0], node.output[0]))
            if 0 not in before + after and prod(before) != prod(after):
                raise ModelError(
                    f"contradicts itself (Reshape makes {list(after)} of {list(before)}); get the file again"
                )
    return shapes


def _without_weights(proto: ModelProto, size_wh: tuple[int, int]) -> ModelProto:
    """Returns a copy for one picture whose weights are inputs, which spares copying their values again and again.

    Nor does it hold what an exporter noted of shapes, which may be stale.
    """
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
    """Returns what ONNX infers of the shapes in a graph whose input's is known."""
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
    """Makes constants of what Shape nodes say and what is picked from that, where it is known; tells if any was.

    Inference itself follows computed shapes only so far, the less the older the operator set.
    """
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
