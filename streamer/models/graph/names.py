"""What adding nodes to a graph of somebody else's needs: free names, and its operator set."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


class Names:
    """The names that a graph uses, for finding ones that it doesn't."""

    def __init__(self, proto: ModelProto) -> None:
        graph = proto.graph
        self._used = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        self._used |= {name for node in graph.node for name in (*node.input, *node.output)}

    def fresh(self, name: str) -> str:
        """Returns `name`, or where it is used already `name` and a number; it is used from now on."""
        free, count = name, 1
        while free in self._used:
            count += 1
            free = f"{name}.{count}"
        self._used.add(free)
        return free


def opset_of(proto: ModelProto) -> int:
    """Returns the version of ONNX's own operators that a graph is written in."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)
