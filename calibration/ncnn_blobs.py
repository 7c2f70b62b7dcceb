"""Writes an ONNX graph from NCNN's layers and tracks the shape of each blob."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calibration.ncnn_file import Layer

Shape = tuple[int, ...]


class Blobs:
    """NCNN's blobs by name, with ONNX tensor and shape without the batch."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._tensors: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}
        self._count = 0

    def _shape(self, layer: Layer, place: int = 0) -> Shape:
        return self._shapes[layer.inputs[place]]

    def _axis(self, layer: Layer, axis: int) -> int:
        rank = len(self._shape(layer))
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} of a blob of {rank} dimensions")
        return axis % rank

    def _node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        self._count += 1
        names = [f"{kind.lower()}_{self._count}" + (f"_{place}" if place else "") for place in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names[0]

    def _constant(self, value: Any, kind: type = np.float32) -> str:
        self._count += 1
        self._constants.append(numpy_helper.from_array(np.asarray(value, kind), f"constant_{self._count}"))
        return f"constant_{self._count}"

    def _put(self, layer: Layer, tensor: str, shape: Shape) -> None:
        if min(shape) < 1:
            raise ValueError(f"gives a blob of {list(shape)}: the input is too small, or the file damaged")
        (output,) = layer.outputs
        self._tensors[output], self._shapes[output] = tensor, shape

    def _same(self, layer: Layer, kind: str, **attributes: Any) -> None:
        """Adds a node with one operand that keeps its shape."""
        self._put(layer, self._node(kind, [self._tensors[layer.inputs[0]]], **attributes), self._shape(layer))

    def _reshaped(self, tensor: str, shape: Shape) -> str:
        return self._node("Reshape", [tensor, self._constant([0, *shape], np.int64)])

    def _shaped(self, layer: Layer, shape: Shape) -> None:
        if prod(shape) != prod(self._shape(layer)):
            raise ValueError(f"makes {list(shape)} of {list(self._shape(layer))}")
        self._put(layer, self._reshaped(self._tensors[layer.inputs[0]], shape), shape)

    def _activated(self, tensor: str, kind: int, values: Sequence[float]) -> str:
        """Adds a layer's activation by number."""
        match kind:
            case 0:
                return tensor
            case 1:
                return self._node("Relu", [tensor])
            case 2:
                return self._node("LeakyRelu", [tensor], alpha=values[0])
            case 3:
                return self._node("Clip", [tensor, self._constant(values[0]), self._constant(values[1])])
            case 4:
                return self._node("Sigmoid", [tensor])
            case 5:
                return self._node("Mul", [tensor, self._node("Tanh", [self._node("Softplus", [tensor])])])
            case 6:
                gate = self._node("HardSigmoid", [tensor], alpha=values[0], beta=values[1])
                return self._node("Mul", [tensor, gate])
        raise ValueError(f"an activation of kind {kind} isn't read")

    def _active(self, layer: Layer, kind: int, values: Sequence[float]) -> None:
        self._put(layer, self._activated(self._tensors[layer.inputs[0]], kind, values), self._shape(layer))
