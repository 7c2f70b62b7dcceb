"""Constants of an OpenVINO graph, and the storage of its integer weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_ARITHMETIC = {"Add": np.add, "Subtract": np.subtract, "Multiply": np.multiply, "Divide": np.divide}
_RESHAPING = ("Reshape", "Squeeze", "Unsqueeze")
_NEAR = 1e-3


@dataclass(frozen=True)
class Integers:
    """A weight stored as integers: `scale` * (`values` - `zero`).

    Attributes:
        values: int8 or uint8.
        scale: float32, with as many dimensions as `values`, each as large or 1.
        zero: of the type of `values`, and as large as `scale`.
    """

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    def is_of_leading(self, count: int) -> bool:
        """Whether there is one scale, or one for each element of the first `count` dimensions."""
        shape = self.scale.shape
        return self.scale.size == 1 or shape == (*self.values.shape[:count], *[1] * (len(shape) - count))


class Values:
    """Computes and caches the constants of a graph."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], np.ndarray | None] = {}

    def are_of(self, op: Any) -> bool:
        """Whether an operation's only output is constant."""
        return op.get_output_size() == 1 and self.of(op.output(0)) is not None

    def of(self, port: Any) -> np.ndarray | None:
        """Returns a port's value, or None where it isn't constant."""
        key = (port.get_node().get_name(), port.get_index())
        if key not in self._known:
            self._known[key] = self._computed(port.get_node())
        return self._known[key]

    def _computed(self, op: Any) -> np.ndarray | None:
        kind = op.get_type_name()
        if kind == "Constant":
            return np.array(op.get_data())
        if kind not in ("Convert", "FakeQuantize", "Transpose", *_RESHAPING, *_ARITHMETIC):
            return None
        operands = [self.of(op.input_value(place)) for place in range(op.get_input_size())]
        if any(operand is None for operand in operands):
            return None
        first, *rest = [operand for operand in operands if operand is not None]
        if kind == "Convert":
            return first.astype(op.get_output_element_type(0).to_dtype())
        if kind == "FakeQuantize":
            steps, scale, zero = _steps(first, rest, op.get_attributes()["levels"])
            return np.asarray((steps - zero) * scale, np.float32)
        if kind == "Transpose":
            return first.transpose([int(axis) for axis in rest[0]] or None)
        if kind in _RESHAPING:
            return first.reshape(op.output(0).get_shape())
        return np.asarray(_ARITHMETIC[kind](first, rest[0]), first.dtype)

    def integers_of(self, port: Any) -> Integers | None:
        """Returns a constant's 8-bit integers, or None where it isn't stored as such."""
        op = port.get_node()
        kind = op.get_type_name()
        if kind == "Convert" and op.input_value(0).get_node().get_type_name() in ("Multiply", "FakeQuantize"):
            return self.integers_of(op.input_value(0))
        if kind == "FakeQuantize":
            return self._of_fake_quantize(op)
        if kind == "Multiply":
            return self._of_dequantizing(op)
        if kind in _RESHAPING:
            return _reshaped(self.integers_of(op.input_value(0)), tuple(op.output(0).get_shape()))
        if kind == "Transpose":
            found, order = self.integers_of(op.input_value(0)), self.of(op.input_value(1))
            if found is not None and order is not None and order.size:
                return Integers(*(part.transpose([int(a) for a in order]) for part in vars(found).values()))
        return None

    def _of_dequantizing(self, op: Any) -> Integers | None:
        """Reads (integers as floats [- zero point]) * scale."""
        scale = self.of(op.input_value(1))
        stored = op.input_value(0).get_node()
        zero = np.zeros(1, np.float32)
        if stored.get_type_name() == "Subtract":
            given = self.of(stored.input_value(1))
            if given is None:
                return None
            stored, zero = stored.input_value(0).get_node(), given.astype(np.float32)
        if scale is None or stored.get_type_name() != "Convert":
            return None
        values = self.of(stored.input_value(0))
        if values is None or values.dtype not in (np.int8, np.uint8):
            return None
        limits = np.iinfo(values.dtype)
        if (zero != np.rint(zero)).any() or zero.min() < limits.min or zero.max() > limits.max:
            return None
        return _integers(values, scale, zero.astype(values.dtype))

    def _of_fake_quantize(self, op: Any) -> Integers | None:
        operands = [self.of(op.input_value(place)) for place in range(5)]
        levels = op.get_attributes()["levels"]
        if any(operand is None for operand in operands) or not 2 <= levels <= 256:
            return None
        first, *ranges = [operand for operand in operands if operand is not None]
        steps, scale, zero = _steps(first, ranges, levels)
        whole = np.rint(zero)
        if np.abs(zero - whole).max() > _NEAR or whole.min() < 0 or whole.max() > 255:
            return None
        values = steps - whole
        if values.min() >= -128 and values.max() <= 127:
            return _integers(values.astype(np.int8), scale, np.zeros(1, np.int8))
        return _integers(steps.astype(np.uint8), scale, whole.astype(np.uint8))


def _steps(values: np.ndarray, ranges: list[np.ndarray], levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns FakeQuantize's rounded steps, 0 to levels - 1, with the scale and zero point of its output."""
    low, high, given_low, given_high = (one.astype(np.float32) for one in ranges)
    portion = (np.clip(values, np.minimum(low, high), np.maximum(low, high)) - low) / (high - low)
    scale = (given_high - given_low) / np.float32(levels - 1)
    return np.rint(portion * np.float32(levels - 1)), scale, -given_low / scale


def _integers(values: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Integers | None:
    """Broadcasts scale and zero point to the rank of the values; None where they don't fit."""
    if scale.ndim > values.ndim:
        return None
    scale = np.asarray(scale, np.float32).reshape([1] * (values.ndim - scale.ndim) + list(scale.shape))
    try:
        return Integers(values, scale, np.array(np.broadcast_to(zero, scale.shape)))
    except ValueError:
        return None


def _reshaped(found: Integers | None, shape: tuple[int, ...]) -> Integers | None:
    """Reshapes integers where the scale still belongs to the leading dimensions; else returns None."""
    if found is None:
        return None
    values = found.values.reshape(shape)
    if found.scale.size == 1:
        return Integers(values, found.scale.reshape([1] * len(shape)), found.zero.reshape([1] * len(shape)))
    for count in range(1, len(shape) + 1):
        leading = shape[:count]
        if np.prod(leading) == found.scale.size and any(found.is_of_leading(one) for one in range(1, 3)):
            wide = [*leading, *[1] * (len(shape) - count)]
            return Integers(values, found.scale.reshape(wide), found.zero.reshape(wide))
    return None
