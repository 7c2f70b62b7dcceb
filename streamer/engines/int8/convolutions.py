"""Makes convolution nodes: weights and scales of a Conv in the form that the kernels compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from streamer.engines.int8.geometry import window_of
from streamer.engines.int8.network import Convolution, NetworkInput, View, Window
from streamer.engines.int8.packing import STEM_CHANNELS, STEM_TAPS
from streamer.models.graph.attributes import attribute
from streamer.models.graph.shapes import Shape

_DEPTHWISE_SIZES = (3, 5)
_STEM_SIZE = 41  # the picture's tile


@dataclass(frozen=True, eq=False)
class Weights:
    """A convolution's weights: int8 with the scale of each output channel, or float32 without scales."""

    values: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None

    @staticmethod
    def quantised(
        stored: npt.NDArray[Any], scale: npt.NDArray[Any], zero: npt.NDArray[Any] | None, axis: int
    ) -> Weights:
        """Returns stored int8 or uint8 weights; as float32 where they need more than int8 and a scale a channel."""
        per_channel = scale.size > 1
        aligned = (-1,) + (1,) * (stored.ndim - 1)
        if per_channel and axis % stored.ndim:
            aligned = tuple(-1 if index == axis % stored.ndim else 1 for index in range(stored.ndim))
        centred = stored.astype(np.int16)
        if zero is not None:
            centred = centred - zero.astype(np.int16).reshape(aligned if zero.size > 1 else ())
        if (per_channel and axis % stored.ndim) or centred.min() < -128 or centred.max() > 127:
            shape = aligned if per_channel else ()
            return Weights((centred * scale.reshape(shape)).astype(np.float32), None)
        scales = np.broadcast_to(scale.reshape(-1), stored.shape[:1]).astype(np.float32)
        return Weights(centred.astype(np.int8), scales)

    def as_float(self) -> Weights:
        """Returns float32 weights of the same values."""
        if self.scales is None:
            return self
        return Weights(self.values * self.scales.reshape(-1, 1, 1, 1), None)


def make_convolution(
    node: NodeProto,
    source: View,
    weights: Weights,
    bias: npt.NDArray[Any] | None,
    shape: Shape,
    computed: Callable[[str, View], View],
) -> Convolution | None:
    """Makes the node of a Conv; None where the kernels don't compute it.

    Args:
        node: the Conv.
        source: its input.
        weights: its weights.
        bias: its bias, one value for each output channel.
        shape: of its output, (1, channels, height, width).
        computed: turns quantised values into values of a float16 tensor, for weights that aren't int8.
    """
    window = window_of(node, weights.values.shape[2:])
    if window is None or weights.values.ndim != 4:
        return None
    groups = int(attribute(node, "group", 1))
    inputs, channels = len(source.channels), len(weights.values)
    if source.format is None or weights.scales is None:
        weights = weights.as_float()
        source = source if source.format is None else computed(node.input[0], source)
    depthwise = groups == inputs == channels and groups > 1
    if depthwise and weights.scales is not None:
        size = weights.values.shape[2]
        depthwise = size in _DEPTHWISE_SIZES and size == weights.values.shape[3]
    values = weights.values
    if groups > 1 and not depthwise:
        values = _dense(values, groups, inputs)
    offset = np.zeros(channels, np.float32) if bias is None else bias.astype(np.float32).reshape(-1)
    factors = np.ones(channels, np.float32)
    if weights.scales is not None and source.format is not None:
        factors = weights.scales * np.float32(source.format.scale)
        total = values.astype(np.int64).sum(axis=(1, 2, 3))
        offset = (offset - factors.astype(np.float64) * total * source.format.zero_point).astype(np.float32)
    return Convolution(
        node.output[0], channels, shape[2], shape[3], source, window, values, factors, offset, depthwise=depthwise
    )


def _dense(values: npt.NDArray[Any], groups: int, inputs: int) -> npt.NDArray[Any]:
    """Returns a grouped convolution's weights as those of one group, with zeros."""
    each_out, each_in = len(values) // groups, inputs // groups
    dense = np.zeros((len(values), inputs, *values.shape[2:]), values.dtype)
    for group in range(groups):
        rows = slice(group * each_out, (group + 1) * each_out)
        dense[rows, group * each_in : (group + 1) * each_in] = values[rows]
    return dense


def is_stem(node: Convolution, view: View, window: Window) -> bool:
    """Whether source/stem.cu computes a convolution with the pooling behind it."""
    if view.format is None or not isinstance(node.source.whole, NetworkInput) or node.source.format is None:
        return False
    if node.partner is not None or node.depthwise:
        return False
    size = 16 * node.window.stride + max(node.window.height, node.window.width)
    size += node.source.width % 4 * _STEM_SIZE  # it copies four pixels at a time
    fits = node.window.height * node.window.width <= STEM_TAPS and node.columns <= STEM_CHANNELS and size <= _STEM_SIZE
    pools = (window.height, window.width, window.stride, window.top, window.left) == (3, 3, 2, 1, 1)
    return fits and pools
