"""Lowers a Q/DQ graph to a `Network`.

A QuantizeLinear isn't computed by itself: it becomes the format in which the node before it stores its result. Slices,
splits, concatenations and transposes of channels become views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from streamer.engines.int8.convolutions import Weights, is_stem, make_convolution
from streamer.engines.int8.geometry import taps_of, window_of
from streamer.engines.int8.network import (
    LINEAR,
    Activation,
    Combination,
    Convolution,
    Copy,
    Format,
    Network,
    NetworkInput,
    Node,
    Operand,
    Pool,
    Stem,
    UnsupportedGraph,
    View,
)
from streamer.engines.int8.output_parts import is_tail, read_output
from streamer.models.file import ModelFile
from streamer.models.graph.attributes import attribute
from streamer.models.graph.constants import Constants
from streamer.models.graph.editor import opset_of
from streamer.models.graph.int8 import quantized_type
from streamer.models.graph.shapes import Shape, shapes_of

_ANY_BATCH = (1 << 31) - 1  # a slice to here takes all pictures of any batch
_ROLE_OF_INPUT = ("scale", "zero point")
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def lower(model: ModelFile) -> Network:
    """Lowers a model for batches of any size.

    Raises:
        UnsupportedGraph: the graph has an operator or a form of it that the kernels don't compute.
    """
    return _Lowering(model).network()


class _Lowering:
    """Follows a graph from its input to its output; keeps what each tensor is."""

    def __init__(self, model: ModelFile) -> None:
        self._proto = model.proto
        self._graph = model.proto.graph
        self._name = model.path.name
        self._spec = model.spec
        self._constants = Constants(model.proto)
        self._shapes: dict[str, Shape] = shapes_of(model.proto, model.spec.input_size_wh)
        self._makers = {output: node for node in self._graph.node for output in node.output}
        self._views: dict[str, View] = {}
        self._stored: dict[str, tuple[View, int]] = {}  # outputs of QuantizeLinear, and its zero point
        self._grids: dict[str, tuple[np.ndarray, View]] = {}  # channels split over several axes
        self._tail: list[NodeProto] = []
        self._tail_names: set[str] = set()
        self._int8_layers = self._float16_layers = 0
        self._rules: dict[str, Callable[[NodeProto], None]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "Conv": self._convolution,
            "LeakyRelu": self._activation,
            "Relu": self._activation,
            "Clip": self._activation,
            "Add": self._add,
            "MaxPool": self._pool,
            "Resize": self._resize,
            "Upsample": self._resize,
            "Concat": self._concat,
            "Slice": self._slice,
            "Split": self._split,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
            "Identity": self._identity,
        }

    def network(self) -> Network:
        """Lowers the whole graph."""
        width, height = self._spec.input_size_wh
        image = self._graph.input[0].name
        self._views[image] = View.of(NetworkInput(image, 3, height, width))
        for node in self._graph.node:
            if all(name in self._constants for name in node.output):
                continue
            if self._belongs_to_tail(node):
                self._tail.append(node)
                self._tail_names.update(node.output)
                continue
            rule = self._rules.get(node.op_type)
            if rule is None or node.domain not in _DOMAINS:
                raise self._unsupported(node)
            rule(node)
        sources = {name: self._views[name] for node in self._tail for name in node.input if name in self._views}
        output = self._graph.output[0].name
        points, channels = self._spec.num_points, self._spec.output_channels
        if output in self._views:
            raise UnsupportedGraph(f"{self._name}: its output {output!r} is a picture of channels")
        opset = opset_of(self._proto)
        parts = read_output(self._tail, sources, self._constants, opset, output, (points, channels), self._name)
        return Network(self._name, points, channels, parts, self._int8_layers, self._float16_layers)

    def _belongs_to_tail(self, node: NodeProto) -> bool:
        """Whether a node arranges convolutions' results as the network's output."""
        if any(name in self._tail_names for name in node.input):
            return True
        data = node.input[0] if node.input else ""
        return data in self._views and is_tail(node, self._shapes.get(node.output[0], ()), self._views[data])

    def _unsupported(self, node: NodeProto, what: str = "") -> UnsupportedGraph:
        label = f" {node.name!r}" if node.name else ""
        return UnsupportedGraph(f"{self._name}: the int8 engine doesn't compute {node.op_type}{label}{what}")

    def _view(self, node: NodeProto, index: int = 0) -> View:
        name = node.input[index]
        if name not in self._views:
            raise self._unsupported(node, f" of {name!r}, which isn't a picture")
        return self._views[name]

    def _shape(self, node: NodeProto, index: int = 0) -> Shape:
        """Returns an output's shape, all of whose dimensions are known."""
        shape = self._shapes.get(node.output[index], ())
        if not shape or 0 in shape or shape[0] != 1:
            raise self._unsupported(node, f": its result's shape is {list(shape) or 'unknown'}")
        return shape

    def _constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        """Returns an input's value; None where there is no such input."""
        if len(node.input) <= index or not node.input[index]:
            return None
        value = self._constants.get(node.input[index])
        if value is None:
            raise self._unsupported(node, f": its input {node.input[index]!r} isn't constant")
        return value

    # --- formats ---

    def _format(self, node: NodeProto) -> tuple[Format, int]:
        """Returns the format of a QuantizeLinear's result, and its zero point as the graph says it."""
        values = [self._constants.get(name) if name else None for name in node.input[1:3]]
        for role, name, value in zip(_ROLE_OF_INPUT, node.input[1:3], values, strict=False):
            if name and (value is None or value.size != 1):
                raise self._unsupported(node, f": its {role} isn't one constant")
        scale = values[0]
        zero = values[1] if len(values) > 1 else None
        kind = quantized_type(node, zero, self._constants)
        if scale is None or kind not in (np.int8, np.uint8) or not np.all(np.isfinite(scale) & (scale > 0)):
            raise self._unsupported(node, ": wanted 8 bits and a positive scale")
        offset = 128 if kind == np.uint8 else 0  # stored as int8 all the same
        said = 0 if zero is None else int(zero.item())
        return Format(float(scale.item()), said - offset), said

    def _quantize(self, node: NodeProto) -> None:
        view, (fmt, zero) = self._view(node), self._format(node)
        if view.format not in (None, fmt):
            view = self._computed(node.input[0], view)
        self._stored[node.output[0]] = replace(view, format=fmt), zero

    def _dequantize(self, node: NodeProto) -> None:
        stored, quantised_at = self._stored.get(node.input[0], (None, 0))
        if stored is None:
            raise self._unsupported(node, " of a tensor that no QuantizeLinear makes")
        scale, zero = self._constant(node, 1), self._constant(node, 2)
        fmt = stored.format
        if fmt is None or scale is None or scale.size != 1 or np.float32(scale.item()) != np.float32(fmt.scale):
            raise self._unsupported(node, ": its scale differs from its QuantizeLinear's")
        if (0 if zero is None else int(zero.flat[0])) != quantised_at or (zero is not None and zero.size != 1):
            raise self._unsupported(node, ": its zero point differs from its QuantizeLinear's")
        self._views[node.output[0]] = stored

    def _computed(self, tensor: str, view: View) -> View:
        """Returns a view as values of a node of its own, without a format."""
        return View.of(Combination(tensor, len(view.channels), view.height, view.width, (Operand(view),)))

    # --- operators ---

    def _convolution(self, node: NodeProto) -> None:
        weights = self._weights(node)
        source = self._view(node)
        made = make_convolution(node, source, weights, self._constant(node, 2), self._shape(node), self._computed)
        if made is None:
            raise self._unsupported(node, " of this form")
        if made.weights.dtype == np.int8:
            self._int8_layers += 1
        else:
            self._float16_layers += 1
        self._views[node.output[0]] = View.of(made)

    def _weights(self, node: NodeProto) -> Weights:
        """Returns a convolution's weights: int8 with scales where the graph dequantises them."""
        name = node.input[1]
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            stored, scale = (self._constants.get(part) for part in maker.input[:2])
            zero = self._constants.get(maker.input[2]) if len(maker.input) > 2 and maker.input[2] else None
            if stored is not None and scale is not None and stored.dtype in (np.int8, np.uint8):
                return Weights.quantised(stored, scale, zero, attribute(maker, "axis", 1))
        value = self._constants.get(name)
        if value is None:
            raise self._unsupported(node, f": its weights {name!r} aren't constant")
        return Weights(value.astype(np.float32), None)

    def _activation(self, node: NodeProto) -> None:
        view = self._view(node)
        activation = self._read_activation(node)
        if view.format is not None or not all(
            isinstance(one, (Convolution, Combination)) and one.activation == LINEAR and not _is_shuffled(one)
            for one in view.nodes
        ):
            view = self._computed(node.output[0], view)
        tensor = node.output[0] if view.whole is not None else ""
        active: dict[Node, Node] = {
            one: replace(one, tensor=tensor, activation=activation)
            for one in view.nodes
            if isinstance(one, (Convolution, Combination))
        }
        channels = tuple((active[one], channel) for one, channel in view.channels)
        self._views[node.output[0]] = replace(view, channels=channels)

    def _read_activation(self, node: NodeProto) -> Activation:
        if node.op_type == "Relu":
            return Activation(slope=0.0)
        if node.op_type == "LeakyRelu":
            slope = attribute(node, "alpha", 0.01)
            if not 0 <= slope <= 1:
                raise self._unsupported(node, f" with a slope of {slope:g}")
            return Activation(slope=slope)
        bounds = [attribute(node, "min", -np.inf), attribute(node, "max", np.inf)]
        for index in range(2):
            if (value := self._constant(node, 1 + index)) is not None:
                bounds[index] = float(value.item())
        return Activation(low=bounds[0], high=bounds[1])

    def _add(self, node: NodeProto) -> None:
        shape = self._shape(node)
        if any(self._shapes.get(name) != shape for name in node.input):
            raise self._unsupported(node, " of different shapes")
        operands = tuple(_operand(self._view(node, index)) for index in range(2))
        self._views[node.output[0]] = View.of(Combination(node.output[0], *_chw(shape), operands))

    def _pool(self, node: NodeProto) -> None:
        view, shape = self._view(node), self._shape(node)
        window = window_of(node)
        if window is None or (len(node.output) > 1 and node.output[1]):
            raise self._unsupported(node, " of this form")
        chw = _chw(shape)
        first = view.whole
        made: Node = Pool(node.output[0], *chw, view, window)
        if isinstance(first, Convolution) and is_stem(first, view, window):
            made = Stem(node.output[0], *chw, first)
        self._views[node.output[0]] = View.of(made, view.format)

    def _resize(self, node: NodeProto) -> None:
        view, shape = self._view(node), self._shape(node)
        opset = opset_of(self._proto)
        taps = taps_of(node, (view.height, view.width), shape[2:], self._constants, opset)
        if taps is None or shape[1] != len(view.channels):
            raise self._unsupported(node, " of this form")
        made = Combination(node.output[0], *_chw(shape), (Operand(view, taps),))
        picks = not np.any(taps.weights)
        self._views[node.output[0]] = View.of(made, view.format if picks else None)

    # --- rearrangements of channels ---

    def _identity(self, node: NodeProto) -> None:
        self._views[node.output[0]] = self._view(node)

    def _concat(self, node: NodeProto) -> None:
        if attribute(node, "axis", 1) % 4 != 1:
            raise self._unsupported(node, " of rows or columns")
        views = [self._view(node, index) for index in range(len(node.input))]
        formats = {view.format for view in views}
        if len(formats) > 1:
            views = [
                view if view.format is None else self._computed(name, view)
                for name, view in zip(node.input, views, strict=True)
            ]
        channels = tuple(channel for view in views for channel in view.channels)
        fmt = formats.pop() if len(formats) == 1 else None
        self._views[node.output[0]] = View(channels, views[0].height, views[0].width, fmt)

    def _slice(self, node: NodeProto) -> None:
        view = self._view(node)
        starts, ends, axes, steps = (self._constant(node, index) for index in range(1, 5))
        starts = attribute(node, "starts", None) if starts is None else starts
        ends = attribute(node, "ends", None) if ends is None else ends
        axes = attribute(node, "axes", range(4)) if axes is None else axes
        if starts is None or ends is None:
            raise self._unsupported(node, " without places")
        channels = view.channels
        sizes = (_ANY_BATCH, len(channels), view.height, view.width)
        every = np.ones(len(starts), np.int64) if steps is None else steps
        for axis, start, end, step in zip(axes, starts, ends, every, strict=False):
            if int(axis) % 4 == 1:
                channels = channels[int(start) : int(end) : int(step)]
            elif range(sizes[int(axis) % 4])[int(start) : int(end) : int(step)] != range(sizes[int(axis) % 4]):
                raise self._unsupported(node, " of pictures, rows or columns")
        made = replace(view, channels=channels)
        if (len(made.channels), made.height, made.width) != self._shape(node)[1:]:
            raise self._unsupported(node, " of this form")
        self._views[node.output[0]] = made

    def _split(self, node: NodeProto) -> None:
        view = self._view(node)
        if attribute(node, "axis", 0) % 4 != 1:
            raise self._unsupported(node, " of rows or columns")
        first = 0
        for index, name in enumerate(node.output):
            count = self._shape(node, index)[1]
            self._views[name] = replace(view, channels=view.channels[first : first + count])
            first += count
        if first != len(view.channels):
            raise self._unsupported(node, " of this form")

    def _reshape(self, node: NodeProto) -> None:
        """Splits the channels over several axes, or joins them again."""
        shape = self._shape(node)
        grid, view = self._grids.get(node.input[0], (None, None))
        if grid is None or view is None:
            view = self._view(node)
            grid = np.arange(len(view.channels))
        if shape[-2:] != (view.height, view.width) or shape[0] != 1:
            raise self._unsupported(node, f" to {list(shape)}")
        if len(shape) != 4:
            self._grids[node.output[0]] = grid.reshape(shape[1:-2]), view
            return
        channels = tuple(view.channels[int(index)] for index in grid.ravel())
        self._views[node.output[0]] = settled(node.output[0], replace(view, channels=channels))

    def _transpose(self, node: NodeProto) -> None:
        if node.input[0] not in self._grids:
            raise self._unsupported(node, " of a picture")
        grid, view = self._grids[node.input[0]]
        rank = grid.ndim + 3
        perm = list(attribute(node, "perm", range(rank)[::-1]))
        if perm[0] != 0 or perm[-2:] != [rank - 2, rank - 1]:
            raise self._unsupported(node, " of rows or columns")
        self._grids[node.output[0]] = grid.transpose([axis - 1 for axis in perm[1:-2]]), view


def settled(tensor: str, view: View) -> View:
    """Returns a view whose channels are few runs: shuffled channels get a tensor of their own.

    Where they are the channels of one convolution taking turns with others, the convolution stores them so.
    """
    if len(view.runs()) <= len(view.nodes):
        return view
    fmt = view.format
    partner = replace(view, channels=view.channels[::2])
    node = replace(view, channels=view.channels[1::2]).whole
    fits = len(partner.runs()) == 1 and node is not None and node.channels == len(partner.channels)
    fits = fits and len(partner.channels) % 2 == 0
    if fits and isinstance(node, Convolution) and node.partner is None and not node.depthwise:
        return View.of(replace(node, tensor=tensor, channels=2 * node.channels, partner=partner), fmt)
    return View.of(Copy(tensor, len(view.channels), view.height, view.width, view), fmt)


def _is_shuffled(node: Node) -> bool:
    return isinstance(node, Convolution) and node.partner is not None


def _operand(view: View) -> Operand:
    """Returns a view as an operand of a sum, which resizes it itself where that is all that the view is."""
    node = view.whole
    if isinstance(node, Combination) and len(node.operands) == 1 and node.activation == LINEAR:
        inner = node.operands[0]
        if inner.taps is not None and inner.rounded is None:
            return replace(inner, rounded=view.format)
    return Operand(view)


def _chw(shape: Shape) -> tuple[int, int, int]:
    channels, height, width = shape[1:]
    return channels, height, width
