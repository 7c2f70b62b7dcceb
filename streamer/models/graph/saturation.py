"""Keeps the sums of INT8 convolutions within 16 bits, for processors without dot-product instructions (VNNI).

There the kernels multiply with ``vpmaddubsw``, which adds the products of two neighbouring input channels, uint8 times
int8, in 16 bits with saturation: 255 * 127 * 2 is 64,770, where 32,767 is the most. See "INT8 on CPUs without VNNI" in
docs/calibration.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from streamer.models.graph.attributes import attribute
from streamer.models.graph.constants import Constants

_MOST_OF_PAIR = 32767 // 255
"""Of two weights with one sign; an activation is 255 at most."""
_MOST_OF_PAIR_BELOW = 32768 // 255
_BLOCK = 4
"""Of input channels whose weights an instruction takes together."""


def has_saturating_sums(flags: frozenset[str]) -> bool:
    """Whether a processor with these instruction sets adds pairs of products in 16 bits; False where none are known."""
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


def has_uint8_integer_convolutions(proto: ModelProto) -> bool:
    """Whether the graph has integer operators that take uint8, whose sums then saturate; those of int8 don't."""
    constants = Constants(proto)
    zero_points = (
        constants.get(node.input[2])
        for node in proto.graph.node
        if node.op_type in ("QLinearConv", "ConvInteger") and len(node.input) > 2
    )
    return any(zero_point is not None and zero_point.dtype == np.uint8 for zero_point in zero_points)


def prevent_saturation(proto: ModelProto) -> None:
    """Makes int8 weights smaller, in place, where the products of two neighbouring channels don't fit.

    An output channel whose pairs reach `p` gets its weights times 128 / p, rounded, and its scale times p / 128: at
    most one bit of their precision. Weights with one scale for all channels are changed together. Where the number of
    input channels isn't a multiple of four, any two weights of an output channel count as a pair. Depthwise
    convolutions have no pairs.
    """
    constants = Constants(proto)
    readers: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in proto.graph.node:
        weights = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        scale = None if weights is None else constants.get(node.input[1])
        if weights is None or scale is None or weights.dtype != np.int8 or weights.ndim < 3:
            continue
        users = readers.get(node.output[0], [])
        if not users or any(user.op_type != "Conv" or user.input[1] != node.output[0] for user in users):
            continue
        if scale.size > 1 and (attribute(node, "axis", 1) != 0 or scale.size != len(weights)):
            continue
        factors = _factors(weights)
        if scale.size == 1:
            factors = np.full_like(factors, factors.min())
        if (factors == 1).all():
            continue
        by_channel = factors.reshape(-1, *[1] * (weights.ndim - 1))
        names = f"{node.output[0]}.fitting", f"{node.output[0]}.fitting.scale"
        smaller = np.trunc(weights * by_channel + np.copysign(0.5, weights)).astype(np.int8)
        larger = (scale / (factors[:1].reshape(scale.shape) if scale.size == 1 else factors)).astype(scale.dtype)
        for name, value in zip(names, (smaller, larger), strict=True):
            proto.graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[0], node.input[1] = names


def _factors(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """Returns for each output channel what its weights are multiplied by: 1 where all pairs fit."""
    count, channels = weights.shape[:2]
    if channels == 1:
        return np.ones(count)
    if channels % _BLOCK:  # the kernels take these in an order in which channels of different pixels meet
        values = np.sort(weights.reshape(count, -1).astype(np.int32), axis=1)
        above, below = np.maximum(values[:, -2:], 0).sum(axis=1), -np.minimum(values[:, :2], 0).sum(axis=1)
    else:
        pairs = weights.astype(np.int32).reshape(count, channels // 2, 2, -1)
        above = np.maximum(pairs, 0).sum(axis=2).max(axis=(1, 2))
        below = -np.minimum(pairs, 0).sum(axis=2).min(axis=(1, 2))
    fits = np.minimum(_MOST_OF_PAIR / np.maximum(above, 1), _MOST_OF_PAIR_BELOW / np.maximum(below, 1))
    return np.minimum(fits, 1.0)
