"""Small real models of each family, in the forms of its exports, with the detections expected of their outputs.

Each is a strided convolution for every stride, and then the nodes of its family's exports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamer.models.spec import ModelSpec

LABELS = ("person", "car", "cat")
WIDTH, HEIGHT = 96, 64
FORMS = (
    "picodet-heads", "picodet-boxes", "picodet-detections",
    "yolox-heads", "yolox-boxes", "yolox-strides", "yolox-detections",
    "rtmdet-heads", "rtmdet-boxes", "rtmdet-detections",
    "d-fine-heads", "d-fine-detections", "deimv2-heads", "deimv2-detections",
)  # fmt: skip
Arrays = Mapping[str, np.ndarray]


def strides_of(family: str) -> tuple[int, ...]:
    return {"picodet": (8, 16, 32, 64), "d-fine": (32,), "deimv2": (32,)}.get(family, (8, 16, 32))


def points_of(family: str) -> np.ndarray:
    """Anchor points (N, 3), made one by one."""
    offset = 0.5 if family == "picodet" else 0.0
    return np.array(
        [
            ((column + offset) * stride, (row + offset) * stride, stride)
            for stride in strides_of(family)
            for row in range(-(-HEIGHT // stride))
            for column in range(-(-WIDTH // stride))
        ],
        np.float32,
    )


@dataclass
class FamilyModel:
    """A model file of one form."""

    form: str
    proto: onnx.ModelProto

    @property
    def family(self) -> str:
        return self.form.rpartition("-")[0]

    def spec(self) -> ModelSpec:
        return ModelSpec.from_mapping({"name": "tiny", "family": self.family, "labels": list(LABELS)}, "tiny.yaml")

    def feed(self, bgr: np.ndarray) -> dict[str, np.ndarray]:
        """What the untouched file is given for a picture (H, W, 3) uint8 BGR of its input's size."""
        pixels = bgr.astype(np.float32)
        if self.family in ("picodet", "rtmdet"):
            mean, std = np.float32([103.53, 116.28, 123.675]), np.float32([57.375, 57.12, 58.395])
            pixels = (pixels - mean) / std
        if self.family in ("d-fine", "deimv2"):
            pixels = pixels / np.float32(255)
        if self.family not in ("yolox", "rtmdet"):
            pixels = pixels[:, :, ::-1]
        fed = {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
        names = [value.name for value in self.proto.graph.input]
        if "orig_target_sizes" in names:
            fed["orig_target_sizes"] = np.array([[WIDTH, HEIGHT]], np.int64)
        if "scale_factor" in names:
            fed["scale_factor"] = np.ones((1, 2), np.float32)
        return fed

    def read(self, outputs: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores (N, classes) and boxes (N, 4), xyxy in input pixels, of the file's own outputs."""
        kind = self.form.rpartition("-")[2]
        if kind == "detections":
            return _read_detections(outputs)
        return {"picodet": _read_picodet, "yolox": _read_yolox, "rtmdet": _read_rtmdet}.get(self.family, _read_detr)(
            outputs, kind
        )


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-values)))


def _read_picodet(outputs: Arrays, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "boxes":
        return outputs["scores"][0].T, outputs["boxes"][0]
    scores = np.concatenate([outputs[f"scores{s}"][0] for s in strides_of("picodet")])
    bins = np.concatenate([outputs[f"bins{s}"][0] for s in strides_of("picodet")]).reshape(len(scores), 4, 8)
    points = points_of("picodet")
    distances = np.exp(bins) @ np.arange(8) / np.exp(bins).sum(axis=2) * points[:, 2:]
    found = np.concatenate([points[:, :2] - distances[:, :2], points[:, :2] + distances[:, 2:]], axis=1)
    return scores, found.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def _read_yolox(outputs: Arrays, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "strides":
        whole = np.concatenate([outputs[f"level{s}"][0].reshape(8, -1).T for s in strides_of("yolox")])
    else:
        whole = outputs["output"][0]
    boxes, points = whole[:, :4], points_of("yolox")
    if kind != "boxes":
        centres = (boxes[:, :2] + points[:, :2] / points[:, 2:]) * points[:, 2:]
        boxes = np.concatenate([centres, np.exp(boxes[:, 2:]) * points[:, 2:]], axis=1)
    scores = whole[:, 4:5] * whole[:, 5:]
    scores = np.where(scores == scores.max(axis=1, keepdims=True), scores, 0)  # a row counts for its best class
    return scores, np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def _read_rtmdet(outputs: Arrays, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "boxes":
        return outputs["output"][0][:, 4:], outputs["output"][0][:, :4]
    logits, distances = (
        np.concatenate([outputs[f"{name}{s}"][0].reshape(count, -1).T for s in strides_of("rtmdet")])
        for name, count in (("classes", 3), ("distances", 4))
    )
    points = points_of("rtmdet")[:, :2]
    return _sigmoid(logits), np.concatenate([points - distances[:, :2], points + distances[:, 2:]], axis=1)


def _read_detr(outputs: Arrays, kind: str) -> tuple[np.ndarray, np.ndarray]:
    boxes = outputs["boxes"][0] * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    found = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    return _sigmoid(outputs["logits"][0]), found


def _read_detections(outputs: Arrays) -> tuple[np.ndarray, np.ndarray]:
    if "rows" in outputs:
        rows = outputs["rows"].reshape(-1, 6)
        labels, scores, boxes = rows[:, 0].astype(int), rows[:, 1], rows[:, 2:]
    elif "dets" in outputs:
        labels, scores, boxes = outputs["labels"][0], outputs["dets"][0][:, 4], outputs["dets"][0][:, :4]
    else:
        labels, scores, boxes = (outputs[name][0] for name in ("labels", "scores", "boxes"))
    each = np.zeros((len(scores), len(LABELS)), np.float32)
    each[np.arange(len(scores)), labels] = scores
    return each, boxes


class _Builder:
    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.random = np.random.default_rng(seed)

    def add(self, kind: str, inputs: list[str], name: str = "", count: int = 1, **attributes: Any) -> str:
        name = name or f"{kind}{len(self.nodes)}"
        outputs = [name, *(f"{name}.{index}" for index in range(1, count))]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return name

    def constant(self, values: Any, kind: type = np.float32) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def give(self, name: str, inside: str, shape: list[int | str | None], kind: int = TensorProto.FLOAT) -> None:
        self.add("Identity", [inside], name)
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def level(self, stride: int, channels: int, spread: float, family: str) -> str:
        """A convolution to (1, channels, rows, columns): its values spread by about `spread`."""
        scale = {"yolox": 100, "d-fine": 0.4, "deimv2": 0.4}.get(family, 1)
        weight = self.random.standard_normal((channels, 3, stride, stride), np.float32)
        weight *= np.float32(spread / (stride * np.sqrt(3) * scale))
        pads = [0, 0, -HEIGHT % stride, -WIDTH % stride]
        return self.add(
            "Conv", ["image", self.constant(weight)], strides=[stride, stride], pads=pads, kernel_shape=[stride, stride]
        )

    def rows(self, level: str, channels: int) -> str:
        flat = self.add("Reshape", [level, self.constant([1, channels, -1], np.int64)])
        return self.add("Transpose", [flat], perm=[0, 2, 1])

    def part(self, rows: str, start: int, stop: int, axis: int = 2) -> str:
        ends = [self.constant([value], np.int64) for value in (start, stop, axis)]
        return self.add("Slice", [rows, *ends])

    def corners(self, centred: str) -> str:
        half = self.add("Mul", [self.part(centred, 2, 4), self.constant(0.5)])
        centre = self.part(centred, 0, 2)
        return self.add("Concat", [self.add("Sub", [centre, half]), self.add("Add", [centre, half])], axis=2)

    def distances(self, rows: str, points: np.ndarray) -> str:
        around = self.constant(points[None, :, :2])
        first = self.add("Sub", [around, self.part(rows, 0, 2)])
        return self.add("Concat", [first, self.add("Add", [around, self.part(rows, 2, 4)])], axis=2)

    def best(self, scores: str, boxes: str, most: int) -> tuple[str, str, str]:
        """The best (row, class) pairs: boxes (1, most, 4), scores (1, most), labels (1, most) int64."""
        flat = self.add("Flatten", [scores])
        top = self.add("TopK", [flat, self.constant([most], np.int64)], count=2, axis=1)
        classes = self.constant(len(LABELS), np.int64)
        index = self.add("Div", [f"{top}.1", classes])
        labels = self.add("Sub", [f"{top}.1", self.add("Mul", [index, classes])])
        each = self.add("Squeeze", [index, self.constant([0], np.int64)])
        return self.add("Gather", [boxes, each], axis=1), top, labels

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "family", self.inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def family_model(form: str, *, seed: int = 0) -> FamilyModel:
    """Makes a model of one of `FORMS`."""
    family, _, kind = form.rpartition("-")
    make = {"picodet": _picodet, "yolox": _yolox, "rtmdet": _rtmdet}.get(family, _detr)
    builder = _Builder(seed)
    make(builder, kind, family)
    return FamilyModel(form, builder.model())


def _picodet(builder: _Builder, kind: str, family: str) -> None:
    classes, points = len(LABELS), points_of(family)
    parts = []
    for stride in strides_of(family):
        rows = builder.rows(builder.level(stride, classes + 32, 2, family), classes + 32)
        scores, bins = (
            builder.add("Sigmoid", [builder.part(rows, 0, classes)]),
            builder.part(rows, classes, classes + 32),
        )
        parts.append((stride, scores, bins))
    if kind == "heads":
        for name, which, channels in (("scores", 1, classes), ("bins", 2, 32)):
            for part in parts:
                count = int((points[:, 2] == part[0]).sum())
                builder.give(f"{name}{part[0]}", str(part[which]), [1, count, channels])
        return
    scores = builder.add("Concat", [part[1] for part in parts], axis=1)
    bins = builder.add("Concat", [part[2] for part in parts], axis=1)
    each = builder.add("Softmax", [builder.add("Reshape", [bins, builder.constant([1, -1, 4, 8], np.int64)])], axis=3)
    project = builder.constant(np.arange(8, dtype=np.float32).reshape(8, 1))
    sides = builder.add("Squeeze", [builder.add("MatMul", [each, project]), builder.constant([3], np.int64)])
    boxes = builder.distances(builder.add("Mul", [sides, builder.constant(points[None, :, 2:])]), points)
    builder.inputs.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, [1, 2]))
    scale = builder.add("Concat", ["scale_factor", "scale_factor"], axis=1)
    boxes = builder.add("Div", [boxes, scale])
    if kind == "boxes":
        builder.give("boxes", boxes, [1, len(points), 4])
        builder.give("scores", builder.add("Transpose", [scores], perm=[0, 2, 1]), [1, classes, len(points)])
        return
    by_class = builder.add("Transpose", [scores], perm=[0, 2, 1])
    limits = [builder.constant([100], np.int64), builder.constant([0.6]), builder.constant([0.3])]
    kept = builder.add("NonMaxSuppression", [boxes, by_class, *limits])
    row, label = builder.part(kept, 2, 3, 1), builder.part(kept, 1, 2, 1)
    where = builder.add("Concat", [label, row], axis=1)
    score = builder.add("GatherND", [builder.add("Squeeze", [by_class, builder.constant([0], np.int64)]), where])
    flat = builder.add("Squeeze", [boxes, builder.constant([0], np.int64)])
    box = builder.add("GatherND", [flat, row])
    score = builder.add("Unsqueeze", [score, builder.constant([1], np.int64)])
    rows = builder.add("Concat", [builder.add("Cast", [label], to=TensorProto.FLOAT), score, box], axis=1)
    builder.give("rows", rows, ["detections", 6])
    builder.give("count", builder.part(builder.add("Shape", [rows]), 0, 1, 0), [1], TensorProto.INT64)


def _yolox(builder: _Builder, kind: str, family: str) -> None:
    classes, points = len(LABELS), points_of(family)
    levels = []
    for stride in strides_of(family):
        made = builder.level(stride, 5 + classes, 0.7, family)
        box, rest = builder.part(made, 0, 4, 1), builder.part(made, 4, 5 + classes, 1)
        shifted = builder.add("Add", [rest, builder.constant(1)])
        joined = builder.add("Concat", [box, builder.add("Sigmoid", [shifted])], axis=1)
        levels.append(joined)
        if kind == "strides":
            builder.give(f"level{stride}", joined, [1, 5 + classes, -(-HEIGHT // stride), -(-WIDTH // stride)])
    if kind == "strides":
        return
    whole = builder.add("Concat", [builder.rows(level, 5 + classes) for level in levels], axis=1)
    if kind == "heads":
        builder.give("output", whole, [1, len(points), 5 + classes])
        return
    steps = builder.constant(points[None, :, 2:])
    offset = builder.add(
        "Add", [builder.part(whole, 0, 2), builder.constant(points[None, :, :2] / points[None, :, 2:])]
    )
    sizes = builder.add("Exp", [builder.part(whole, 2, 4)])
    parts = [builder.add("Mul", [offset, steps]), builder.add("Mul", [sizes, steps])]
    if kind == "boxes":
        decoded = builder.add("Concat", [*parts, builder.part(whole, 4, 5 + classes)], axis=2)
        builder.give("output", decoded, [1, len(points), 5 + classes])
        return
    boxes = builder.corners(builder.add("Concat", parts, axis=2))
    scores = builder.add("Mul", [builder.part(whole, 4, 5), builder.part(whole, 5, 5 + classes)])
    _give_dets(builder, *builder.best(scores, boxes, 20))


def _give_dets(builder: _Builder, boxes: str, scores: str, labels: str) -> None:
    scores = builder.add("Unsqueeze", [scores, builder.constant([2], np.int64)])
    builder.give("dets", builder.add("Concat", [boxes, scores], axis=2), [1, 20, 5])
    builder.give("labels", labels, [1, 20], TensorProto.INT64)


def _rtmdet(builder: _Builder, kind: str, family: str) -> None:
    classes, points = len(LABELS), points_of(family)
    scores, boxes = [], []
    for stride in strides_of(family):
        logits = builder.level(stride, classes, 2, family)
        sides = builder.add("Abs", [builder.level(stride, 4, 2, family)])
        sides = builder.add("Mul", [sides, builder.constant(stride)])
        if kind == "heads":
            grid: list[int | str | None] = [-(-HEIGHT // stride), -(-WIDTH // stride)]
            builder.give(f"classes{stride}", logits, [1, classes, *grid])
            builder.give(f"distances{stride}", sides, [1, 4, *grid])
        scores.append(builder.rows(builder.add("Sigmoid", [logits]), classes))
        boxes.append(builder.rows(sides, 4))
    if kind == "heads":
        return
    found = builder.distances(builder.add("Concat", boxes, axis=1), points)
    sure = builder.add("Concat", scores, axis=1)
    if kind == "boxes":
        builder.give("output", builder.add("Concat", [found, sure], axis=2), [1, len(points), 4 + classes])
        return
    _give_dets(builder, *builder.best(sure, found, 20))


def _detr(builder: _Builder, kind: str, family: str) -> None:
    classes = len(LABELS)
    rows = builder.rows(builder.level(32, classes + 4, 2, family), classes + 4)
    logits = builder.part(rows, 0, classes)
    boxes = builder.add("Sigmoid", [builder.part(rows, classes, classes + 4)])
    if kind == "heads":
        builder.give("logits", logits, [1, 6, classes])
        builder.give("boxes", boxes, [1, "queries", 4])
        return
    builder.inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2]))
    sizes = builder.add("Cast", ["orig_target_sizes"], to=TensorProto.FLOAT)
    sizes = builder.add("Concat", [sizes, sizes], axis=1)
    sizes = builder.add("Unsqueeze", [sizes, builder.constant([1], np.int64)])
    found = builder.add("Mul", [builder.corners(boxes), sizes])
    box, score, label = builder.best(builder.add("Sigmoid", [logits]), found, 12)
    builder.give("labels", label, ["N", 12], TensorProto.INT64)
    builder.give("boxes", box, ["N", 12, 4])
    builder.give("scores", score, ["N", 12])


def saved(model: FamilyModel, folder: Path) -> Path:
    path = folder / f"{model.form}.onnx"
    onnx.save(model.proto, path)
    return path
