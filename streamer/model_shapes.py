"""The shape of every tensor of a network, worked out for one picture, before an engine sees it.

Engines trust a graph: of one that contradicts itself some compute values from beyond their buffers, and one that asks
for a huge tensor takes the machine's memory with it.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import onnx
from onnx import shape_inference

from streamer.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_MOST_VALUES = 1 << 27
"""In one tensor; what NanoDet-g has at 4096x4096, the largest input."""

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
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    graph = fixed.graph
    constants = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            for dimension, size in zip(value.type.tensor_type.shape.dim, (1, 3, *size_wh[::-1]), strict=True):
                dimension.dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]  # what an exporter noted may be stale
    for node in graph.node:
        if node.op_type == "FusedConv":  # ONNX Runtime's own: a convolution with its activation
            node.op_type, node.domain = "Conv", ""
            del node.input[3:]
            for attribute in [item for item in node.attribute if item.name.startswith("activation")]:
                node.attribute.remove(attribute)
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
    shapes = constants | {v.name: dimensions(v) for v in values if v.type.tensor_type.HasField("shape")}
    for value in proto.graph.output:  # what the file says of them counts where inference can't tell
        said, found = dimensions(value), shapes.get(value.name, ())
        if len(found) == len(said):
            shapes[value.name] = tuple(one or other for one, other in zip(found, said, strict=True))
        elif not found:
            shapes[value.name] = said
    for name, shape in shapes.items():
        if min(shape, default=0) < 0 or prod(shape) > _MOST_VALUES:
            raise ModelError(f"has a tensor {name!r} of {list(shape)}; get the file again")
    for node in graph.node:
        if node.op_type == "Reshape":  # whose sizes inference doesn't compare
            before, after = (shapes.get(name, (0,)) for name in (node.input[0], node.output[0]))
            if 0 not in before + after and prod(before) != prod(after):
                raise ModelError(
                    f"contradicts itself (Reshape makes {list(after)} of {list(before)}); get the file again"
                )
    return shapes
