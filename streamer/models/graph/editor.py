"""Adds nodes and constants to an existing graph under names that it doesn't use yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper


class GraphEditor:
    """Edits a graph in place."""

    def __init__(self, proto: ModelProto) -> None:
        """Takes the model to edit."""
        self.graph = graph = proto.graph
        self.opset = opset_of(proto)
        self._used = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self._used |= {name for node in graph.node for name in (*node.input, *node.output)}

    def fresh(self, name: str) -> str:
        """Reserves and returns an unused name: `name`, or `name` and a number."""
        free, count = name, 1
        while free in self._used:
            count += 1
            free = f"{name}.{count}"
        self._used.add(free)
        return free

    def constant(self, value: np.ndarray, name: str) -> str:
        """Adds a constant and returns its name."""
        name = self.fresh(name)
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Appends a node with one output and returns that output's name."""
        name = self.fresh(name)
        self.graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def replace_input(self, value: ValueInfoProto, nodes: Sequence[NodeProto]) -> None:
        """Makes `value` the only input, with `nodes` in front of the graph."""
        nodes = [*nodes, *self.graph.node]
        del self.graph.node[:], self.graph.input[:]
        self.graph.node.extend(nodes)
        self.graph.input.append(value)

    def replace_outputs(self, name: str, kind: int, size: Sequence[int | str] | None) -> None:
        """Makes a tensor the only output."""
        del self.graph.output[:]
        self.graph.output.append(helper.make_tensor_value_info(name, kind, size))


def opset_of(proto: ModelProto) -> int:
    """Returns the version of the standard operators that a graph uses."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)
