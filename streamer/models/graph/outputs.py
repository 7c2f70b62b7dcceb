"""Converts a graph's outputs to the normal form by adding nodes."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from streamer.models.graph.editor import GraphEditor
from streamer.models.graph.finished import Finished
from streamer.models.graph.layout import LEAST_PROBABILITY, Channels, Layout, Level
from streamer.models.spec import ModelSpec

OUTPUT = "output"
_SIZES_ARE_INPUT_OPSET = 13


def join_outputs(proto: ModelProto, layout: Layout | Finished, spec: ModelSpec) -> None:
    """Gives a graph one float32 output (batch, rows, channels), in place.

    `layout` is from `read_layout` or `read_finished`.
    """
    if isinstance(layout, Finished):
        if not layout.is_plain:
            layout.join(proto, OUTPUT)
        return
    halves = {value.name for value in proto.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    if not layout.is_plain or halves:
        _Writer(proto, halves, layout.reg_max).write(layout)
    name = proto.graph.output[0].name
    if not proto.graph.output[0].type.tensor_type.HasField("shape"):
        size: list[str | int | None] = ["batch", spec.num_points or "rows", spec.output_channels]
        proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))


class _Writer:
    def __init__(self, proto: ModelProto, halves: set[str], reg_max: int) -> None:
        self._editor = GraphEditor(proto)
        self._add, self._constant = self._editor.node, self._editor.constant
        self._halves = halves
        self._reg_max = reg_max
        self._rows_of: dict[str, str] = {}

    def write(self, layout: Layout) -> None:
        levels = [self._level(level) for level in layout.levels]
        output = levels[0] if len(levels) == 1 else self._add("Concat", levels, OUTPUT, axis=1)
        self._editor.replace_outputs(output, TensorProto.FLOAT, None)

    def _level(self, level: Level) -> str:
        scores, boxes = self._parts(level.scores, level.boxes)
        if not level.activated:
            scores = self._add("Sigmoid", [scores], f"{scores}.sigmoid")
        if level.form == "distances":
            boxes = self._distribution(boxes)
        if level.form in ("probabilities", "distances"):
            least = self._constant(np.array(LEAST_PROBABILITY, np.float32), "least_probability")
            boxes = self._add("Log", [self._add("Max", [boxes, least], f"{boxes}.limited")], f"{boxes}.logits")
        return self._add("Concat", [scores, boxes], OUTPUT, axis=2)

    def _parts(self, scores: Channels, boxes: Channels) -> tuple[str, str]:
        """Returns scores and boxes as (batch, points, channels) each."""
        if scores.name != boxes.name:
            return self._rows(scores), self._rows(boxes)
        whole = self._rows(scores)
        (first, second), names = sorted((scores, boxes), key=lambda part: part.start), {}
        for part, kind in ((scores, "scores"), (boxes, "boxes")):
            names[part.start] = self._editor.fresh(f"{whole}.{kind}")
        sizes = [first.stop, second.stop - second.start]
        outputs = [names[first.start], names[second.start]]
        if self._editor.opset >= _SIZES_ARE_INPUT_OPSET:
            inputs = [whole, self._constant(np.array(sizes, np.int64), f"{whole}.sizes")]
            self._editor.graph.node.append(helper.make_node("Split", inputs, outputs, axis=2))
        else:
            self._editor.graph.node.append(helper.make_node("Split", [whole], outputs, axis=2, split=sizes))
        return names[scores.start], names[boxes.start]

    def _rows(self, part: Channels) -> str:
        """Returns an output of the file as float32 (batch, points, channels)."""
        if part.name in self._rows_of:
            return self._rows_of[part.name]
        name = part.name
        if name in self._halves:
            name = self._add("Cast", [name], f"{name}.float", to=TensorProto.FLOAT)
        if not part.batched or part.rank == 4:
            batch = 0 if part.batched else 1
            size = [batch, -1, part.total] if part.last else [batch, part.total, -1]
            name = self._reshape(name, size)
        if not part.last:
            name = self._add("Transpose", [name], f"{part.name}.rows", perm=[0, 2, 1])
        self._rows_of[part.name] = name
        return name

    def _distribution(self, distances: str) -> str:
        """Returns probabilities of 0 to reg_max strides whose expectation is the distance."""
        bins = np.arange(self._reg_max + 1, dtype=np.float32)
        least, most = (self._constant(np.array(end, np.float32), f"bin.{end}") for end in (0, self._reg_max))
        limited = self._add("Min", [self._add("Max", [distances, least], "distances.0"), most], "distances.limited")
        each = self._reshape(limited, [0, 0, 4, 1])
        apart = self._add("Abs", [self._add("Sub", [each, self._constant(bins, "bins")], "apart.signed")], "apart")
        near = self._add("Sub", [self._constant(np.array(1, np.float32), "one"), apart], "near")
        return self._reshape(near, [0, 0, 4 * len(bins)])

    def _reshape(self, name: str, size: list[int]) -> str:
        return self._add("Reshape", [name, self._constant(np.array(size, np.int64), f"{name}.size")], f"{name}.shaped")
