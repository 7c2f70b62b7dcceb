"""Tracks the channels of a graph's tensors from the convolution that outputs them to those that read them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

_Labels = npt.NDArray[np.int64]
_CHANNELWISE = {"LeakyRelu", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Identity"}
"""Operators whose output channels are proportional to their input channels."""


class Channels:
    """Labels the channels of every tensor; channels that must keep their ratio share a label.

    Attributes:
        made: (convolution, labels of its output channels).
        readers: (convolution, labels of its input channels).
        count: number of labels.
        fixed: by label, whether a reader isn't proportional to the channel.
    """

    def __init__(self, model: ModelProto) -> None:
        """Follows channels through convolutions, ReLUs, pooling, resizing, sums and shuffles."""
        graph = model.graph
        self._constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._parent: list[int] = []
        self._held: list[_Labels] = []
        self._labels: dict[str, _Labels] = {}
        made: list[tuple[NodeProto, _Labels]] = []
        readers: list[tuple[NodeProto, _Labels]] = []
        for node in graph.node:
            if node.op_type == "Conv":
                self._convolution(node, made, readers)
            else:
                self._follow(node)
        self._hold(*(item.name for item in graph.output))
        self.made = [(node, self._roots(labels)) for node, labels in made]
        self.readers = [(node, self._roots(labels)) for node, labels in readers]
        self.count = len(self._parent)
        self.fixed = np.zeros(self.count, bool)
        for labels in self._held:
            self.fixed[self._roots(labels)] = True

    def _convolution(
        self, node: NodeProto, made: list[tuple[NodeProto, _Labels]], readers: list[tuple[NodeProto, _Labels]]
    ) -> None:
        weight = self._constants.get(node.input[1])
        own = all(self._uses[name] == 1 and name in self._constants for name in node.input[1:])
        groups, labels = groups_of(node), self._labels.get(node.input[0])
        if weight is None or weight.ndim != 4 or not own:
            self._hold(node.input[0])
            return
        if labels is not None and labels.ndim == 1 and groups in (1, len(labels)) and len(weight) % groups == 0:
            depthwise = groups > 1
            if not depthwise or len(weight) == groups:
                readers.append((node, labels))
            else:
                self._hold(node.input[0])
        else:
            self._hold(node.input[0])
        self._labels[node.output[0]] = self._new(len(weight))
        made.append((node, self._labels[node.output[0]]))

    def _follow(self, node: NodeProto) -> None:
        """Labels the outputs of a node other than a convolution, or fixes its input channels."""
        before = [self._labels.get(name) for name in node.input if name and name not in self._constants]
        known = [labels for labels in before if labels is not None]
        options = _attributes(node)
        if not known or len(known) < len(before):
            self._hold(*node.input)
        elif node.op_type in _CHANNELWISE and known[0].ndim == 1:
            self._labels[node.output[0]] = known[0]
        elif node.op_type == "Add" and len(known) == 2 and known[0].shape == known[1].shape:
            self._join(*known)
            self._labels[node.output[0]] = known[0]
        elif node.op_type == "Concat" and options["axis"] == 1 and all(labels.ndim == 1 for labels in known):
            self._labels[node.output[0]] = np.concatenate(known)
        elif node.op_type == "Split" and options.get("axis", 0) == 1 and known[0].ndim == 1:
            self._split(node, known[0])
        elif node.op_type == "Slice" and known[0].ndim == 1 and len(node.input) > 3:
            self._slice(node, known[0])
        elif node.op_type in ("Reshape", "Transpose"):
            self._shuffle(node, known[0], options)
        else:
            self._hold(*node.input)

    def _split(self, node: NodeProto, labels: _Labels) -> None:
        sizes = self._constants.get(node.input[1]) if len(node.input) > 1 else _attributes(node).get("split")
        parts = len(node.output)
        if sizes is None and len(labels) % parts:
            self._hold(node.input[0])
            return
        ends = np.cumsum(np.full(parts, len(labels) // parts) if sizes is None else sizes)
        for name, part in zip(node.output, np.split(labels, ends[:-1].astype(int)), strict=True):
            self._labels[name] = part

    def _slice(self, node: NodeProto, labels: _Labels) -> None:
        values = [self._constants.get(name) for name in node.input[1:]]
        starts, ends, axes = values[:3]
        if starts is None or ends is None or axes is None or axes.tolist() != [1] or len(values) > 3:
            self._hold(node.input[0])
        else:
            self._labels[node.output[0]] = labels[int(starts[0]) : int(ends[0])]

    def _shuffle(self, node: NodeProto, labels: _Labels, options: dict[str, Any]) -> None:
        """Follows a channel shuffle: reshape to (groups, channels / groups), transpose, reshape."""
        shape = self._constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and len(shape) == 5 and labels.ndim == 1 and shape[1] * shape[2] == len(labels):
            self._labels[node.output[0]] = labels.reshape(int(shape[1]), int(shape[2]))
        elif options.get("perm") == [0, 2, 1, 3, 4] and labels.ndim == 2:
            self._labels[node.output[0]] = labels.T
        elif shape is not None and len(shape) == 4 and labels.ndim == 2 and shape[1] == labels.size:
            self._labels[node.output[0]] = labels.ravel()
        else:
            self._hold(node.input[0])

    def _new(self, count: int) -> _Labels:
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def _hold(self, *names: str) -> None:
        self._held += [self._labels[name].ravel() for name in names if name in self._labels]

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            label = self._parent[label]
        return label

    def _roots(self, labels: _Labels) -> _Labels:
        return np.array([self._root(label) for label in labels.ravel().tolist()], np.int64)

    def _join(self, one: _Labels, other: _Labels) -> None:
        for first, second in zip(self._roots(one), self._roots(other), strict=True):
            low, high = sorted((self._root(int(first)), self._root(int(second))))
            self._parent[high] = low


def groups_of(node: NodeProto) -> int:
    """Returns a convolution's groups."""
    return int(_attributes(node).get("group", 1))


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
