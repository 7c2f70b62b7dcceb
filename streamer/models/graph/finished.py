"""Outputs of graphs that include the threshold or NMS.

The normal form is (batch, K, 6): box (xyxy in input pixels), score, class. Files have ``dets`` (K, 5) and ``labels``
(MMDeploy: RTMDet, YOLOX), ``labels``, ``boxes`` and ``scores`` (D-FINE, DEIMv2), or rows of class, score and box
(PaddleDetection: PicoDet). K is often unknown before the graph runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from streamer.models.graph.editor import GraphEditor
from streamer.models.graph.shapes import Shape
from streamer.models.spec import ModelSpec

_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_BOX_FIRST = [2, 3, 4, 5, 1, 0]


@dataclass(frozen=True)
class Finished:
    """The outputs that hold detections.

    Attributes:
        parts: outputs with box, score and class, in this order; one output may hold several.
        order: of the columns of a single output.
    """

    parts: tuple[str, ...]
    order: Literal["box-first", "class-first"] = "box-first"

    @property
    def is_plain(self) -> bool:
        """Whether the file has the normal form."""
        return len(self.parts) == 1 and self.order == "box-first"

    def rows(self, outputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Returns the first picture's detections, (K, 6), from the file's own outputs by name."""
        columns = [np.asarray(outputs[name], np.float32).reshape(-1, width) for name, width in self._widths()]
        rows = np.concatenate(columns, axis=1)
        return rows if self.order == "box-first" else rows[:, _BOX_FIRST]

    def join(self, proto: ModelProto, output: str) -> None:
        """Converts a graph's outputs to the normal form, in place."""
        editor = GraphEditor(proto)

        def add(kind: str, inputs: list[str], **attributes: Any) -> str:
            return editor.node(kind, inputs, f"{output}.{kind}", **attributes)

        def constant(values: list[int]) -> str:
            return editor.constant(np.array(values, np.int64), f"{output}.constant")

        columns = [
            add("Cast", [add("Reshape", [name, constant([1, -1, width])])], to=TensorProto.FLOAT)
            for name, width in self._widths()
        ]
        whole = add("Concat", columns, axis=2) if len(columns) > 1 else columns[0]
        if self.order == "class-first":
            whole = add("Gather", [whole, constant(_BOX_FIRST)], axis=2)
        editor.replace_outputs(whole, TensorProto.FLOAT, [1, "detections", 6])

    def _widths(self) -> Iterator[tuple[str, int]]:
        """Yields each output with its number of columns."""
        return zip(self.parts, {1: (6,), 2: (5, 1), 3: (4, 1, 1)}[len(self.parts)], strict=True)


def read_finished(proto: ModelProto, spec: ModelSpec, shapes: Mapping[str, Shape]) -> tuple[Finished, ModelSpec] | None:
    """Recognises outputs after NMS, and completes `spec`; None for other outputs. See `read_layout`."""
    if spec.output not in ("auto", "detections"):
        return None
    integers = [value.name for value in proto.graph.output if value.type.tensor_type.elem_type in _INTEGERS]
    floats = [value.name for value in proto.graph.output if value.name not in integers]
    last = {name: shapes[name][-1] if shapes.get(name) else 0 for name in floats}
    found = None
    if len(floats) == 1 and last[floats[0]] == 5 and len(integers) == 1:
        found = Finished((floats[0], integers[0]))
    elif len(floats) == 2 and integers:
        labels = next((name for name in integers if "num" not in name.lower()), integers[0])
        boxes = [name for name in floats if len(shapes.get(name, ())) == 3] or [n for n in floats if last[n] == 4]
        if len(boxes) == 1:
            (scores,) = (name for name in floats if name != boxes[0])
            found = Finished((boxes[0], scores, labels))
    elif len(floats) == 1 and last[floats[0]] == 6 and (spec.output == "detections" or spec.family == "picodet"):
        is_paddle = spec.family == "picodet" and len(shapes[floats[0]]) == 2
        found = Finished((floats[0],), "class-first" if is_paddle else "box-first")
    if found is None:
        return None
    shape = shapes.get(found.parts[0], ())
    queries = shape[-2] if len(shape) > 1 else 0
    return found, spec.model_copy(update={"output": "detections", "queries": queries})
