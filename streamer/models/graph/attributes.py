"""Attributes of a graph's nodes."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto, helper


def attribute(node: NodeProto, name: str, otherwise: Any) -> Any:
    """Returns the value of a node's attribute, strings as bytes; `otherwise` where the node has none of that name."""
    found = next((item for item in node.attribute if item.name == name), None)
    return otherwise if found is None else helper.get_attribute_value(found)
