"""Converts a graph's input to the normal form: float32 (batch, 3, H, W), normalised, BGR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from streamer.common.errors import ConfigError, ModelError
from streamer.models.families import FAMILIES
from streamer.models.graph.editor import GraphEditor
from streamer.models.graph.shapes import dimensions
from streamer.models.spec import ModelSpec

INPUT = "images"
_KINDS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_SHAPE_OPERANDS = {"Reshape": 1, "Expand": 1, "Resize": 3}


@dataclass(frozen=True)
class ImageForm:
    """The input of the file itself.

    Attributes:
        name: of the input.
        batch: its fixed batch size; 0 for any.
        is_half: float16 rather than float32.
        channels_last: (batch, H, W, 3) rather than (batch, 3, H, W).
        is_rgb: whether red is the first channel.
        sizes: values of further inputs, which hold the picture's size, by name.
    """

    name: str
    batch: int
    is_half: bool
    channels_last: bool
    is_rgb: bool
    sizes: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def of(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        """Converts one normalised picture (1, 3, H, W), BGR, to the file's form, repeated to fill its batch."""
        taken: npt.NDArray[np.floating] = images[:, ::-1] if self.is_rgb else images
        if self.channels_last:
            taken = taken.transpose(0, 2, 3, 1)
        repeated = np.repeat(taken, max(1, self.batch), axis=0)
        return np.ascontiguousarray(repeated, np.float16 if self.is_half else np.float32)


def fit_input(proto: ModelProto, spec: ModelSpec) -> tuple[ImageForm, ModelSpec]:
    """Converts a graph's input to (batch, 3, H, W), float32 BGR, in place.

    Adds a Cast for float16, a Transpose for channels last and a Gather for RGB; a fixed batch becomes 1, and inputs
    that hold the picture's size become constants. Returns the file's own input, and `spec` with the graph's size.

    Raises:
        ModelError: the graph has no such input; the message continues the file's name.
    """
    graph = proto.graph
    constants = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    further = [value for value in inputs if len(inputs) > 1 and _tells_size(value)]
    inputs = [value for value in inputs if value not in further]
    shape = dimensions(inputs[0]) if len(inputs) == 1 else ()
    if len(inputs) == 1 and not inputs[0].type.tensor_type.HasField("shape"):
        shape = (0, 0, 0, 0)
    channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] not in (0, 3)
    if channels_last:
        shape = (shape[0], shape[3], shape[1], shape[2])
    if len(shape) != 4 or shape[1] not in (0, 3) or inputs[0].type.tensor_type.elem_type not in _KINDS:
        found = ", ".join(f"{value.name} {list(dimensions(value))}" for value in inputs) or "none"
        word = FAMILIES[spec.family].word
        raise ModelError(f"is not a {word}: wanted one float32 or float16 input (batch, 3, H, W), found {found}")
    image = inputs[0]
    height, width = shape[2:]
    if height and width:
        try:
            spec = spec.with_input_size((width, height))
        except ConfigError as error:
            raise ModelError(f"is not a {FAMILIES[spec.family].word}: {error}") from None
    if shape[0] > 1:
        _unfix_batch(proto, image, shape[0])
    batch = image.type.tensor_type.shape.dim[0].dim_param if image.type.tensor_type.HasField("shape") else ""
    size = [1 if shape[0] else batch or "batch", 3, height or "height", width or "width"]
    is_half = image.type.tensor_type.elem_type == TensorProto.FLOAT16
    value = helper.make_tensor_value_info(image.name, TensorProto.FLOAT, size)
    sizes = {value.name: _size(value, spec.input_size_wh) for value in further}
    graph.initializer.extend(numpy_helper.from_array(given, name) for name, given in sizes.items())
    form = ImageForm(image.name, shape[0], is_half, channels_last, spec.channel_order == "RGB", sizes)
    _replace_input(proto, form, value)
    return form, spec


def _tells_size(value: ValueInfoProto) -> bool:
    """Whether an input is the picture's size or scale, as exports with decoded boxes have."""
    shape = dimensions(value)
    return len(shape) == 2 and shape[1] == 2 and (_is_integer(value) or value.name in ("scale_factor", "im_shape"))


def _is_integer(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32)


def _size(value: ValueInfoProto, size_wh: tuple[int, int]) -> npt.NDArray[Any]:
    """Returns the size that makes a graph return boxes in pixels of its input.

    D-FINE and DEIMv2 take width and height (``orig_target_sizes``), PaddleDetection a scale, and height and width.
    """
    if _is_integer(value):
        kind = np.int64 if value.type.tensor_type.elem_type == TensorProto.INT64 else np.int32
        return np.array([size_wh], kind)
    return np.array([(1, 1) if value.name == "scale_factor" else size_wh[::-1]], np.float32)


def _replace_input(proto: ModelProto, form: ImageForm, value: ValueInfoProto) -> None:
    """Makes `value` the graph's input, with nodes that convert it to `form`."""
    editor = GraphEditor(proto)
    value.name = editor.fresh(INPUT)
    nodes: list[NodeProto] = []
    current = value.name

    def add(kind: str, *more: str, **attributes: Any) -> None:
        nonlocal current
        output = editor.fresh(f"{INPUT}.{kind}")
        nodes.append(helper.make_node(kind, [current, *more], [output], **attributes))
        current = output

    if form.is_rgb:
        add("Gather", editor.constant(np.array([2, 1, 0], np.int64), f"{INPUT}.order"), axis=1)
    if form.channels_last:
        add("Transpose", perm=[0, 2, 3, 1])
    if form.is_half:
        add("Cast", to=TensorProto.FLOAT16)
    if nodes:
        nodes[-1].output[0] = form.name
    else:
        value.name = form.name
    editor.replace_input(value, nodes)


def _unfix_batch(proto: ModelProto, image: ValueInfoProto, batch: int) -> None:
    """Changes a fixed batch to 1, in place: in the input, outputs and each constant shape that begins with it.

    `shapes_of` refuses a graph that this makes inconsistent.
    """
    graph = proto.graph
    image.type.tensor_type.shape.dim[0].dim_value = 1
    constants = {constant.name: constant for constant in graph.initializer}
    editor = GraphEditor(proto)
    for node in graph.node:
        place = _SHAPE_OPERANDS.get(node.op_type)
        if place is None or len(node.input) <= place or node.input[place] not in constants:
            continue
        sizes = numpy_helper.to_array(constants[node.input[place]])
        if sizes.size and sizes.flat[0] == batch:
            alone = sizes.copy()
            alone.flat[0] = 1
            node.input[place] = editor.constant(alone, f"{node.input[place]}.alone")
    for value in graph.output:
        shape = value.type.tensor_type.shape
        if shape.dim and shape.dim[0].dim_value == batch:
            shape.dim[0].dim_value = 1
    del graph.value_info[:]
