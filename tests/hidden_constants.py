"""The forms in which exporters keep a constant that might as well be an initializer."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Nodes = list[onnx.NodeProto]


def _constant(name: str, value: np.ndarray) -> Nodes:
    return [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))]


def _behind(op: str, **attributes: object) -> Callable[[str, np.ndarray], Nodes]:
    return lambda name, value: [
        *_constant(f"{name}.before", value),
        helper.make_node(op, [f"{name}.before"], [name], **attributes),
    ]


def _number(name: str, value: np.ndarray) -> Nodes:
    if value.dtype == np.float32:
        return [helper.make_node("Constant", [], [name], value_float=float(value))]
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return [
        helper.make_node("Constant", [], [f"{name}.before"], value_int=int(value)),
        helper.make_node("Cast", [f"{name}.before"], [name], to=kind),
    ]


def _numbers(name: str, value: np.ndarray) -> Nodes:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    given = {"value_floats": [float(value)]} if value.dtype == np.float32 else {"value_ints": [int(value)]}
    return [
        helper.make_node("Constant", [], [f"{name}.list"], **given),
        *_constant(f"{name}.shape", np.zeros(0, np.int64)),
        helper.make_node("Reshape", [f"{name}.list", f"{name}.shape"], [f"{name}.before"]),
        helper.make_node("Cast", [f"{name}.before"], [name], to=kind),
    ]


def _sparse(name: str, value: np.ndarray) -> Nodes:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    values = numpy_helper.from_array(value.reshape(1), f"{name}.sparse")
    indices = helper.make_tensor(f"{name}.indices", TensorProto.INT64, [1], [0])
    return [
        helper.make_node("Constant", [], [f"{name}.one"], sparse_value=helper.make_sparse_tensor(values, indices, [1])),
        *_constant(f"{name}.shape", np.zeros(0, np.int64)),
        helper.make_node("Reshape", [f"{name}.one", f"{name}.shape"], [f"{name}.before"]),
        helper.make_node("Cast", [f"{name}.before"], [name], to=kind),
    ]


def _computed(name: str, value: np.ndarray) -> Nodes:
    return [
        *_constant(f"{name}.half", np.asarray(value, np.float32) / 2),
        helper.make_node("Add", [f"{name}.half", f"{name}.half"], [f"{name}.sum"]),
        helper.make_node("Cast", [f"{name}.sum"], [name], to=helper.np_dtype_to_tensor_dtype(value.dtype)),
    ]


FORMS: dict[str, Callable[[str, np.ndarray], Nodes]] = {
    "constant": _constant,
    "identity": _behind("Identity"),
    "reshape": lambda name, value: [
        *_constant(f"{name}.list", value.reshape(1)),
        *_constant(f"{name}.shape", np.zeros(0, np.int64)),
        helper.make_node("Reshape", [f"{name}.list", f"{name}.shape"], [name]),
    ],
    "cast": lambda name, value: [
        *_constant(f"{name}.before", np.asarray(value, np.float64)),
        helper.make_node("Cast", [f"{name}.before"], [name], to=helper.np_dtype_to_tensor_dtype(value.dtype)),
    ],
    "number": _number,
    "numbers": _numbers,
    "sparse": _sparse,
    "computed": _computed,
    "transpose": _behind("Transpose"),
}
"""Name of a form: nodes that make a scalar tensor of a name and value."""


def hide_constants(model: onnx.ModelProto, names: Collection[str], form: str) -> None:
    """Replaces scalar initializers by nodes that make them, in place."""
    graph = model.graph
    hidden = [tensor for tensor in graph.initializer if tensor.name in names]
    nodes = [node for tensor in hidden for node in FORMS[form](tensor.name, numpy_helper.to_array(tensor))]
    for tensor in hidden:
        graph.initializer.remove(tensor)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + rest)
