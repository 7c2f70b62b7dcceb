"""Ways to damage a file's bytes, each decided by a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import onnx

T = TypeVar("T")

HOWS = ("bits flipped", "bytes overwritten", "cut off", "block twice", "block removed")
_NEAR = 4096  # headers, indexes and graphs lie within this many bytes of a file's start or end
_MOST_BYTES = 64
_MOST_FLIPS = 16
_ODD_VALUES = (
    *("", "null", "true", "-1", "3", "1000000000", "9" * 400, "0.5", "-0.0", "1e308", ".inf", ".nan", "2020-01-01"),
    *("x", "'x'", '"\\0"', '"\\n"', "é", "[]", "[x, 3]", "[[]]", "{}", "{x: y}", "{3: x}", "!!bool x", "&a [*a]", "%"),
    *("auto", "none", "source", "freshest", "max", "1x1", "99999x99999", "1s", "0.001s", "1KB"),
)
_INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 416, 65_537, 2**31, 2**40, 2**62)


def damage(content: bytes, random: Random) -> tuple[bytes, str]:
    """Returns `content` damaged in one of the ways of `HOWS`, and a phrase that says how and where.

    A third of all places lie near the start, a third near the end, the rest anywhere: most of a large file is data
    whose damage only changes what is seen, and its structure is what a parser trips over.

    Args:
        content: at least two bytes.
        random: decides everything.
    """
    how = HOWS[int(random.random() * len(HOWS))]
    changed = bytearray(content)
    if how == "bits flipped":
        places = [_place(len(content), random) for _ in range(1 + int(random.random() * _MOST_FLIPS))]
        for place in places:
            changed[place] ^= 1 << int(random.random() * 8)
        return bytes(changed), f"{how}: {len(places)}, the first at {min(places)}"
    start = _place(len(content), random)
    if how == "cut off":
        return bytes(changed[:start]), f"{how} at {start}"
    if how == "bytes overwritten":
        stop = min(len(content), start + 1 + int(random.random() * _MOST_BYTES))
        changed[start:stop] = bytes(int(random.random() * 256) for _ in range(stop - start))
        return bytes(changed), f"{how}: {start} to {stop}"
    # A block is anything from one byte to a quarter of the file, small ones as often as large ones.
    length = max(1, int((len(content) / 4) ** random.random()))
    stop = min(len(content), start + length)
    changed[start:stop] = changed[start:stop] * 2 if how == "block twice" else b""
    return bytes(changed), f"{how}: {start} to {stop}"


def _place(size: int, random: Random) -> int:
    near = int(random.random() * min(size, _NEAR))
    return (near, size - 1 - near, int(random.random() * size))[int(random.random() * 3)]


def damage_values(content: bytes, random: Random) -> tuple[bytes, str]:
    """Returns a YAML file in which one key has another value: as of a person who misread the manual.

    Args:
        content: UTF-8 text with at least one ``key: value`` line.
        random: decides everything.
    """
    lines = content.decode().splitlines()
    number = _pick([number for number, line in enumerate(lines) if ": " in line], random)
    key = lines[number].partition(": ")[0]
    value = _pick(_ODD_VALUES, random)
    lines[number] = f"{key}: {value}"
    return "\n".join([*lines, ""]).encode(), f"value changed: {key.strip()} is {value or 'nothing'} now"


def damage_graph(content: bytes, random: Random) -> tuple[bytes, str]:
    """Returns an ONNX file in which one field holds another value: still a file that a parser reads to its end.

    Args:
        content: a whole ONNX file with at least one node and one initialiser.
        random: decides everything.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    for _ in range(100):  # a field may not be there, or hold the new value already
        what = _pick(list(_GRAPH_DAMAGES), random)
        told = _GRAPH_DAMAGES[what](graph, random)
        changed = model.SerializeToString()
        if changed != content:
            return changed, f"{what}: {told}"
    return content, "nothing"


def _pick(choices: Sequence[T], random: Random) -> T:
    return choices[int(random.random() * len(choices))]


def _change_attribute(graph: onnx.GraphProto, random: Random) -> str:
    node = _pick([node for node in graph.node if node.attribute], random)
    attribute = _pick(node.attribute, random)
    if attribute.ints:
        how = _pick(("change", "add", "remove"), random)
        if how == "change":
            attribute.ints[int(random.random() * len(attribute.ints))] = _pick(_INTEGERS, random)
        elif how == "add":
            attribute.ints.append(_pick(_INTEGERS, random))
        else:
            del attribute.ints[-1]
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = _pick(_INTEGERS, random)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = _pick((float("nan"), float("inf"), -1e30, 0.0), random)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = b"other"
    return f"{attribute.name} of {node.op_type} {node.name}"


def _change_link(graph: onnx.GraphProto, random: Random) -> str:
    node = _pick([node for node in graph.node if node.input], random)
    names = [*(name for other in graph.node for name in other.output), *(c.name for c in graph.initializer), ""]
    node.input[int(random.random() * len(node.input))] = _pick(names, random)
    return f"an input of {node.op_type} {node.name}"


def _change_operator(graph: onnx.GraphProto, random: Random) -> str:
    node = _pick(graph.node, random)
    node.op_type = _pick(graph.node, random).op_type
    return f"{node.name} is a {node.op_type} now"


def _drop_node(graph: onnx.GraphProto, random: Random) -> str:
    at = int(random.random() * len(graph.node))
    told = f"{graph.node[at].op_type} {graph.node[at].name}"
    del graph.node[at]
    return told


def _change_constant(graph: onnx.GraphProto, random: Random) -> str:
    constant = _pick(graph.initializer, random)
    how = _pick(("dims", "values", "type", "name"), random)
    if how == "dims" and constant.dims:
        constant.dims[int(random.random() * len(constant.dims))] = _pick(_INTEGERS, random)
    elif how == "dims":
        constant.dims.append(_pick(_INTEGERS, random))
    elif how == "values":
        constant.raw_data = bytes(int(random.random() * 256) for _ in range(min(4096, len(constant.raw_data))))
    elif how == "type":
        constant.data_type = int(random.random() * 24)
    else:
        constant.name += "x"
    return f"{how} of {constant.name}"


def _change_end(graph: onnx.GraphProto, random: Random) -> str:
    value = _pick([*graph.input, *graph.output], random)
    tensor = value.type.tensor_type
    if random.random() < 0.3:
        tensor.elem_type = int(random.random() * 24)
    else:
        _pick(tensor.shape.dim, random).dim_value = _pick(_INTEGERS, random)
    return value.name


_GRAPH_DAMAGES: dict[str, Callable[[onnx.GraphProto, Random], str]] = {
    "attribute changed": _change_attribute,
    "link changed": _change_link,
    "operator changed": _change_operator,
    "node removed": _drop_node,
    "constant changed": _change_constant,
    "input or output changed": _change_end,
}
