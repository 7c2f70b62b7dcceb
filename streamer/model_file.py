"""A NanoDet ONNX file, read once: its description, and the graph that the CPU engines run.

Our own exports describe themselves. A foreign one (the official export with one output, or one with a pair of outputs
for each stride) is brought into the same form with the help of a YAML description.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.checker import ValidationError

from streamer.errors import ConfigError, ModelError
from streamer.graph_constants import fold_constants
from streamer.int8 import is_quantized, quantize_convolution_outputs, use_uint8
from streamer.model_shapes import dimensions, shapes_of
from streamer.model_spec import ModelSpec
from streamer.qoperator import use_pairs

if TYPE_CHECKING:
    from onnx import ModelProto

FRAMES_INPUT = "frames"
OUTPUT = "output"
_PASS_THROUGH = {"Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"}


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model in the form every engine takes.

    Attributes:
        path: the file it was read from.
        sha256: of the file's bytes.
        spec: what preprocessing and decoding need to know.
        proto: one input (batch, 3, H, W) float32, normalised BGR; one output (batch, N, channels) float32, scores
            after sigmoid.
    """

    path: Path
    sha256: str
    spec: ModelSpec
    proto: ModelProto

    @cached_property
    def quantized(self) -> bool:
        """True when the graph holds INT8 Q/DQ nodes."""
        return is_quantized(self.proto)

    def with_uint8_input(
        self, *, activations: Literal["uint8", "int8"] = "uint8", convolution_outputs: bool = False
    ) -> bytes:
        """Returns the serialised graph with one input `frames` (batch, H, W, 3) uint8 BGR, normalisation inside.

        Args:
            activations: how those of an INT8 model are stored; the values are the same (see `streamer.int8`).
            convolution_outputs: quantise those of an INT8 model too, as ONNX Runtime needs; wants uint8 activations.

        Raises:
            ModelError: if an INT8 model is of a form that can't be adapted.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        if self.quantized and activations == "uint8":
            use_uint8(proto)
            if convolution_outputs:
                quantize_convolution_outputs(proto)
        graph = proto.graph
        image = graph.input[0]
        spec = self.spec
        width, height = spec.input_size_wh
        batch = image.type.tensor_type.shape.dim[0]
        scale = 1 / np.array(spec.std_bgr, np.float32)
        mean = np.array(spec.mean_bgr, np.float32)
        graph.initializer.append(numpy_helper.from_array(mean, "frames.mean"))
        graph.initializer.append(numpy_helper.from_array(scale, "frames.scale"))
        nodes = [
            helper.make_node("Cast", [FRAMES_INPUT], ["frames.float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["frames.float", "frames.mean"], ["frames.centred"]),
            helper.make_node("Mul", ["frames.centred", "frames.scale"], ["frames.normalised"]),
            helper.make_node("Transpose", ["frames.normalised"], [image.name], perm=[0, 3, 1, 2]),
        ]
        kept = list(graph.node)
        del graph.node[:]
        graph.node.extend(nodes + kept)
        size: list[int | str | None] = [batch.dim_param or batch.dim_value or "batch", height, width, 3]
        frames = helper.make_tensor_value_info(FRAMES_INPUT, TensorProto.UINT8, size)
        del graph.input[:]
        graph.input.append(frames)
        return proto.SerializeToString()


def load_model(path: Path, spec: ModelSpec | None = None) -> ModelFile:
    """Reads an ONNX file.

    Args:
        path: the file.
        spec: describes a foreign file; None takes the description from the file's own metadata.

    Raises:
        ModelError: if it can't be read, isn't ONNX, isn't a NanoDet, or doesn't fit its description.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"can't read the model {str(path)!r}: {error.strerror or error}") from error
    try:
        proto = onnx.load_model_from_string(data)
        if any(constant.data_location == TensorProto.EXTERNAL for constant in proto.graph.initializer):
            raise ModelError(f"{str(path)!r} keeps its weights in another file; make it one: onnx.save(onnx.load(...))")
        onnx.checker.check_model(proto)
    except (ValidationError, ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        raise ModelError(f"{str(path)!r} is not a readable ONNX file: {_first_line(error)}") from error
    except Exception as error:  # protobuf's DecodeError has no stable home
        if type(error).__name__ != "DecodeError":
            raise
        raise ModelError(f"{str(path)!r} is not an ONNX file (or was cut short): {_first_line(error)}") from error
    if spec is None:
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        try:
            spec = ModelSpec.from_metadata(metadata)
        except ModelError as error:
            raise ModelError(f"{str(path)!r}: {error}; a NanoDet from elsewhere needs --model-config") from error
    spec = _fit_input(proto, spec, path)
    try:
        _check_constants(proto)
        use_pairs(proto)
        _fit_output(proto, spec)
    except ModelError as error:
        raise ModelError(f"{str(path)!r} {error}") from None
    return ModelFile(path, hashlib.sha256(data).hexdigest(), spec, proto)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _fit_input(proto: ModelProto, spec: ModelSpec, path: Path) -> ModelSpec:
    """Checks the graph's input and returns `spec` with the input size that the graph really has."""
    constants = {constant.name for constant in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    shape = dimensions(inputs[0]) if len(inputs) == 1 else ()
    if len(shape) != 4 or shape[1] != 3 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        found = ", ".join(f"{v.name} {list(dimensions(v))}" for v in inputs) or "none"
        raise ModelError(f"{str(path)!r} is not a NanoDet: wanted one float32 input (batch, 3, H, W), found {found}")
    height, width = shape[2:]
    if not (height and width):
        return spec
    try:
        return spec.with_input_size((width, height))
    except ConfigError as error:
        raise ModelError(f"{str(path)!r} is not a NanoDet: {error}") from None


def _check_constants(proto: ModelProto) -> None:
    """Makes sure that every constant is as large as it says.

    Raises:
        ModelError: if one isn't; the message goes behind the file's name.
    """
    name = ""
    try:
        for constant in proto.graph.initializer:
            name = constant.name
            numpy_helper.to_array(constant)
        name = "of a node"
        fold_constants(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"is damaged at its constant {name!r} ({_first_line(error)})") from error


def _fit_output(proto: ModelProto, spec: ModelSpec) -> None:
    """Makes the graph end in one output (batch, N, channels), scores after sigmoid; checks it against `spec`.

    Raises:
        ModelError: if it doesn't fit; the message goes behind the file's name.
    """
    graph = proto.graph
    if len(graph.output) == 2 * len(spec.strides):
        _join_outputs(proto, spec)
    if len(graph.output) != 1:
        names = ", ".join(value.name for value in graph.output)
        wanted = f"one output or {2 * len(spec.strides)}"
        raise ModelError(f"is not a NanoDet: wanted {wanted} (two for each stride), found {names}")
    shape = shapes_of(proto, spec.input_size_wh).get(graph.output[0].name, ())
    wanted_shape = (1, spec.num_points, spec.output_channels)
    if len(shape) != 3 or any(got not in (0, want) for got, want in zip(shape, wanted_shape, strict=True)):
        raise ModelError(
            f"does not fit its description: wanted an output (batch, {spec.num_points} points, {spec.output_channels} "
            f"channels) for {spec.num_classes} labels, reg_max {spec.reg_max} and input {spec.input_size_wh[0]}x"
            f"{spec.input_size_wh[1]}, found {list(shape)}"
        )
    if not _has_sigmoid(proto, graph.output[0].name):
        _add_sigmoid(proto, spec)


def _join_outputs(proto: ModelProto, spec: ModelSpec) -> None:
    """Replaces (scores, distances) pairs by one output: points of all strides in order, scores then distances.

    An output may be (batch, points, channels) or (batch, channels, h, w); which pair belongs to which stride is told
    by its number of points.
    """
    graph = proto.graph
    known = shapes_of(proto, spec.input_size_wh)
    shapes = {value.name: known.get(value.name, ()) for value in graph.output}
    width, height = spec.input_size_wh
    bins = 4 * (spec.reg_max + 1)
    rows: list[str] = []
    for stride in spec.strides:
        across, down = -(-width // stride), -(-height // stride)
        pair = []
        for channels in (spec.num_classes, bins):
            forms = {(across * down, channels): False, (channels, down, across): True}
            match = [n for n, s in shapes.items() if s[1:] in forms]
            if not match:
                raise ModelError(
                    f"does not fit its description: no output of {across * down} points and {channels} channels for "
                    f"stride {stride}; it has {', '.join(f'{n} {list(s)}' for n, s in shapes.items())}"
                )
            name = match[0]
            planar = forms[shapes.pop(name)[1:]]
            pair.append(_as_rows(proto, name, channels, planar))
        if not _has_sigmoid(proto, pair[0]):
            graph.node.append(helper.make_node("Sigmoid", [pair[0]], [f"{pair[0]}.sigmoid"]))
            pair[0] = f"{pair[0]}.sigmoid"
        rows.append(f"points.{stride}")
        graph.node.append(helper.make_node("Concat", pair, [rows[-1]], axis=2))
    graph.node.append(helper.make_node("Concat", rows, [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None))


def _as_rows(proto: ModelProto, name: str, channels: int, planar: bool) -> str:
    if not planar:
        return name
    shape = numpy_helper.from_array(np.array([0, channels, -1], np.int64), f"{name}.shape")
    proto.graph.initializer.append(shape)
    proto.graph.node.append(helper.make_node("Reshape", [name, shape.name], [f"{name}.flat"]))
    proto.graph.node.append(helper.make_node("Transpose", [f"{name}.flat"], [f"{name}.rows"], perm=[0, 2, 1]))
    return f"{name}.rows"


def _has_sigmoid(proto: ModelProto, name: str) -> bool:
    """True when a Sigmoid feeds `name` through nothing but rearrangements."""
    made_by = {output: node for node in proto.graph.node for output in node.output}
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type in ("Sigmoid", "HardSigmoid"):
            return True
        if node.op_type in _PASS_THROUGH or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            waiting += node.input
    return False


def _add_sigmoid(proto: ModelProto, spec: ModelSpec) -> None:
    """Appends a Sigmoid over the class scores of the one output."""
    graph = proto.graph
    raw = graph.output[0].name
    sizes = numpy_helper.from_array(
        np.array([spec.num_classes, spec.output_channels - spec.num_classes], np.int64), f"{raw}.split"
    )
    graph.initializer.append(sizes)
    joined = f"{raw}.scored"
    graph.node.extend(
        [
            helper.make_node("Split", [raw, sizes.name], [f"{raw}.logits", f"{raw}.bins"], axis=2),
            helper.make_node("Sigmoid", [f"{raw}.logits"], [f"{raw}.scores"]),
            helper.make_node("Concat", [f"{raw}.scores", f"{raw}.bins"], [joined], axis=2),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(joined, TensorProto.FLOAT, None))
