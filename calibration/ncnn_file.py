"""Reads NCNN's files: the layers of a ``.param`` text, and the weights of a ``.bin``."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamer.common.errors import ModelError

_MAGIC = "7767517"
_ARRAY = -23300
_HALF, _INT8, _PLAIN = 0x01306B47, 0x000D4B38, 0x0002C056
_TABLE = 256
_MOST_LAYERS = 10_000

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A line of a ``.param`` file.

    Attributes:
        kind: such as ``Convolution``.
        name: its own.
        inputs: names of blobs.
        outputs: names of blobs.
        values: parameters by number; array keys are stored as -23300 - number.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: dict[int, float | tuple[float, ...]]

    def number(self, key: int, otherwise: float = 0) -> float:
        """Returns a numeric parameter."""
        value = self.values.get(key, otherwise)
        if isinstance(value, tuple):
            raise ValueError(f"parameter {key} is an array")
        return value

    def whole(self, key: int, otherwise: int = 0) -> int:
        """Returns an integer parameter."""
        return int(self.number(key, otherwise))

    def array(self, key: int) -> tuple[float, ...]:
        """Returns an array parameter; empty if missing."""
        value = self.values.get(key, ())
        return value if isinstance(value, tuple) else (value,)


def read_layers(path: Path) -> list[Layer]:
    """Reads a ``.param`` file; raises ModelError if it is unreadable or invalid."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ModelError(f"can't read the model {str(path)!r}: {error.strerror or error}") from error
    except ValueError:
        lines = []
    if not lines or lines[0].strip() != _MAGIC:
        raise ModelError(f"{str(path)!r} is no NCNN .param text, which begins with {_MAGIC} (a .param.bin isn't read)")
    if len(lines) > _MOST_LAYERS:
        raise ModelError(f"{str(path)!r} has more than {_MOST_LAYERS} layers: no NanoDet has as many")
    layers = []
    for number, line in enumerate(lines[2:], 3):
        if not line.strip():
            continue
        try:
            layers.append(_layer(line.split()))
        except (ValueError, IndexError) as error:
            raise ModelError(f"{str(path)!r} is damaged in line {number} ({error})") from None
    return layers


def _layer(words: list[str]) -> Layer:
    kind, name, count, made, *rest = words
    ends = int(count), int(count) + int(made)
    if min(ends) < 0 or len(rest) < ends[1]:
        raise ValueError("blobs are missing")
    values: dict[int, float | tuple[float, ...]] = {}
    for word in rest[ends[1] :]:
        key, separator, text = word.partition("=")
        if not separator:
            raise ValueError(f"{word!r} is no parameter")
        if int(key) <= _ARRAY:
            length, *items = text.split(",")
            if len(items) != int(length):
                raise ValueError(f"array {key} has {len(items)} numbers, wanted {length}")
            values[_ARRAY - int(key)] = tuple(float(item) for item in items)
        else:
            values[int(key)] = float(text)
    return Layer(kind, name, tuple(rest[: ends[0]]), tuple(rest[ends[0] : ends[1]]), values)


class Weights:
    """Reads a ``.bin`` file sequentially."""

    def __init__(self, path: Path) -> None:
        """Reads the file; raises ModelError if it can't."""
        try:
            self._content = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"can't read the weights {str(path)!r}: {error.strerror or error}; an NCNN model is two files"
            ) from error
        self._place = 0

    @property
    def left(self) -> int:
        """Unread bytes."""
        return len(self._content) - self._place

    def plain(self, *shape: int) -> Floats:
        """Reads float32 values; raises ValueError at the end of the file."""
        return np.frombuffer(self._bytes(4 * _size(shape)), "<f4").astype(np.float32).reshape(shape)

    def tagged(self, *shape: int) -> Floats:
        """Reads values with a tag: float32, float16 or table indices.

        Raises:
            ValueError: the file ends too early, or contains INT8.
        """
        size = _size(shape)
        tag = int.from_bytes(self._bytes(4), "little")
        if tag == _INT8:
            raise ValueError("its weights are INT8, which isn't read: import the float model, then quantize that")
        if tag == _HALF:
            return np.frombuffer(self._bytes(2 * size, aligned=True), "<f2").astype(np.float32).reshape(shape)
        if tag in (0, _PLAIN):
            return self.plain(*shape)
        table = self.plain(_TABLE)
        return table[np.frombuffer(self._bytes(size, aligned=True), np.uint8)].reshape(shape)

    def _bytes(self, count: int, *, aligned: bool = False) -> bytes:
        taken = count + -count % 4 if aligned else count
        if taken > self.left:
            raise ValueError("the .bin file ends before its weights: get both files again, from one export")
        start = self._place
        self._place += taken
        return self._content[start : start + count]


def _size(shape: tuple[int, ...]) -> int:
    if min(shape, default=0) < 0:
        raise ValueError(f"a weight of {list(shape)}")
    return prod(shape)
