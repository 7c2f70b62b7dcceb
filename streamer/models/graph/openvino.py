"""Translates graphs that OpenVINO reads (IR, TFLite) to ONNX, operation by operation.

Operations that detectors don't use are refused. FakeQuantize becomes a Q/DQ pair and integer weights a
DequantizeLinear, so a quantised IR becomes a quantised ONNX model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from streamer.common.errors import ModelError
from streamer.models.graph.openvino_values import Values
from streamer.models.graph.openvino_writer import GraphWriter

_RENAMED = {
    **{name: name for name in ("Abs", "Add", "Equal", "Erf", "Exp", "Floor", "Greater", "Less", "Log", "Relu")},
    **{name: name for name in ("Sigmoid", "Sign", "Sqrt", "Tanh")},
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "Power": "Pow",
    "Maximum": "Max",
    "Minimum": "Min",
    "Negative": "Neg",
    "Ceiling": "Ceil",
    "HSwish": "HardSwish",
    "SoftPlus": "Softplus",
    "Select": "Where",
}
_ONE_ATTRIBUTE = {"Concat": "axis", "Elu": "alpha", "Softmax": "axis"}
_SHAPED = {"Reshape": "Reshape", "Broadcast": "Expand", "Tile": "Tile"}
_AUTO_PADS = {"same_upper": "SAME_UPPER", "same_lower": "SAME_LOWER", "valid": "VALID"}
_END = np.iinfo(np.int64).max
_HEAD = 4096


def read_ir(graph: bytes, weights: bytes) -> onnx.ModelProto:
    """Reads an IR, the content of its ``.xml`` and ``.bin``, as an ONNX graph.

    The description in the IR of a file of ours becomes metadata.

    Raises:
        ModelError: as `read_openvino`.
    """
    if not re.search(rb"<net[\s>]", graph[:_HEAD]):
        raise ModelError("is no OpenVINO IR, whose XML begins with <net>")
    return _translated(graph, weights)


def read_openvino(path: Path) -> onnx.ModelProto:
    """Reads another file that OpenVINO reads, such as TFLite, as an ONNX graph.

    Raises:
        ModelError: OpenVINO isn't installed or can't read the file, or an operation isn't supported; the message
            continues the file's name.
    """
    return _translated(str(path))


def _translated(*source: str | bytes) -> onnx.ModelProto:
    try:
        from streamer.common.openvino_core import shared_core
    except ImportError:
        raise ModelError("is for OpenVINO, which isn't installed: pip install openvino") from None
    try:
        return _Translator(shared_core().read_model(*source)).model()
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"can't be read by OpenVINO: {lines[-1].strip()}") from error


class _Translator:
    """Translates a graph's operations in order."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._values = Values()
        self._write = GraphWriter(network, self._values)
        self._done: set[str] = set()  # translated together with another operation
        self._own: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("Convolution", "GroupConvolution"), self._convolution),
            "PRelu": self._prelu,
            "Clamp": self._clamp,
            "Swish": self._swish,
            "Mish": self._mish,
            "HSigmoid": lambda op: self._unary(op, "HardSigmoid", alpha=1 / 6, beta=0.5),
            "Selu": self._selu,
            "Gelu": self._gelu,
            "Round": self._round,
            **dict.fromkeys(("MaxPool", "AvgPool"), self._pool),
            **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"), self._reduce),
            "Interpolate": self._interpolate,
            **dict.fromkeys(("Split", "VariadicSplit"), self._split),
            "Transpose": self._transpose,
            **dict.fromkeys(("Squeeze", "Unsqueeze"), self._with_axes),
            "Slice": self._slice,
            "StridedSlice": self._strided_slice,
            "Gather": self._gather,
            "ShapeOf": self._shape_of,
            "Convert": lambda op: self._unary(op, "Cast", to=self._write.kind_of(op.output(0))),
            "Pad": self._pad,
            "MatMul": self._matmul,
            "FakeQuantize": self._fake_quantize,
            "ShuffleChannels": self._shuffle_channels,
        }

    def model(self) -> onnx.ModelProto:
        """Returns the whole graph."""
        for op in self._network.get_ordered_ops():
            kind = op.get_type_name()
            if kind in ("Parameter", "Result") or op.get_name() in self._done or self._values.are_of(op):
                continue
            if kind in _RENAMED:
                self._put(op, _RENAMED[kind], self._inputs(op))
            elif kind in _ONE_ATTRIBUTE:
                name = _ONE_ATTRIBUTE[kind]
                self._put(op, kind, self._inputs(op), **{name: op.get_attributes()[name]})
            elif kind in _SHAPED:
                self._put(op, _SHAPED[kind], [self._input(op, 0), self._shape(op, 1)])
            elif kind in self._own:
                self._own[kind](op)
            else:
                raise self._refused(op, f"the operation {kind}")
        return self._write.model()

    def _refused(self, op: Any, what: str) -> ModelError:
        name = op.get_friendly_name()
        return ModelError(f"holds {what} ({name!r}), which is not read: use the ONNX file that it was made from")

    def _put(self, op: Any, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        self._write.put(op, kind, inputs, **attributes)

    def _unary(self, op: Any, kind: str, **attributes: Any) -> None:
        self._put(op, kind, [self._input(op, 0)], **attributes)

    def _input(self, op: Any, place: int) -> str:
        return self._write.tensor(op.input_value(place))

    def _inputs(self, op: Any) -> list[str]:
        return [self._input(op, place) for place in range(op.get_input_size())]

    def _shape(self, op: Any, place: int) -> str:
        """Returns an operand as int64, as ONNX wants shapes and axes."""
        return self._write.integers(op.input_value(place))

    def _value(self, op: Any, place: int) -> np.ndarray:
        """Returns a constant operand; raises ModelError if it isn't constant."""
        value = self._values.of(op.input_value(place)) if op.get_input_size() > place else None
        if value is None:
            raise self._refused(op, f"{op.get_type_name()} with a computed operand")
        return value

    def _list(self, op: Any, place: int) -> list[int]:
        return [int(one) for one in self._value(op, place).reshape(-1)]

    def _size(self, op: Any, place: int = 0) -> list[int]:
        """Returns an operand's dimensions, -1 for each that is open."""
        return [int(one.get_length()) if one.is_static else -1 for one in op.input_value(place).get_partial_shape()]

    # --- layers

    def _convolution(self, op: Any) -> None:
        attributes = op.get_attributes()
        inputs = [self._input(op, 0), self._weight(op)]
        port = op.output(0)
        readers = list(port.get_target_inputs())
        adder = readers[0].get_node() if len(readers) == 1 else None
        if adder is not None and adder.get_type_name() == "Add":
            other = adder.input_value(1 if readers[0].get_index() == 0 else 0)
            bias = self._values.of(other)
            wide = port.get_partial_shape()[1]
            if bias is not None and wide.is_static and bias.shape[1:2] == (wide.get_length(),) == (bias.size,):
                inputs.append(self._write.constant(bias.reshape(-1), f"{op.get_friendly_name()}.bias"))
                self._done.add(adder.get_name())
                op = adder
        strides, dilations, pads = attributes["strides"], attributes["dilations"], self._pads(attributes)
        self._put(op, "Conv", inputs, group=self._groups, strides=strides, dilations=dilations, **pads)

    def _weight(self, op: Any) -> str:
        """Returns a convolution's weight, (O, I / groups, h, w), and notes its groups."""
        port = op.input_value(1)
        size = [int(one) for one in port.get_shape()]
        grouped = op.get_type_name() == "GroupConvolution"
        self._groups = size[0] if grouped else 1
        size = [size[0] * size[1], *size[2:]] if grouped else size
        name = f"{op.get_friendly_name()}.weight"
        stored = self._values.integers_of(port)
        if stored is not None and stored.is_of_leading(2 if grouped else 1):
            return self._write.dequantized(stored, size, name)
        value = self._values.of(port)
        if value is not None:
            return self._write.constant(value.reshape(size), name)
        return self._write.node("Reshape", [self._write.tensor(port), self._write.constant(np.array(size), "size")])

    def _pads(self, attributes: dict[str, Any]) -> dict[str, Any]:
        how = str(attributes.get("auto_pad", "explicit")).lower()
        if how in _AUTO_PADS:
            return {"auto_pad": _AUTO_PADS[how]}
        return {"pads": [*attributes["pads_begin"], *attributes["pads_end"]]}

    def _pool(self, op: Any) -> None:
        attributes = op.get_attributes()
        more = {} if op.get_type_name() == "AvgPool" else {"dilations": attributes.get("dilations", [1, 1])}
        if op.get_type_name() == "AvgPool":
            more["count_include_pad"] = int(not attributes["exclude-pad"])
        ceiled = int(str(attributes["rounding_type"]).lower().startswith("ceil"))
        kind = {"MaxPool": "MaxPool", "AvgPool": "AveragePool"}[op.get_type_name()]
        self._unary(op, kind, kernel_shape=attributes["kernel"], strides=attributes["strides"], ceil_mode=ceiled,
                    **more, **self._pads(attributes))  # fmt: skip

    def _prelu(self, op: Any) -> None:
        slope = self._value(op, 1)
        if slope.size == 1:
            self._unary(op, "LeakyRelu", alpha=float(slope.reshape(-1)[0]))
            return
        rank = len(self._size(op))
        shaped = slope.reshape(-1, *[1] * (rank - 2)) if slope.ndim == 1 else slope
        self._put(op, "PRelu", [self._input(op, 0), self._write.constant(shaped, "slope")])

    def _clamp(self, op: Any) -> None:
        attributes = op.get_attributes()
        ends = [self._write.constant(np.float32(attributes[key]), key) for key in ("min", "max")]
        self._put(op, "Clip", [self._input(op, 0), *ends])

    def _swish(self, op: Any) -> None:
        given = self._input(op, 0)
        beta = self._input(op, 1) if op.get_input_size() > 1 else ""
        scaled = self._write.node("Mul", [given, beta]) if beta else given
        self._put(op, "Mul", [given, self._write.node("Sigmoid", [scaled])])

    def _mish(self, op: Any) -> None:
        given = self._input(op, 0)
        self._put(op, "Mul", [given, self._write.node("Tanh", [self._write.node("Softplus", [given])])])

    def _selu(self, op: Any) -> None:
        alpha, gamma = (float(self._value(op, place).reshape(-1)[0]) for place in (1, 2))
        self._unary(op, "Selu", alpha=alpha, gamma=gamma)

    def _gelu(self, op: Any) -> None:
        if str(op.get_attributes().get("approximation_mode", "ERF")).upper() != "ERF":
            raise self._refused(op, "an approximated Gelu")
        given = self._input(op, 0)
        root, one, half = (self._write.constant(np.float32(each), "gelu") for each in (1 / np.sqrt(2), 1, 0.5))
        part = self._write.node("Erf", [self._write.node("Mul", [given, root])])
        whole = self._write.node("Add", [part, one])
        self._put(op, "Mul", [self._write.node("Mul", [given, half]), whole])

    def _round(self, op: Any) -> None:
        if str(op.get_attributes().get("mode", "half_to_even")).lower() != "half_to_even":
            raise self._refused(op, "Round away from zero")
        self._unary(op, "Round")

    def _reduce(self, op: Any) -> None:
        kept = int(op.get_attributes()["keep_dims"])
        if op.get_type_name() == "ReduceSum":
            self._put(op, "ReduceSum", [self._input(op, 0), self._shape(op, 1)], keepdims=kept)
        else:
            self._unary(op, op.get_type_name(), axes=self._list(op, 1), keepdims=kept)

    def _interpolate(self, op: Any) -> None:
        attributes = op.get_attributes()
        mode = {"nearest": "nearest", "linear": "linear", "linear_onnx": "linear", "cubic": "cubic"}.get(
            str(attributes["mode"]).lower()
        )
        if mode is None or any(attributes.get("pads_begin", [])) or any(attributes.get("pads_end", [])):
            raise self._refused(op, "an Interpolate of another kind")
        if "shape_calculation_mode" not in attributes:
            raise self._refused(op, "an Interpolate of operator set 1")
        by_sizes = str(attributes["shape_calculation_mode"]).lower() == "sizes"
        latest = op.get_type_info().version_id == "opset11"
        operand, last = (1 if by_sizes or latest else 2), (2 if latest else 3)
        size = self._size(op)
        axes = self._list(op, last) if op.get_input_size() > last else list(range(len(size)))
        wanted = dict(zip(axes, self._value(op, operand).reshape(-1), strict=True))
        given = self._input(op, 0)
        if by_sizes:
            wanted = {axis: int(one) for axis, one in wanted.items()}
            inputs = [given, "", "", self._write.sizes(given, size, wanted)]
        else:
            scales = np.array([wanted.get(axis, 1) for axis in range(len(size))], np.float32)
            inputs = [given, "", self._write.constant(scales, "scales")]
        how = str(attributes["nearest_mode"]).lower()
        if how == "simple":
            how = "floor" if by_sizes or min(wanted.values()) >= 1 else "ceil"
        self._put(op, "Resize", inputs, mode=mode, nearest_mode=how, cubic_coeff_a=attributes["cube_coeff"],
                  coordinate_transformation_mode=str(attributes["coordinate_transformation_mode"]).lower())  # fmt: skip

    # --- rearrangements

    def _split(self, op: Any) -> None:
        axis = self._list(op, 1)[0]
        inputs = [self._input(op, 0)]
        if op.get_type_name() == "VariadicSplit":
            lengths = self._list(op, 2)
            if -1 in lengths:
                total = self._size(op)[axis]
                lengths[lengths.index(-1)] = total - sum(one for one in lengths if one > 0)
            inputs.append(self._write.constant(np.array(lengths, np.int64), "lengths"))
        self._put(op, "Split", inputs, axis=axis)

    def _transpose(self, op: Any) -> None:
        order = self._list(op, 1) or list(range(len(self._size(op))))[::-1]
        self._unary(op, "Transpose", perm=order)

    def _with_axes(self, op: Any) -> None:
        axes = [self._shape(op, 1)] if op.get_input_size() > 1 else []
        self._put(op, op.get_type_name(), [self._input(op, 0), *axes])

    def _slice(self, op: Any) -> None:
        starts, ends, steps = (self._shape(op, place) for place in (1, 2, 3))
        if op.get_input_size() > 4:
            axes = self._shape(op, 4)
        else:
            axes = self._write.constant(np.arange(int(op.input_value(1).get_shape()[0]), dtype=np.int64), "axes")
        self._put(op, "Slice", [self._input(op, 0), starts, ends, axes, steps])

    def _strided_slice(self, op: Any) -> None:
        attributes = op.get_attributes()
        if any(attributes.get("ellipsis_mask") or []) or any(attributes.get("new_axis_mask") or []):
            raise self._refused(op, "a StridedSlice with new axes")
        starts, ends = self._list(op, 1), self._list(op, 2)
        steps = self._list(op, 3) if op.get_input_size() > 3 else [1] * len(starts)

        def masked(key: str, place: int) -> bool:
            mask = attributes.get(key) or []
            return place < len(mask) and bool(mask[place])

        dropped = [place for place in range(len(starts)) if masked("shrink_axis_mask", place)]
        for place, step in enumerate(steps):
            if place in dropped:
                ends[place], steps[place] = (starts[place] + 1) or _END, 1
                continue
            if masked("begin_mask", place):
                starts[place] = 0 if step > 0 else _END
            if masked("end_mask", place):
                ends[place] = _END if step > 0 else -_END
        operands = [self._write.constant(np.array(one, np.int64), "slice")
                    for one in (starts, ends, list(range(len(starts))), steps)]  # fmt: skip
        inputs = [self._input(op, 0), *operands]
        if not dropped:
            self._put(op, "Slice", inputs)
            return
        axes = self._write.constant(np.array(dropped, np.int64), "axes")
        self._put(op, "Squeeze", [self._write.node("Slice", inputs), axes])

    def _gather(self, op: Any) -> None:
        if op.get_attributes().get("batch_dims", 0):
            raise self._refused(op, "a Gather in batches")
        self._put(op, "Gather", [self._input(op, 0), self._input(op, 1)], axis=self._list(op, 2)[0])

    def _shape_of(self, op: Any) -> None:
        said = self._write.node("Shape", [self._input(op, 0)])
        self._put(op, "Cast", [said], to=self._write.kind_of(op.output(0)))

    def _pad(self, op: Any) -> None:
        if str(op.get_attributes()["pad_mode"]).lower() != "constant":
            raise self._refused(op, "a Pad by other than a constant")
        pads = self._write.constant(np.array(self._list(op, 1) + self._list(op, 2), np.int64), "pads")
        value = [self._input(op, 3)] if op.get_input_size() > 3 else []
        self._put(op, "Pad", [self._input(op, 0), pads, *value])

    def _matmul(self, op: Any) -> None:
        attributes, operands = op.get_attributes(), []
        for place, key in enumerate(("transpose_a", "transpose_b")):
            operand = self._input(op, place)
            if attributes[key]:
                order = list(range(len(self._size(op, place))))
                operand = self._write.node("Transpose", [operand], perm=[*order[:-2], *order[:-3:-1]])
            operands.append(operand)
        self._put(op, "MatMul", operands)

    def _shuffle_channels(self, op: Any) -> None:
        attributes, size = op.get_attributes(), self._size(op)
        groups = attributes["group"]
        if attributes["axis"] not in (1, 1 - len(size)) or len(size) != 4 or -1 in size[1:]:
            raise self._refused(op, "a ShuffleChannels of other than channels")
        _, wide, height, width = size
        shape = self._write.constant(np.array([0, groups, wide // groups, height * width], np.int64), "shape")
        parted = self._write.node("Reshape", [self._input(op, 0), shape])
        mixed = self._write.node("Transpose", [parted], perm=[0, 2, 1, 3])
        after = self._write.constant(np.array([0, wide, height, width], np.int64), "shape")
        self._put(op, "Reshape", [mixed, after])

    # --- quantisation

    def _fake_quantize(self, op: Any) -> None:
        ranges = [np.asarray(self._value(op, place), np.float32) for place in range(1, 5)]
        self._write.quantize(op, self._input(op, 0), ranges, int(op.get_attributes()["levels"]))
