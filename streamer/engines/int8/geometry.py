"""Geometry of windows and of resizing, read from nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from streamer.engines.int8.network import Taps, Window
from streamer.models.graph.attributes import attribute
from streamer.models.graph.constants import Constants

_LARGEST_KERNEL = 15
_FIRST_COORDINATES_OPSET = 11
"""Of Resize; before it, coordinates are as Upsample's."""


def window_of(node: NodeProto, kernel: Sequence[int] = (0, 0)) -> Window | None:
    """Returns the geometry of a Conv (`kernel`: of its weights) or a MaxPool; None where the kernels lack it."""
    height, width = attribute(node, "kernel_shape", kernel)
    strides, dilations = attribute(node, "strides", (1, 1)), attribute(node, "dilations", (1, 1))
    pads = attribute(node, "pads", (0, 0, 0, 0))
    plain = attribute(node, "auto_pad", b"NOTSET") == b"NOTSET" and not attribute(node, "ceil_mode", 0)
    if not plain or len({*strides}) > 1 or {*dilations} != {1} or not 0 < max(height, width) <= _LARGEST_KERNEL:
        return None
    return Window(height, width, strides[0], pads[0], pads[1])


def taps_of(
    node: NodeProto, before: Sequence[int], after: Sequence[int], constants: Constants, opset: int
) -> Taps | None:
    """Returns the interpolation of a Resize or Upsample; None where it isn't nearest or linear.

    The coordinates are those of ONNX's Resize operator, computed in float32 as ONNX Runtime does.
    """
    mode = attribute(node, "mode", b"nearest").decode()
    if mode not in ("nearest", "linear", "bilinear") or 0 in (*before, *after):
        return None
    way = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
    rounding = attribute(node, "nearest_mode", b"round_prefer_floor")
    if is_old := node.op_type == "Upsample" or opset < _FIRST_COORDINATES_OPSET:
        way, rounding = "asymmetric", b"floor"
    if any(attribute(node, name, 0) for name in ("antialias", "exclude_outside")):
        return None
    if attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return None
    scales = _scales(node, before, after, constants, 1 if is_old else 2)
    if scales is None or (is_old and min(scales) < 1):
        return None
    axes = []
    for old, new, scale in zip(before, after, scales, strict=True):
        at = _coordinates(way, old, new, scale)
        if at is None:
            return None
        axes.append(_nearest(at, old, rounding.decode()) if mode == "nearest" else _linear(at, old))
    (rows, down), (columns, across) = axes
    return Taps(rows, columns, np.concatenate([down, across]).astype(np.float32))


def _scales(
    node: NodeProto, before: Sequence[int], after: Sequence[int], constants: Constants, place: int
) -> tuple[np.float32, np.float32] | None:
    """Returns the factors of height and width, the graph's where it has them; None where they aren't constant."""
    given = attribute(node, "scales", None)
    if len(node.input) > place and node.input[place]:
        given = constants.get(node.input[place])
        if given is None:
            return None
    factors = {axis: np.float32(after[axis - 2] / before[axis - 2]) for axis in (2, 3)}
    if given is not None and len(given):
        axes = [int(axis) % 4 for axis in attribute(node, "axes", range(4))]
        factors |= dict(zip(axes, np.asarray(given, np.float32), strict=False))
    return factors[2], factors[3]


def _coordinates(way: str, old: int, new: int, scale: np.float32) -> npt.NDArray[np.float32] | None:
    """Returns the place in the source of each place of the result."""
    index = np.arange(new, dtype=np.float32)
    half = np.float32(0.5)
    if way == "asymmetric":
        return index / scale
    if way == "half_pixel" or (way == "pytorch_half_pixel" and new > 1):
        return (index + half) / scale - half
    if way == "pytorch_half_pixel":
        return np.zeros(new, np.float32)
    if way == "align_corners":
        return index * np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.zeros(new, np.float32)
    return None


def _nearest(
    at: npt.NDArray[np.float32], old: int, rounding: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    if rounding.startswith("round_prefer"):
        rounded = np.ceil(at - 0.5) if rounding.endswith("floor") else np.floor(at + 0.5)
    else:
        rounded = np.floor(at) if rounding == "floor" else np.ceil(at)
    place = np.clip(rounded, 0, old - 1).astype(np.int32)
    return np.stack([place, place]), np.zeros(len(at), np.float32)


def _linear(at: npt.NDArray[np.float32], old: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    place = np.clip(at, 0, old - 1)
    first = np.floor(place).astype(np.int32)
    return np.stack([first, np.minimum(first + 1, old - 1)]), place - first
