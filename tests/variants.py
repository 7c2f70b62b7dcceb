"""Model files as others write them: forms of output, operator sets, types, axes and quantisers, in any combination.

Each is built from the small network of `tests.quantized`, and knows how its own outputs are to be read: that shares
nothing with the program.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamer.models.spec import ModelSpec
from tests.hidden_constants import FORMS as CONSTANT_FORMS
from tests.hidden_constants import hide_constants
from tests.quantized import network, normalised, pixels, quantized, unoptimised
from tests.tiny import LABELS, tiny_spec

JOINT = ("joint", "joint-channels", "joint-planar", "joint-flat", "joint-flat-planar", "boxes-first", "levels", "two")
PAIRS = ("pairs-nchw", "pairs-nhwc", "pairs-rows", "pairs-planar", "pairs-chw", "pairs-hwc", "pairs-flat", "reversed")
BOXES = ("distances", "distances-last", "distances-pairs", "probabilities")
SCORES = ("logits", "sigmoid", "clip", "slice", "times-one", "late")
AXES = ("static", "batch", "all", "undeclared", "four")
KINDS = ("float", "half", "half-weights")
QUANTISERS = ("qdq-u8", "qdq-s8", "qoperator-u8", "qoperator-s8", "dynamic-u8", "dynamic-s8", "nncf")
IR = ("ir", "ir-half")
TRICKS = (
    "weight-first",
    "named",
    "external",
    "ort-basic",
    "ort-extended",
    *(f"const-{form}" for form in CONSTANT_FORMS),
)


@dataclass(frozen=True)
class Variant:
    """One file, by what it differs in."""

    form: str = "joint"
    scores: str = "sigmoid"
    opset: int = 17
    axes: str = "batch"
    kind: str = "float"
    quantiser: str = ""
    trick: str = ""
    labels: int = 3
    activation: str = "LeakyRelu"
    family: str = "nanodet"

    @property
    def name(self) -> str:
        """Its parts that differ from the plain form's, for a test's name."""
        plain = Variant()
        parts = [str(value) for key, value in vars(self).items() if value != getattr(plain, key)]
        return "+".join(parts) or "plain"

    def spec(self) -> ModelSpec:
        labels = tuple(f"label {index}" for index in range(self.labels)) if self.labels != 3 else LABELS
        return tiny_spec(labels=labels, size_wh=(96, 64), family=self.family)


class _Tail:
    """Nodes behind the last convolutions."""

    def __init__(self, model: onnx.ModelProto, variant: Variant) -> None:
        self.graph = model.graph
        self.variant = variant
        self._count = 0

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        self._count += 1
        name = f"tail{self._count}"
        self.graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        self._count += 1
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"tail{self._count}"))
        return f"tail{self._count}"

    def reshape(self, name: str, size: list[int]) -> str:
        return self.add("Reshape", [name, self.constant(np.array(size, np.int64))])

    def slice(self, name: str, start: int, stop: int, axis: int) -> str:
        if self.variant.opset < 10:
            return self.add("Slice", [name], starts=[start], ends=[stop], axes=[axis])
        ends = [self.constant(np.array([value], np.int64)) for value in (start, stop, axis)]
        return self.add("Slice", [name, *ends])

    def scores(self, name: str, axis: int) -> str:
        """Returns scores as the variant has them, of (batch, channels, ...) or (batch, points, channels) logits."""
        how = self.variant.scores
        if how in ("logits", "late"):
            return name
        active = self.add("Sigmoid", [name])
        if how == "clip" and self.variant.opset >= 11:
            return self.add("Clip", [active, self.constant(np.float32(1e-4)), self.constant(np.float32(0.9999))])
        if how == "clip":
            return self.add("Clip", [active], min=1e-4, max=0.9999)
        if how == "slice":
            labels = self.variant.labels
            return self.slice(self.add("Concat", [active, active], axis=axis), 0, labels, axis)
        if how == "times-one":
            return self.add("Mul", [active, self.constant(np.float32(1))])
        return active


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(values.shape[0], -1).T


def build(variant: Variant, folder: Path) -> Path:
    """Writes a variant's file."""
    spec = variant.spec()
    model = network(spec, opset=variant.opset, activation=variant.activation)
    if variant.quantiser:
        model = quantized(model, spec, variant.quantiser, folder, per_channel=variant.opset >= 13)
    graph = model.graph
    del graph.output[:]
    width, height = spec.input_size_wh
    classes, bins = spec.num_classes, 4 * (spec.reg_max + 1)
    tail = _Tail(model, variant)
    batch = 4 if variant.axes == "four" else 0
    outputs: list[tuple[str, list[Any]]] = []
    levels = []
    for stride in spec.strides:
        cls, dis = f"cls{stride}", f"dis{stride}"
        grid = [-(-height // stride), -(-width // stride)]
        points = grid[0] * grid[1]
        form = variant.form
        if form == "levels":
            joined = tail.add("Concat", [tail.scores(cls, 1), dis], axis=1)
            outputs.append((joined, ["batch", classes + bins, *grid]))
        elif form == "joint-channels":
            joined = tail.add("Concat", [tail.scores(cls, 1), dis], axis=1)
            flat = tail.reshape(joined, [batch, classes + bins, -1])
            levels.append([tail.add("Transpose", [flat], perm=[0, 2, 1])])
        else:
            levels.append([_rows_of(tail, form, kind, name, batch) for kind, name in (("cls", cls), ("dis", dis))])
            if form in PAIRS or form == "distances-pairs":
                outputs += _pair(tail, levels[-1], grid, points, (classes, bins))
    outputs = outputs or _joined(tail, levels, spec)
    if variant.form == "reversed":
        outputs.reverse()
    names = ["output", "boxes"] if variant.form == "joint" else []
    for index, (name, size) in enumerate(outputs):
        shown = names[index] if index < len(names) else f"out{index}"
        for node in graph.node:
            node.output[:] = [shown if output == name else output for output in node.output]
            node.input[:] = [shown if used == name else used for used in node.input]
        declared = (
            None if variant.axes == "undeclared" else [_size(one, variant, index) for index, one in enumerate(size)]
        )
        graph.output.append(helper.make_tensor_value_info(shown, TensorProto.FLOAT, declared))
    image = [{"batch": "batch", "all": "n", "undeclared": "n", "four": 4}.get(variant.axes, 1), 3, height, width]
    if variant.axes == "all":
        image[2:] = ["h", "w"]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, image))
    del graph.value_info[:]
    return _written(model, variant, folder)


def _size(one: Any, variant: Variant, index: int) -> Any:
    if index == 0 and one == "batch":
        return {"four": 4, "static": 1}.get(variant.axes, "batch")
    return one if variant.axes != "all" else f"d{index}"


def _rows_of(tail: _Tail, form: str, kind: str, name: str, batch: int) -> str:
    """Returns a level's scores or boxes: (batch, points, channels), or (batch, channels, h, w) for forms of planes."""
    spec = tail.variant.spec()
    channels = spec.num_classes if kind == "cls" else 4 * (spec.reg_max + 1)
    if form in ("pairs-nchw", "pairs-nhwc", "pairs-chw", "pairs-hwc", "reversed"):
        return tail.scores(name, 1) if kind == "cls" else name
    rows = tail.add("Transpose", [tail.reshape(name, [batch, channels, -1])], perm=[0, 2, 1])
    if kind == "cls":
        return tail.scores(rows, 2)
    if form.startswith("distances") or form == "probabilities":
        each = tail.add("Softmax", [tail.reshape(rows, [batch, -1, 4, spec.reg_max + 1])], axis=3)
        if form == "probabilities":
            return tail.reshape(each, [batch, -1, channels])
        weights = tail.constant(np.arange(spec.reg_max + 1, dtype=np.float32).reshape(-1, 1))
        return tail.reshape(tail.add("MatMul", [each, weights]), [batch, -1, 4])
    return rows


def _pair(
    tail: _Tail, pair: list[str], grid: list[int], points: int, channels: tuple[int, int]
) -> list[tuple[str, list[Any]]]:
    form, found = tail.variant.form, []
    for name, wide in zip(pair, channels, strict=True):
        deep = 4 if form == "distances-pairs" and wide == channels[1] else wide
        match form:
            case "pairs-nchw" | "reversed":
                found.append((tail.add("Identity", [name]), ["batch", deep, *grid]))
            case "pairs-nhwc":
                found.append((tail.add("Transpose", [name], perm=[0, 2, 3, 1]), ["batch", *grid, deep]))
            case "pairs-chw":
                found.append((tail.reshape(name, [deep, *grid]), [deep, *grid]))
            case "pairs-hwc":
                last = tail.add("Transpose", [name], perm=[0, 2, 3, 1])
                found.append((tail.reshape(last, [*grid, deep]), [*grid, deep]))
            case "pairs-planar":
                found.append((tail.add("Transpose", [name], perm=[0, 2, 1]), ["batch", deep, points]))
            case "pairs-flat":
                found.append((tail.reshape(name, [points, deep]), [points, deep]))
            case _:
                found.append((tail.add("Identity", [name]), ["batch", points, deep]))
    return found


def _joined(tail: _Tail, levels: list[list[str]], spec: ModelSpec) -> list[tuple[str, list[Any]]]:
    """Returns the outputs of forms that hold all levels' points at once."""
    variant, count = tail.variant, spec.num_points
    classes, bins = spec.num_classes, 4 * (spec.reg_max + 1)
    if variant.form in ("distances", "distances-last"):
        bins = 4
    total = classes + bins
    if variant.form == "two":
        parts = [tail.add("Concat", [level[index] for level in levels], axis=1) for index in (0, 1)]
        return [(parts[0], ["batch", count, classes]), (parts[1], ["batch", count, bins])]
    boxes_first = variant.form in ("boxes-first", "distances")
    each = [
        level[0] if len(level) == 1 else tail.add("Concat", level[::-1] if boxes_first else level, axis=2)
        for level in levels
    ]
    whole = tail.add("Concat", each, axis=1)
    if variant.scores == "late":
        start = bins if boxes_first else 0
        scores = tail.add("Sigmoid", [tail.slice(whole, start, start + classes, 2)])
        boxes = tail.slice(whole, 0 if boxes_first else classes, bins if boxes_first else total, 2)
        whole = tail.add("Concat", [boxes, scores] if boxes_first else [scores, boxes], axis=2)
    if variant.form == "joint-planar":
        return [(tail.add("Transpose", [whole], perm=[0, 2, 1]), ["batch", total, count])]
    if variant.form == "joint-flat":
        return [(tail.reshape(whole, [count, total]), [count, total])]
    if variant.form == "joint-flat-planar":
        return [(tail.add("Transpose", [tail.reshape(whole, [count, total])], perm=[1, 0]), [total, count])]
    return [(whole, ["batch", count, total])]


def _written(model: onnx.ModelProto, variant: Variant, folder: Path) -> Path:
    path = folder / "variant.onnx"
    if variant.kind == "half":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, disable_shape_infer=True)
    elif variant.kind == "half-weights":
        _store_half(model)
    trick = variant.trick
    if trick == "weight-first":
        first = model.graph.initializer[0]
        image = onnx.ValueInfoProto.FromString(model.graph.input[0].SerializeToString())
        del model.graph.input[:]
        weight = helper.make_tensor_value_info(first.name, first.data_type, list(first.dims))
        model.graph.input.extend([weight, image])
    elif trick == "named":
        _rename(model, {"stem": "output", "stem.active": "frames", "pool": "frames.float", "sum": "output.sigmoid"})
    elif trick.startswith("const-"):
        hide_constants(model, {tensor.name for tensor in model.graph.initializer if not tensor.dims}, trick[6:])
    if trick == "external":
        onnx.save(model, path, save_as_external_data=True, location="variant.onnx.data", size_threshold=256)
    elif trick.startswith("ort-"):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        level = "ORT_ENABLE_BASIC" if trick == "ort-basic" else "ORT_ENABLE_EXTENDED"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    else:
        onnx.save(model, path)
    return as_ir(path, half=trick == "ir-half") if trick in IR else path


def as_ir(path: Path, *, half: bool = False) -> Path:
    """Writes an ONNX file's IR beside it, and returns its XML file."""
    import openvino as ov

    written = path.with_suffix(".xml")
    ov.save_model(ov.convert_model(path), written, compress_to_fp16=half)
    return written


def _store_half(model: onnx.ModelProto) -> None:
    casts = []
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4 and tensor.data_type == TensorProto.FLOAT:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + rest)


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    taken = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names[name] if name in names and names[name] not in taken else name for name in field]


def reference(variant: Variant, path: Path) -> np.ndarray:
    """Returns (points, classes + bins) of the packaged picture through plain ONNX Runtime and the untouched file.

    Scores are after sigmoid and distributions are as box distances in strides: (points, classes + 4).
    """
    import onnxruntime as ort

    spec = variant.spec()
    untouched = path.with_suffix(".onnx")  # also of an IR, which was made from it
    session = ort.InferenceSession(str(untouched), unoptimised(onnx.load(untouched)), ["CPUExecutionProvider"])
    image = normalised(spec, pixels(spec))
    image = np.repeat(image, 4 if variant.axes == "four" else 1, axis=0)
    given = session.get_inputs()[0]
    image = image.astype(np.float16) if given.type == "tensor(float16)" else image
    found = [np.asarray(values, np.float32) for values in session.run(None, {given.name: image})]
    return _read(variant, spec, found)


def _read(variant: Variant, spec: ModelSpec, found: list[np.ndarray]) -> np.ndarray:
    classes, form = spec.num_classes, variant.form
    if form == "reversed":
        found = found[::-1]
    if form not in ("pairs-chw", "pairs-hwc", "pairs-flat", "joint-flat", "joint-flat-planar"):
        found = [values[0] for values in found]
    if form in ("joint-planar", "joint-flat-planar", "levels", "pairs-nchw", "pairs-chw", "pairs-planar", "reversed"):
        found = [_rows(values) for values in found]
    found = [values.reshape(-1, values.shape[-1]) for values in found]
    if form in PAIRS or form == "distances-pairs":
        scores, boxes = np.concatenate(found[::2]), np.concatenate(found[1::2])
    elif form == "two":
        scores, boxes = found
    else:
        whole = np.concatenate(found)
        first = whole.shape[1] - classes if form in ("boxes-first", "distances") else 0
        scores = whole[:, first : first + classes]
        boxes = whole[:, :first] if first else whole[:, classes:]
    if variant.scores == "logits" or (
        variant.scores == "late" and form in (*PAIRS, "levels", "two", "distances-pairs")
    ):
        scores = 1 / (1 + np.exp(-scores))
    if not form.startswith("distances"):
        boxes = boxes if form == "probabilities" else softmax(boxes, spec.reg_max)
        boxes = boxes.reshape(len(boxes), 4, -1) @ np.arange(spec.reg_max + 1)
    return np.concatenate([scores, boxes], axis=1)


def softmax(boxes: np.ndarray, reg_max: int) -> np.ndarray:
    """Probabilities of each of the four distances, (points, 4 (reg_max + 1)), of logits."""
    each = boxes.reshape(len(boxes), 4, reg_max + 1)
    each = np.exp(each - each.max(axis=2, keepdims=True))
    return (each / each.sum(axis=2, keepdims=True)).reshape(len(boxes), -1)
