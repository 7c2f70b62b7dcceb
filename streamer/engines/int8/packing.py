"""Constants of each step in the form that the kernels read, independent of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.engines.int8.network import Activation, Combination, Convolution, Copy, Format, NetworkInput, Stem
from streamer.engines.int8.parameters import EPILOGUE
from streamer.engines.int8.schedule import ALIGNMENT, CHANNEL_STEP, Source, Step

_DEPTH_STEP = 256
_INPUT_UNIT = 4
STEM_CHANNELS, STEM_TAPS = 32, 16
"""The most that source/stem.cu computes."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A step's constants.

    Attributes:
        arrays: by name: weights, factors, offsets, channels, or an operand's taps.
        unit: bytes of the input that a convolution copies at a time.
        units: of them in each pixel.
    """

    arrays: dict[str, npt.NDArray[Any]]
    unit: int = 0
    units: int = 0


def epilogue(activation: Activation, fmt: Format) -> npt.NDArray[np.void]:
    """Returns `EPILOGUE`: an activation in steps of an int8 format, and within what it stores."""
    scale = fmt.scale if fmt.is_int8 else 1.0
    low, high = activation.low / scale, activation.high / scale
    found = np.zeros((), EPILOGUE)
    if fmt.is_int8:
        low, high = max(low, -128.0 - fmt.zero_point), min(high, 127.0 - fmt.zero_point)
    found["slope"], found["low"], found["high"], found["zero_point"] = activation.slope, low, high, fmt.zero_point
    return found


def is_plain(activation: Activation, *formats: Format) -> bool:
    """Whether a kernel may leave out limits, as int8 has its own, and zero points."""
    return not np.isfinite([activation.low, activation.high]).any() and not any(fmt.zero_point for fmt in formats)


def pack(step: Step) -> Packed:
    """Packs a step's constants."""
    node = step.node
    if isinstance(node, Convolution):
        return _depthwise(step, node) if node.depthwise else _convolution(step, node)
    if isinstance(node, Stem):
        return _stem(step, node.convolution)
    if isinstance(node, Combination):
        arrays: dict[str, npt.NDArray[Any]] = {}
        for index, operand in enumerate(node.operands):
            if operand.taps is not None:
                taps = operand.taps
                arrays |= {f"rows{index}": taps.rows, f"columns{index}": taps.columns, f"taps{index}": taps.weights}
        return Packed(arrays)
    if isinstance(node, Copy):
        return Packed({f"channels{index}": places for index, places in enumerate(_copied(step, node))})
    return Packed({})


def _copied(step: Step, node: Copy) -> list[npt.NDArray[np.int32]]:
    """Returns (2, count) places of each source's channels and of where they go."""
    assert step.result is not None
    tables = []
    for one, source in zip(node.source.nodes, step.sources, strict=True):
        targets = [index for index, (owner, _) in enumerate(node.source.channels) if owner is one]
        tables.append(np.array([source.places, step.result.places[targets]], np.int32))
    return tables


def _scaled(step: Step, node: Convolution) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns what sums are multiplied with and what is added, in units of the stored value."""
    scale = step.format.scale if step.format.is_int8 else 1.0
    factors = (node.factors.astype(np.float64) / scale).astype(np.float32)
    return factors, (node.bias.astype(np.float64) / scale).astype(np.float32)


def _convolution(step: Step, node: Convolution) -> Packed:
    (source, *_) = step.sources
    size = source.format.size
    unit = _INPUT_UNIT * size if isinstance(node.source.channels[0][0], NetworkInput) else ALIGNMENT
    width = unit // size
    units = -(-source.span // width)
    columns, _, height, across = node.weights.shape
    padded = -(-columns // CHANNEL_STEP) * CHANNEL_STEP
    pitch = -(-height * across * units * unit // _DEPTH_STEP) * _DEPTH_STEP // size
    kind = np.int8 if source.format.is_int8 else np.float16
    weights = np.zeros((padded, pitch), kind)
    taps = weights[:, : height * across * units * width].reshape(padded, height * across, units * width)
    taps[:columns, :, source.places] = node.weights.transpose(0, 2, 3, 1).reshape(columns, height * across, -1)
    factors, offsets = (np.zeros(padded, np.float32) for _ in range(2))
    factors[:columns], offsets[:columns] = _scaled(step, node)
    return Packed({"weights": weights, "factors": factors, "offsets": offsets}, unit, units)


def _stem(step: Step, node: Convolution) -> Packed:
    columns, inputs, height, width = node.weights.shape
    weights = np.zeros((STEM_CHANNELS, STEM_TAPS, _INPUT_UNIT), np.int8)
    weights[:columns, : height * width, :inputs] = node.weights.transpose(0, 2, 3, 1).reshape(columns, -1, inputs)
    factors, offsets = (np.zeros(STEM_CHANNELS, np.float32) for _ in range(2))
    factors[:columns], offsets[:columns] = _scaled(step, node)
    return Packed({"weights": weights, "factors": factors, "offsets": offsets})


def _depthwise(step: Step, node: Convolution) -> Packed:
    (source,) = step.sources
    span = depthwise_channels(source)
    taps = node.weights.reshape(node.columns, -1)
    arrays: dict[str, npt.NDArray[Any]] = {}
    if source.format.is_int8:
        arrays["weights"] = _in_fours(taps[:, None], source, span)
        arrays["row_weights"] = _in_fours(node.weights.reshape(node.columns, *node.weights.shape[2:]), source, span)
    else:
        floats = np.zeros((taps.shape[1], span), np.float32)
        floats[:, source.places] = taps.T
        arrays["weights"] = floats
    factors, offsets = (np.zeros(span, np.float32) for _ in range(2))
    factors[source.places], offsets[source.places] = _scaled(step, node)
    return Packed({**arrays, "factors": factors, "offsets": offsets})


def _in_fours(rows: npt.NDArray[np.int8], source: Source, span: int) -> npt.NDArray[np.int8]:
    """Returns (channels, rows, taps) weights as (rows, taps / 4, span, 4), with zeros for what is missing."""
    channels, count, length = rows.shape
    fours = -(-length // 4)
    padded = np.zeros((channels, count, 4 * fours), np.int8)
    padded[..., :length] = rows
    found = np.zeros((count, fours, span, 4), np.int8)
    found[:, :, source.places] = padded.reshape(channels, count, fours, 4).transpose(1, 2, 0, 3)
    return found


def depthwise_channels(source: Source) -> int:
    """Returns how many channels, with gaps, a kernel of `between.cu` computes of a source."""
    return -(-source.span // 4) * 4
