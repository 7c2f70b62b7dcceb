"""Converts NCNN layers that rearrange, resize or reduce blobs."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from calibration.ncnn_blobs import Blobs
from calibration.ncnn_file import Layer

_REST = -233
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_REDUCTIONS = {0: "ReduceSum", 3: "ReduceMean", 4: "ReduceMax", 5: "ReduceMin"}


class Rearranging(Blobs):
    """Converts such layers."""

    def _interp(self, layer: Layer) -> None:
        if layer.whole(5) or len(layer.inputs) > 1:
            raise ValueError("a computed size isn't read")
        wide, *size = self._shape(layer)
        after = [
            layer.whole(key) or int(side * layer.number(scale, 1))
            for key, scale, side in zip((3, 4), (1, 2), size, strict=True)
        ]
        how: dict[str, Any] = {"mode": {1: "nearest", 2: "linear", 3: "cubic"}[layer.whole(0)]}
        if how["mode"] == "nearest":
            how |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        elif layer.whole(6):
            how["coordinate_transformation_mode"] = "align_corners"
        scales = self._constant([1, 1, *(new / side for new, side in zip(after, size, strict=True))])
        self._put(layer, self._node("Resize", [self._tensors[layer.inputs[0]], "", scales], **how), (wide, *after))

    def _concat(self, layer: Layer) -> None:
        axis = self._axis(layer, layer.whole(0))
        shape = list(self._shape(layer))
        shape[axis] = sum(self._shapes[blob][axis] for blob in layer.inputs)
        made = self._node("Concat", [self._tensors[blob] for blob in layer.inputs], axis=axis + 1)
        self._put(layer, made, tuple(shape))

    def _slice(self, layer: Layer) -> None:
        axis, shape = self._axis(layer, layer.whole(1)), list(self._shape(layer))
        wanted = [int(size) for size in layer.array(0)]
        if layer.array(2):  # positions rather than sizes
            cuts = [int(cut) % shape[axis] for cut in layer.array(2)]
            wanted = [stop - start for start, stop in zip([0, *cuts], [*cuts, shape[axis]], strict=True)]
        sizes: list[int] = []
        for place, size in enumerate(wanted):
            rest = shape[axis] - sum(sizes)
            sizes.append(rest // (len(wanted) - place) if size == _REST else size)
        if len(sizes) != len(layer.outputs) or min(sizes) < 1 or sum(sizes) != shape[axis]:
            raise ValueError(f"cuts {shape[axis]} into {sizes}")
        inputs = [self._tensors[layer.inputs[0]], self._constant(sizes, np.int64)]
        first = self._node("Split", inputs, len(sizes), axis=axis + 1)
        for place, (output, size) in enumerate(zip(layer.outputs, sizes, strict=True)):
            self._tensors[output] = f"{first}_{place}" if place else first
            self._shapes[output] = tuple(size if index == axis else one for index, one in enumerate(shape))

    def _crop(self, layer: Layer) -> None:
        shape = list(self._shape(layer))
        starts, ends, axes = layer.array(9), layer.array(10), layer.array(11)
        if not starts or len(layer.inputs) > 1:
            raise ValueError("a Crop without starts and ends isn't read")
        places = [self._axis(layer, int(axis)) for axis in axes] if axes else list(range(len(starts)))
        cut: list[list[int]] = []
        for place, start, end in zip(places, starts, ends, strict=True):
            side = shape[place]
            first = 0 if int(start) == _REST else int(start)
            last = side if int(end) == _REST else int(end)
            first, last = (max(0, one + side) if one < 0 else min(one, side) for one in (first, last))
            cut.append([first, last, place + 1])
            shape[place] = last - first
        operands = [self._constant(column, np.int64) for column in zip(*cut, strict=True)]
        self._put(layer, self._node("Slice", [self._tensors[layer.inputs[0]], *operands]), tuple(shape))

    def _shuffle(self, layer: Layer) -> None:
        wide, height, width = self._shape(layer)
        groups = layer.whole(0, 1)
        groups = wide // groups if layer.whole(1) else groups
        parted = self._reshaped(self._tensors[layer.inputs[0]], (groups, wide // groups, height * width))
        mixed = self._node("Transpose", [parted], perm=[0, 2, 1, 3])
        self._put(layer, self._reshaped(mixed, (wide, height, width)), (wide, height, width))

    def _reshape(self, layer: Layer) -> None:
        before = self._shape(layer)
        kept = dict(zip((2, 1, 0), [0] * (3 - len(before)) + list(before), strict=True))
        wanted = {key: layer.whole(key, _REST) for key in (2, 1, 0)}
        shape = [kept[key] if size == 0 else size for key, size in wanted.items() if size != _REST]
        if layer.whole(11, _REST) != _REST or (layer.whole(3) and len(shape) > 1):
            raise ValueError("of another layout, it isn't read")
        if -1 in shape:
            shape[shape.index(-1)] = prod(before) // prod(size for size in shape if size != -1)
        if layer.whole(3) and len(before) == 3:
            given = self._node("Transpose", [self._tensors[layer.inputs[0]]], perm=[0, 2, 3, 1])
            self._put(layer, self._reshaped(given, (prod(before),)), (prod(before),))
            return
        self._shaped(layer, tuple(shape))

    def _permute(self, layer: Layer) -> None:
        shape = self._shape(layer)
        order = _ORDERS[layer.whole(0)] if len(shape) == 3 else ((0, 1), (1, 0))[layer.whole(0)]
        made = self._node("Transpose", [self._tensors[layer.inputs[0]]], perm=[0, *(axis + 1 for axis in order)])
        self._put(layer, made, tuple(shape[axis] for axis in order))

    def _padding(self, layer: Layer) -> None:
        if layer.whole(4) or layer.whole(6):
            raise ValueError("a padding by other than one value isn't read")
        wide, height, width = self._shape(layer)
        top, bottom, left, right, front, behind = (layer.whole(key) for key in (0, 1, 2, 3, 7, 8))
        pads = self._constant([0, front, top, left, 0, behind, bottom, right], np.int64)
        made = self._node("Pad", [self._tensors[layer.inputs[0]], pads, self._constant(layer.number(5))])
        self._put(layer, made, (wide + front + behind, height + top + bottom, width + left + right))

    def _reduction(self, layer: Layer) -> None:
        if layer.whole(0) not in _REDUCTIONS or layer.number(2, 1) != 1:
            raise ValueError(f"operation {layer.whole(0)} isn't read")
        shape = self._shape(layer)
        axes = sorted({self._axis(layer, int(axis)) for axis in layer.array(3)}) or list(range(len(shape)))
        if layer.whole(1, 1):
            axes = list(range(len(shape)))
        kept = layer.whole(4)
        after = tuple(1 if axis in axes else side for axis, side in enumerate(shape) if kept or axis not in axes)
        given, kind = self._tensors[layer.inputs[0]], _REDUCTIONS[layer.whole(0)]
        places = [axis + 1 for axis in axes]
        if kind == "ReduceSum":
            made = self._node(kind, [given, self._constant(places, np.int64)], keepdims=kept)
        else:
            made = self._node(kind, [given], axes=places, keepdims=kept)
        self._put(layer, made, after)
