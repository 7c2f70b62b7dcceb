"""Ranges of convolutions' outputs, which ONNX Runtime rounds to eight bits before the activation.

They minimise the squared error after the activation, which shrinks negative values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto

from streamer.models.graph.int8 import ACTIVATIONS, slope_below_zero

Range = tuple[float, float]

_PICTURES = 32
_SAMPLES = 20_000
"""Evenly spaced values of one tensor and picture, besides minimum and maximum."""
_BINS = 4096
_LOWS, _HIGHS = 0.85 ** np.arange(24), 0.93 ** np.arange(12)
"""Shares of the range to try below and above 0."""


def activation_slopes(model: ModelProto) -> dict[str, float]:
    """Returns {convolution's output: slope below 0} for outputs read only by a LeakyReLU or ReLU."""
    readers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    slopes = {}
    for node in model.graph.node:
        behind = readers[node.output[0]]
        if node.op_type == "Conv" and len(behind) == 1 and behind[0].op_type in ACTIVATIONS:
            slopes[node.output[0]] = slope_below_zero(behind[0])
    return slopes


def convolution_ranges(model: ModelProto, inputs: Sequence[npt.NDArray[np.float32]]) -> dict[str, Range]:
    """Returns {convolution's output: range to round within} of those in front of a LeakyReLU or ReLU.

    Args:
        model: float32, one input.
        inputs: calibration data, each (1, 3, H, W) float32, normalised; some of them are enough.
    """
    slopes = activation_slopes(model)
    if not slopes:
        return {}
    chosen = inputs[:: -(-len(inputs) // _PICTURES)]
    return {name: best_range(*_histogram(values), slopes[name]) for name, values in _samples(model, slopes, chosen)}


def best_range(values: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], slope: float) -> Range:
    """Returns the range of 256 even levels, one of them 0, with the least squared error after the activation.

    Args:
        values: (N,) before the activation.
        counts: (N,) of the values.
        slope: of the activation below 0.
    """
    least, most = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    lows = least * _LOWS if least < 0 and slope > 0 else np.zeros(1)
    wanted = np.where(values < 0, slope * values, values)
    best, best_error = (least, most), float("inf")
    for low in lows:
        for high in most * _HIGHS:
            step = (high - low) / 255
            zero = round(-low / step)
            rounded = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
            error = float(counts @ (np.where(rounded < 0, slope * rounded, rounded) - wanted) ** 2)
            if error < best_error:
                best, best_error = (float(low), float(high)), error
    return best


def _histogram(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    counts, edges = np.histogram(values, _BINS)
    used = counts > 0
    return ((edges[1:] + edges[:-1]) / 2)[used], counts[used].astype(np.float64)


def _samples(
    model: ModelProto, tensors: Mapping[str, float], inputs: Sequence[npt.NDArray[np.float32]]
) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Returns (tensor, values of it in all pictures)."""
    found: defaultdict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    for tensor, made in probe(model, list(tensors), inputs):
        flat = made.ravel()
        found[tensor] += [flat[:: -(-flat.size // _SAMPLES)], np.array([flat.min(), flat.max()])]
    return [(tensor, np.concatenate(parts)) for tensor, parts in found.items()]


def probe(
    model: ModelProto,
    tensors: Sequence[str],
    inputs: Sequence[npt.NDArray[np.float32]],
    nodes: Sequence[NodeProto] = (),
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Runs a copy of a float graph with further nodes; yields the tensors' names and values, input by input."""
    import onnxruntime

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.node.extend(nodes)
    del probed.graph.output[:]
    for tensor in tensors:
        probed.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for values in inputs:
        yield from zip(tensors, session.run(None, {name: values}), strict=True)
