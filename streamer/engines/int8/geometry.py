"""Geometry of windows and of resizing, read from nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from streamer.engines.int8.network import Taps, Window
from streamer.models.graph.constants import Constants

_LARGEST_KERNEL = 15


def attribute(node: NodeProto, name: str, otherwise: Any) -> Any:
    """Returns a node's attribute, or `otherwise`."""
    found = next((item for item in node.attribute if item.name == name), None)
    return otherwise if found is None else helper.get_attribute_value(found)


def window_of(node: NodeProto, kernel: Sequence[int] = (0, 0)) -> Window | None:
    """Returns the geometry of a Conv (`kernel`: of its weights) or a MaxPool; None where the kernels lack it."""
    height, width = attribute(node, "kernel_shape", kernel)
    strides, dilations = attribute(node, "strides", (1, 1)), attribute(node, "dilations", (1, 1))
    pads = attribute(node, "pads", (0, 0, 0, 0))
    plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET" and not attribute(node, "ceil_mode", 0)
    if not plain or len({*strides}) > 1 or {*dilations} != {1} or not 0 < max(height, width) <= _LARGEST_KERNEL:
        return None
    return Window(height, width, strides[0], pads[0], pads[1])


def taps_of(node: NodeProto, before: Sequence[int], after: Sequence[int], constants: Constants) -> Taps | None:
    """Returns the interpolation of a Resize or Upsample; None where it isn't nearest or linear.

    The coordinates are those of ONNX's Resize operator.
    """
    mode = attribute(node, "mode", b"nearest").decode()
    if mode not in ("nearest", "linear", "bilinear") or 0 in (*before, *after):
        return None
    way = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
    if node.op_type == "Upsample":
        way = "asymmetric"
    rounding = attribute(node, "nearest_mode", b"round_prefer_floor" if node.op_type == "Resize" else b"floor")
    if attribute(node, "antialias", 0):
        return None
    scales = _scales(node, before, after, constants)
    axes = []
    for old, new, scale in zip(before, after, scales, strict=True):
        at = _coordinates(way, old, new, scale)
        if at is None:
            return None
        axes.append(_nearest(at, old, rounding.decode()) if mode == "nearest" else _linear(at, old))
    (rows, down), (columns, across) = axes
    return Taps(rows, columns, np.concatenate([down, across]).astype(np.float32))


def _scales(node: NodeProto, before: Sequence[int], after: Sequence[int], constants: Constants) -> tuple[float, float]:
    """Returns the factors of height and width, the graph's where it has them."""
    place = 1 if node.op_type == "Upsample" else 2
    given = constants.get(node.input[place]) if len(node.input) > place and node.input[place] else None
    if given is not None and given.size == 4:
        return float(given[2]), float(given[3])
    return after[0] / before[0], after[1] / before[1]


def _coordinates(way: str, old: int, new: int, scale: float) -> npt.NDArray[np.float64] | None:
    """Returns the place in the source of each place of the result."""
    index = np.arange(new, dtype=np.float64)
    if way == "asymmetric":
        return index / scale
    if way == "half_pixel" or (way == "pytorch_half_pixel" and new > 1):
        return (index + 0.5) / scale - 0.5
    if way == "pytorch_half_pixel":
        return np.zeros(new)
    if way == "align_corners":
        return index * ((old - 1) / (new - 1)) if new > 1 else np.zeros(new)
    return None


def _nearest(
    at: npt.NDArray[np.float64], old: int, rounding: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    if rounding.startswith("round_prefer"):
        rounded = np.ceil(at - 0.5) if rounding.endswith("floor") else np.floor(at + 0.5)
    else:
        rounded = np.floor(at) if rounding == "floor" else np.ceil(at)
    place = np.clip(rounded, 0, old - 1).astype(np.int32)
    return np.stack([place, place]), np.zeros(len(at))


def _linear(at: npt.NDArray[np.float64], old: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    place = np.clip(at, 0, old - 1)
    first = np.floor(place).astype(np.int32)
    return np.stack([first, np.minimum(first + 1, old - 1)]), place - first
