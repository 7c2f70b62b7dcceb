"""Traces which channels of a tensor come from a sigmoid or a softmax."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from math import prod

from onnx import ModelProto, NodeProto

from streamer.models.graph.attributes import attribute
from streamer.models.graph.constants import Constants
from streamer.models.graph.shapes import Shape

_SIGMOIDS = {"Sigmoid", "HardSigmoid"}
_KEEPING = {"Identity", "Cast", "Clip", "Dropout", "QuantizeLinear", "DequantizeLinear", "Relu", "Sqrt"}
_COMBINING = {"Min", "Max", "Mul", "Pow"}
_RESHAPING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_REARRANGING = {"Concat", "Transpose", "Split", "Slice"}
_MOST_STEPS = 2000


class Activation(IntEnum):
    """The last activation of a channel, ignoring rearrangements and limits."""

    NONE = 0
    SIGMOID = 1
    SOFTMAX = 2


class ActivationTracer:
    """Follows channels back through rearrangements to the node that computes them."""

    def __init__(self, proto: ModelProto, shapes: Mapping[str, Shape]) -> None:
        """Takes a graph and its `shapes_of`."""
        self.borders: set[int] = set()
        """Channels of the last traced tensor where a new operand of a Concat begins."""
        self.certain = True
        """False if an unknown shape stopped the last trace."""
        self._constants = Constants(proto)
        self._shapes = shapes
        self._makers = {output: node for node in proto.graph.node for output in node.output}
        self._steps = 0

    def trace(self, name: str, axis: int) -> list[Activation]:
        """Returns the activation of each channel of a tensor; empty where its shape is unknown."""
        self.borders = set()
        self.certain = True
        self._steps = 0
        shape = self._shapes.get(name, ())
        if not -len(shape) <= axis < len(shape) or not shape[axis]:
            return []
        axis %= len(shape)
        return self._follow(name, axis, 0, shape[axis], 0)

    def meets_sigmoid(self, name: str) -> bool:
        """Whether a sigmoid feeds any of a tensor's channels, without regard to shapes."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            node = self._makers.get(waiting.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if node.op_type in _SIGMOIDS:
                return True
            if node.op_type in _KEEPING | _RESHAPING | _REARRANGING:
                waiting += node.input
        return False

    def _follow(self, name: str, axis: int, start: int, stop: int, offset: int | None) -> list[Activation]:
        """Returns the activations of channels `start` to `stop`; `offset` is their place in the traced tensor."""
        node = self._makers.get(name)
        nothing = [Activation.NONE] * (stop - start)
        self._steps += 1
        if node is None or name in self._constants or self._steps > _MOST_STEPS:
            return nothing
        if node.op_type in _SIGMOIDS or attribute(node, "activation", b"") == b"Sigmoid":
            return [Activation.SIGMOID] * (stop - start)
        if node.op_type == "Softmax":
            return [Activation.SOFTMAX] * (stop - start)
        if node.op_type in _KEEPING:
            return self._follow(node.input[0], axis, start, stop, offset)
        if node.op_type in _COMBINING:
            return self._agreed([part for part in node.input if part not in self._constants], axis, start, stop)
        if node.op_type == "Transpose":
            perm = attribute(node, "perm", range(len(self._shapes.get(name, ())))[::-1])
            return self._follow(node.input[0], perm[axis], start, stop, offset) if axis < len(perm) else nothing
        if node.op_type == "Concat":
            return self._through_concat(node, axis, start, stop, offset)
        if node.op_type == "Split":
            if attribute(node, "axis", 0) % max(1, len(self._shapes.get(name, ()))) == axis:
                before = sum(self._size(part, axis) for part in list(node.output)[: list(node.output).index(name)])
                start, stop = start + before, stop + before
            return self._follow(node.input[0], axis, start, stop, offset)
        if node.op_type == "Slice":
            return self._through_slice(node, axis, start, stop, offset)
        if node.op_type in _RESHAPING:
            return self._through_reshape(node, name, axis, start, stop, offset)
        return nothing

    def _size(self, name: str, axis: int) -> int:
        shape = self._shapes.get(name, ())
        return shape[axis] if axis < len(shape) else 0

    def _agreed(self, names: list[str], axis: int, start: int, stop: int) -> list[Activation]:
        """Returns the activations common to several tensors; a single channel broadcasts."""
        found = []
        for name in names:
            if self._size(name, axis) == 1:
                found.append(self._follow(name, axis, 0, 1, None) * (stop - start))
            else:
                found.append(self._follow(name, axis, start, stop, None))
        return [of_all[0] if len(set(of_all)) == 1 else Activation.NONE for of_all in zip(*found, strict=True)]

    def _through_concat(
        self, node: NodeProto, axis: int, start: int, stop: int, offset: int | None
    ) -> list[Activation]:
        rank = len(self._shapes.get(node.output[0], ()))
        if attribute(node, "axis", 1) % max(1, rank) != axis:
            found = [self._follow(name, axis, start, stop, offset) for name in node.input]
            return [of_all[0] if len(set(of_all)) == 1 else Activation.NONE for of_all in zip(*found, strict=True)]
        channels: list[Activation] = []
        first = 0
        for name in node.input:
            last = first + self._size(name, axis)
            inner = max(start, first), min(stop, last)
            if inner[0] < inner[1]:
                place = None if offset is None else offset + inner[0] - start
                if place:
                    self.borders.add(place)
                channels += self._follow(name, axis, inner[0] - first, inner[1] - first, place)
            first = last
        if len(channels) == stop - start:
            return channels
        self.certain = False
        return [Activation.NONE] * (stop - start)

    def _through_slice(self, node: NodeProto, axis: int, start: int, stop: int, offset: int | None) -> list[Activation]:
        rank = len(self._shapes.get(node.output[0], ()))
        starts, axes, steps = attribute(node, "starts", None), attribute(node, "axes", None), None
        if len(node.input) > 1:
            given = [self._constants.get(name) if name else None for name in [*node.input[1:], "", "", ""][:4]]
            starts, axes, steps = given[0], given[2], given[3]
        if starts is None or rank == 0:
            return [Activation.NONE] * (stop - start)
        axes = range(len(starts)) if axes is None else [int(one) % rank for one in axes]
        for index, one in enumerate(axes):
            if one == axis:
                if steps is not None and steps[index] != 1:
                    return [Activation.NONE] * (stop - start)
                size = self._size(node.input[0], axis)
                first = min(max(int(starts[index]) + (size if starts[index] < 0 else 0), 0), size)
                start, stop = start + first, stop + first
        return self._follow(node.input[0], axis, start, stop, offset)

    def _through_reshape(
        self, node: NodeProto, name: str, axis: int, start: int, stop: int, offset: int | None
    ) -> list[Activation]:
        before, after = self._shapes.get(node.input[0], ()), self._shapes.get(name, ())
        if not before or 0 in (*before, *after) or axis >= len(after):
            self.certain = False
            return [Activation.NONE] * (stop - start)
        ahead = prod(after[:axis])
        for place, size in enumerate(before):
            if size == after[axis] and prod(before[:place]) == ahead:
                return self._follow(node.input[0], place, start, stop, offset)
        # channels were split or merged: traceable only if all are alike
        place = next((place for place in range(len(before)) if prod(before[: place + 1]) > ahead), 0)
        inner = set(self._follow(node.input[0], place, 0, before[place], None))
        return [inner.pop() if len(inner) == 1 else Activation.NONE] * (stop - start)
