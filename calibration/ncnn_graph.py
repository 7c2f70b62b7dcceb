"""Converts the NCNN layers of NanoDet models to ONNX nodes.

NCNN's blobs, (channels, height, width), (height, width) or (width), get a batch dimension in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from calibration.ncnn_file import Layer, Weights, read_layers
from calibration.ncnn_rearranging import Rearranging
from streamer.common.errors import ModelError, counted

COLOURS = 3
_OPSET, _IR_VERSION = 17, 8
_SAME_UPPER, _SAME_LOWER, _REST = -233, -234, -233
_COPIES = {"Split", "Noop", "Dropout"}
_PLAIN = {"Sigmoid": "Sigmoid", "TanH": "Tanh", "AbsVal": "Abs", "Softplus": "Softplus"}
_BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sub", "Div")
_REVERSED = (7, 8)
_UNARY = {0: "Abs", 1: "Neg", 2: "Floor", 3: "Ceil", 5: "Sqrt", 7: "Exp", 8: "Log", 15: "Reciprocal", 16: "Tanh"}


def read_ncnn(path: Path, size_wh: tuple[int, int] | None) -> onnx.ModelProto:
    """Reads an NCNN model as an ONNX graph.

    Args:
        path: the ``.param`` file; the ``.bin`` file is beside it.
        size_wh: input (width, height) in pixels; None uses the file's.

    Raises:
        ModelError: a file is unreadable or damaged, a layer isn't supported, or the size is unknown.
    """
    layers, weights = read_layers(path), Weights(path.with_suffix(".bin"))
    writer = _Writer(weights, size_wh)
    for layer in layers:
        try:
            writer.add(layer)
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:
            raise ModelError(f"{str(path)!r}: layer {layer.name!r} ({layer.kind}): {error}") from None
    if weights.left:
        raise ModelError(
            f"{str(path)!r} leaves {counted(weights.left, 'byte')} of its .bin file unread: the two don't belong"
            " together"
        )
    try:
        return writer.model()
    except Exception as error:  # checks raise many types
        raise ModelError(f"{str(path)!r} is damaged ({str(error).strip().splitlines()[0]})") from None


class _Writer(Rearranging):
    """Converts one layer after another."""

    def __init__(self, weights: Weights, size_wh: tuple[int, int] | None) -> None:
        super().__init__()
        self._weights = weights
        self._size_wh = size_wh
        self._inputs: list[onnx.ValueInfoProto] = []
        self._read: set[str] = set()
        self._own: dict[str, Callable[[Layer], None]] = {
            "Input": self._input,
            "MemoryData": self._memory,
            "Convolution": self._convolution,
            "ConvolutionDepthWise": self._convolution,
            "InnerProduct": self._inner_product,
            "BatchNorm": self._batch_norm,
            "Scale": self._scale,
            "Bias": self._bias,
            "Pooling": self._pooling,
            "Interp": self._interp,
            "Concat": self._concat,
            "Slice": self._slice,
            "Crop": self._crop,
            "ShuffleChannel": self._shuffle,
            "Reshape": self._reshape,
            "Flatten": lambda layer: self._shaped(layer, (prod(self._shape(layer)),)),
            "Permute": self._permute,
            "BinaryOp": self._binary,
            "Eltwise": self._eltwise,
            "UnaryOp": self._unary,
            "ReLU": self._relu,
            "PReLU": self._prelu,
            "Clip": lambda layer: self._active(layer, 3, (layer.number(0, -3.4e38), layer.number(1, 3.4e38))),
            "Mish": lambda layer: self._active(layer, 5, ()),
            "HardSwish": lambda layer: self._active(layer, 6, (layer.number(0, 0.2), layer.number(1, 0.5))),
            "HardSigmoid": lambda layer: self._same(
                layer, "HardSigmoid", alpha=layer.number(0, 0.2), beta=layer.number(1, 0.5)
            ),
            "Swish": self._swish,
            "ELU": lambda layer: self._same(layer, "Elu", alpha=layer.number(0, 0.1)),
            "SELU": lambda layer: self._same(
                layer, "Selu", alpha=layer.number(0, 1.67326324), gamma=layer.number(1, 1.050700987)
            ),
            "GELU": self._gelu,
            "Softmax": lambda layer: self._same(layer, "Softmax", axis=1 + self._axis(layer, layer.whole(0))),
            "Padding": self._padding,
            "Reduction": self._reduction,
        }

    def add(self, layer: Layer) -> None:
        """Converts a layer; raises ValueError if it isn't supported."""
        self._read.update(layer.inputs)
        if layer.kind in _COPIES:
            if layer.kind == "Dropout" and layer.number(0, 1) != 1:
                raise ValueError("a Dropout that scales isn't read")
            for output in layer.outputs:
                self._tensors[output] = self._tensors[layer.inputs[0]]
                self._shapes[output] = self._shapes[layer.inputs[0]]
        elif layer.kind in _PLAIN:
            self._same(layer, _PLAIN[layer.kind])
        elif layer.kind in self._own:
            self._own[layer.kind](layer)
        else:
            raise ValueError("isn't a layer that is read: export the model to ONNX where it was made")

    def model(self) -> onnx.ModelProto:
        """Returns the graph; outputs are the blobs without a reader."""
        outputs = []
        for blob, shape in self._shapes.items():
            if blob not in self._read:
                self._nodes.append(helper.make_node("Identity", [self._tensors[blob]], [blob]))
                outputs.append(helper.make_tensor_value_info(blob, TensorProto.FLOAT, ["batch", *shape]))
        graph = helper.make_graph(self._nodes, "ncnn", self._inputs, outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _input(self, layer: Layer) -> None:
        width, height = self._size_wh or (layer.whole(0), layer.whole(1))
        if not width or not height:
            raise ValueError("the file doesn't say its input's size: give --input-size, or a description")
        (blob,) = layer.outputs
        self._tensors[blob], self._shapes[blob] = blob, (COLOURS, height, width)
        self._inputs.append(helper.make_tensor_value_info(blob, TensorProto.FLOAT, ["batch", COLOURS, height, width]))

    def _memory(self, layer: Layer) -> None:
        shape = tuple(size for size in (layer.whole(2), layer.whole(1), layer.whole(0)) if size)
        self._put(layer, self._constant(self._weights.plain(*shape)[None]), shape)

    def _convolution(self, layer: Layer) -> None:
        if layer.whole(8):
            raise ValueError("is quantised to INT8, which isn't read: import the float model, then quantize that")
        if layer.whole(19) or layer.number(18):
            raise ValueError("a computed weight, or padding by other than 0, isn't read")
        groups = layer.whole(7, 1) if layer.kind == "ConvolutionDepthWise" else 1
        wide, kernel = layer.whole(0), _pair(layer, 11, 1)
        shape = self._shape(layer)
        shape = shape if len(shape) == 3 else (prod(shape), 1, 1)
        weight = self._weights.tagged(wide, layer.whole(6) // (wide * prod(kernel)), *kernel)
        inputs = [self._tensors[layer.inputs[0]], self._constant(weight)]
        if len(self._shape(layer)) != 3:
            inputs[0] = self._reshaped(inputs[0], shape)
        if layer.whole(5):
            inputs.append(self._constant(self._weights.plain(wide)))
        dilations, strides = _pair(layer, 12, 2, 1), _pair(layer, 13, 3, 1)
        spans = [dilation * (side - 1) + 1 for dilation, side in zip(dilations, kernel, strict=True)]
        pads, size = _padded(layer, shape[1:], spans, strides, 4)
        made = self._node("Conv", inputs, group=groups, dilations=dilations, strides=strides, **pads)
        made = self._activated(made, layer.whole(9), layer.array(10))
        after = (wide, *size)
        if len(self._shape(layer)) != 3:
            after, made = (wide,), self._reshaped(made, (wide,))
        self._put(layer, made, after)

    def _inner_product(self, layer: Layer) -> None:
        if layer.whole(8):
            raise ValueError("is quantised to INT8, which isn't read: import the float model, then quantize that")
        wide, deep = layer.whole(0), prod(self._shape(layer))
        weight = self._weights.tagged(wide, layer.whole(2) // wide)
        inputs = [self._reshaped(self._tensors[layer.inputs[0]], (deep,)), self._constant(weight)]
        if layer.whole(1):
            inputs.append(self._constant(self._weights.plain(wide)))
        made = self._node("Gemm", inputs, transB=1)
        self._put(layer, self._activated(made, layer.whole(9), layer.array(10)), (wide,))

    def _relu(self, layer: Layer) -> None:
        slope = layer.number(0)
        self._active(layer, 2 if slope else 1, (slope,))

    def _prelu(self, layer: Layer) -> None:
        slope = self._weights.plain(layer.whole(0)).reshape(-1, *[1] * (len(self._shape(layer)) - 1))
        self._put(
            layer, self._node("PRelu", [self._tensors[layer.inputs[0]], self._constant(slope)]), self._shape(layer)
        )

    def _swish(self, layer: Layer) -> None:
        given = self._tensors[layer.inputs[0]]
        self._put(layer, self._node("Mul", [given, self._node("Sigmoid", [given])]), self._shape(layer))

    def _gelu(self, layer: Layer) -> None:
        if layer.whole(0):
            raise ValueError("an approximated GELU isn't read")
        given = self._tensors[layer.inputs[0]]
        part = self._node("Erf", [self._node("Mul", [given, self._constant(1 / np.sqrt(2))])])
        half = self._node("Mul", [given, self._constant(0.5)])
        whole = self._node("Add", [part, self._constant(1)])
        self._put(layer, self._node("Mul", [half, whole]), self._shape(layer))

    def _by_channel(self, layer: Layer, values: np.ndarray) -> str:
        return self._constant(values.reshape(-1, *[1] * (len(self._shape(layer)) - 1)))

    def _batch_norm(self, layer: Layer) -> None:
        slope, mean, variance, bias = (self._weights.plain(layer.whole(0)) for _ in range(4))
        factor = slope / np.sqrt(variance + layer.number(1))
        scaled = self._node("Mul", [self._tensors[layer.inputs[0]], self._by_channel(layer, factor)])
        moved = self._node("Add", [scaled, self._by_channel(layer, bias - mean * factor)])
        self._put(layer, moved, self._shape(layer))

    def _scale(self, layer: Layer) -> None:
        if layer.whole(0) == _REST:
            self._combine(layer, "Mul")
            return
        made = self._node(
            "Mul", [self._tensors[layer.inputs[0]], self._by_channel(layer, self._weights.plain(layer.whole(0)))]
        )
        if layer.whole(1):
            made = self._node("Add", [made, self._by_channel(layer, self._weights.plain(layer.whole(0)))])
        self._put(layer, made, self._shape(layer))

    def _bias(self, layer: Layer) -> None:
        bias = self._by_channel(layer, self._weights.plain(layer.whole(0)))
        self._put(layer, self._node("Add", [self._tensors[layer.inputs[0]], bias]), self._shape(layer))

    def _pooling(self, layer: Layer) -> None:
        wide, *size = self._shape(layer)
        average, given = layer.whole(0) == 1, [self._tensors[layer.inputs[0]]]
        if layer.whole(4) or (layer.whole(7) and (layer.whole(8), layer.whole(18, layer.whole(8))) == (1, 1)):
            made = self._node("GlobalAveragePool" if average else "GlobalMaxPool", given)
            if layer.whole(4):
                self._put(layer, self._reshaped(made, (wide,)), (wide,))
            else:
                self._put(layer, made, (wide, 1, 1))
            return
        if layer.whole(7):
            raise ValueError("an adaptive pooling to other than 1x1 isn't read")
        kernel, strides, mode = _pair(layer, 11, 1), _pair(layer, 12, 2, 1), layer.whole(5)
        if mode in (2, 3):
            pads: dict[str, Any] = {"auto_pad": "SAME_UPPER" if mode == 2 else "SAME_LOWER"}
            after = [ceil(side / stride) for side, stride in zip(size, strides, strict=True)]
        else:
            rounded = ceil if mode == 0 else floor
            left, top = layer.whole(3), layer.whole(13, layer.whole(3))
            ends = [top, left, layer.whole(15, top), layer.whole(14, left)]
            pads = {"pads": ends, "ceil_mode": int(mode == 0)}
            after = [
                rounded((side + ends[place] + ends[place + 2] - kernel[place]) / strides[place]) + 1
                for place, side in enumerate(size)
            ]
        if average:
            pads["count_include_pad"] = layer.whole(6)
        kind = "AveragePool" if average else "MaxPool"
        self._put(layer, self._node(kind, given, kernel_shape=kernel, strides=strides, **pads), (wide, *after))

    def _binary(self, layer: Layer) -> None:
        kind = layer.whole(0)
        if len(layer.inputs) == 2:
            self._combine(layer, _BINARY[kind], swapped=kind in _REVERSED)
            return
        operands = [self._tensors[layer.inputs[0]], self._constant(layer.number(2))]
        self._put(
            layer, self._node(_BINARY[kind], operands[::-1] if kind in _REVERSED else operands), self._shape(layer)
        )

    def _combine(self, layer: Layer, kind: str, *, swapped: bool = False) -> None:
        """Adds a node with two operands; a blob of one dimension has a value for each channel of the other."""
        shapes = [self._shape(layer, place) for place in (0, 1)]
        rank = max(map(len, shapes))
        operands = []
        for place, shape in enumerate(shapes):
            if len(shape) not in (1, rank):
                raise ValueError(f"combines blobs of {list(shapes[0])} and {list(shapes[1])}, which isn't read")
            shapes[place] = (*shape, *[1] * (rank - len(shape)))
            tensor = self._tensors[layer.inputs[place]]
            operands.append(tensor if len(shape) == rank else self._reshaped(tensor, shapes[place]))
        after = tuple(int(side) for side in np.broadcast_shapes(*shapes))
        self._put(layer, self._node(kind, operands[::-1] if swapped else operands), after)

    def _eltwise(self, layer: Layer) -> None:
        if any(factor != 1 for factor in layer.array(1)):
            raise ValueError("a sum with factors isn't read")
        kind = ("Mul", "Add", "Max")[layer.whole(0)]
        made = self._tensors[layer.inputs[0]]
        for blob in layer.inputs[1:]:
            made = self._node(kind, [made, self._tensors[blob]])
        self._put(layer, made, self._shape(layer))

    def _unary(self, layer: Layer) -> None:
        if layer.whole(0) not in _UNARY:
            raise ValueError(f"operation {layer.whole(0)} isn't read")
        self._same(layer, _UNARY[layer.whole(0)])


def _pair(layer: Layer, of_height: int, of_width: int, otherwise: int = 0) -> list[int]:
    """Returns (height, width) parameters, where height defaults to width; raises ValueError if one is less than 1."""
    width = layer.whole(of_width, otherwise)
    found = [layer.whole(of_height, width), width]
    if min(found) < 1:
        raise ValueError(f"parameters {of_height} and {of_width} are {found}")
    return found


def _padded(
    layer: Layer, size: Sequence[int], spans: Sequence[int], strides: Sequence[int], first: int
) -> tuple[dict[str, Any], list[int]]:
    """Returns a convolution's padding as ONNX attributes, and its output size."""
    left = layer.whole(first)
    if left in (_SAME_UPPER, _SAME_LOWER):
        how = "SAME_UPPER" if left == _SAME_UPPER else "SAME_LOWER"
        return {"auto_pad": how}, [ceil(side / stride) for side, stride in zip(size, strides, strict=True)]
    top = layer.whole(14, left)
    ends = [top, left, layer.whole(16, top), layer.whole(15, left)]
    after = [(side + ends[i] + ends[i + 2] - spans[i]) // strides[i] + 1 for i, side in enumerate(size)]
    return {"pads": ends}, after
