"""How convolutions' results become the network's output: found by running the graph's last nodes on indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from streamer.engines.int8.network import Convolution, OutputPart, UnsupportedGraph, View
from streamer.models.graph.constants import Constants
from streamer.models.graph.shapes import Shape

_ARRANGING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Slice", "Split", "Identity"}
_SIGMOID = 1 << 40  # added to the index of a value that goes through a sigmoid


def is_tail(node: NodeProto, shape: Shape, view: View) -> bool:
    """Whether a node takes a picture of channels apart: a sigmoid, or one that joins or moves rows and columns."""
    if node.op_type == "Sigmoid":
        return True
    if node.op_type == "Reshape":
        return len(shape) < 4 or shape[-2:] != (view.height, view.width)
    if node.op_type == "Transpose":
        return True
    return node.op_type in ("Flatten", "Squeeze", "Unsqueeze")


def read_output(
    tail: Sequence[NodeProto],
    sources: Mapping[str, View],
    constants: Constants,
    opset: int,
    output: str,
    shape: tuple[int, int],
    name: str,
) -> tuple[OutputPart, ...]:
    """Finds which channels of which convolutions make which part of the output.

    Args:
        tail: the graph's last nodes, in order.
        sources: what they read, by name.
        constants: of the graph.
        opset: its version of the standard operators.
        output: name of the output, (1, points, channels).
        shape: points and channels.
        name: of the file, for messages.

    Raises:
        UnsupportedGraph: the output is more than convolutions' channels in another order, with sigmoids.
    """
    strange = next((node.op_type for node in tail if node.op_type not in {*_ARRANGING, "Sigmoid"}), None)
    if strange is not None:
        raise UnsupportedGraph(f"{name}: the int8 engine doesn't compute {strange} of the network's output")
    first, starts = 0, {}
    feeds: dict[str, npt.NDArray[np.int64]] = {}
    for key, view in sources.items():
        count = len(view.channels) * view.height * view.width
        feeds[key] = np.arange(first, first + count).reshape(1, len(view.channels), view.height, view.width)
        starts[key] = first
        first += count
    try:
        indices = _run(tail, feeds, constants, opset, output).reshape(-1)
    except Exception as error:  # the reference raises anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsupportedGraph(f"{name}: the int8 engine can't follow the network's output: {reason}") from error
    if indices.size != shape[0] * shape[1]:
        raise UnsupportedGraph(f"{name}: its output has {indices.size} values, wanted {shape[0]} x {shape[1]}")
    rows = indices.reshape(shape)
    parts: list[OutputPart] = []
    for key, view in sources.items():
        parts += _parts_of(view, starts[key], rows, name)
    return tuple(parts)


def _run(
    tail: Sequence[NodeProto],
    feeds: Mapping[str, npt.NDArray[np.int64]],
    constants: Constants,
    opset: int,
    output: str,
) -> npt.NDArray[np.int64]:
    """Runs the nodes on indices; a sigmoid adds `_SIGMOID`."""
    nodes, names = [], {name for node in tail for name in node.input if name and name in constants}
    for node in tail:
        if node.op_type == "Sigmoid":
            node = helper.make_node("Add", [node.input[0], "sigmoid"], list(node.output))
        nodes.append(node)
    values = {name: constants.get(name) for name in names}
    initializers = [numpy_helper.from_array(value, name) for name, value in values.items() if value is not None]
    initializers.append(numpy_helper.from_array(np.array(_SIGMOID, np.int64), "sigmoid"))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, value.shape) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info(output, TensorProto.INT64, None)]
    graph = helper.make_graph(nodes, "tail", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (found,) = ReferenceEvaluator(model).run(None, dict(feeds))
    return np.asarray(found, np.int64)


def _parts_of(view: View, start: int, rows: npt.NDArray[np.int64], name: str) -> list[OutputPart]:
    """Returns what one tensor's channels are of the output."""
    area = view.height * view.width
    channels = len(view.channels)
    plain = rows & (_SIGMOID - 1)
    here = (plain >= start) & (plain < start + channels * area)
    points, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
    strange = UnsupportedGraph(f"{name}: the int8 engine doesn't write its output in this order")
    if len(points) != area or len(columns) != channels:
        raise strange
    block = plain[points[0] : points[0] + area, columns] - start
    order = block[0] // area
    expected = order[None, :] * area + np.arange(area)[:, None]
    times = rows[points[0] : points[0] + area, columns] // _SIGMOID
    active = times == 1
    if times.max() > 1:
        raise UnsupportedGraph(f"{name}: the int8 engine doesn't compute a Sigmoid of a Sigmoid")
    if points[-1] != points[0] + area - 1 or not np.array_equal(block, expected) or not (active == active[:1]).all():
        raise strange
    parts: list[OutputPart] = []
    place = 0
    while place < channels:
        node, channel = view.channels[int(order[place])]
        if not isinstance(node, Convolution) or node.depthwise or node.partner is not None or view.format is not None:
            raise UnsupportedGraph(f"{name}: the int8 engine writes only convolutions to the output")
        length, sigmoids = 1, int(active[0, place])
        while place + length < channels:
            at = place + length
            follows = (
                view.channels[int(order[at])] == (node, channel + length) and columns[at] == columns[place] + length
            )
            if not follows or (active[0, at] and sigmoids < length):
                break
            sigmoids += int(active[0, at])
            length += 1
        whole = length == node.channels
        part = node if whole else node.part(channel, channel + length)
        parts.append(OutputPart(part, int(points[0]), int(columns[place]), sigmoids))
        place += length
    return parts
