"""`python -m calibration inspect`: shows a model file, how it is used, or an engine, layer by layer."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from calibration.cost import model_cost
from streamer.common.errors import ConfigError, counted
from streamer.common.terminal import say
from streamer.engines.tensorrt.cache import read_engine, read_report
from streamer.engines.tensorrt.layers import UNKNOWN, summary
from streamer.models.families import FAMILIES
from streamer.models.file import ModelFile, find_description, load_model, read_graph
from streamer.models.file_forms import is_ir
from streamer.models.graph.constants import Constants
from streamer.models.graph.finished import Finished
from streamer.models.spec import ModelSpec

_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
_REARRANGING = {"Concat", "Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_LONGEST_VALUE = 100
_NAMES: dict[int, str] = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}


@dataclass(frozen=True)
class NodePrecision:
    """What an ONNX node computes in.

    Attributes:
        name: of the node.
        op: its operator.
        precision: ``INT8`` where all inputs but the bias are dequantised, else the output's type, or ``unknown``;
            an engine may choose another.
        stored: a different precision of its stored weights, or empty.
    """

    name: str
    op: str
    precision: str
    stored: str


def node_precisions(proto: ModelProto) -> list[NodePrecision]:
    """Returns the precision of every node, in order, without Q/DQ nodes, constants and casts of weights."""
    reader = _Reader(shape_inference.infer_shapes(proto))
    return [reader.precision(node) for node in reader.graph.node if not reader.is_storage(node)]


class _Reader:
    """Looks up types and producers of a graph's tensors."""

    def __init__(self, proto: ModelProto) -> None:
        self.graph = graph = proto.graph
        self._made_by = {output: node for node in graph.node for output in node.output}
        self._constants = Constants(proto)
        values = (*graph.input, *graph.output, *graph.value_info)
        self._types: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
        self._types.update({constant.name: constant.data_type for constant in graph.initializer})

    def is_storage(self, node: NodeProto) -> bool:
        """Whether a node only stores values: Q/DQ, a constant, the cast of a weight."""
        weight_cast = node.op_type == "Cast" and node.input[0] in self._constants
        return weight_cast or node.op_type in (*_QUANTIZING, "Constant")

    def precision(self, node: NodeProto) -> NodePrecision:
        """Returns what a node computes in."""
        casts = [self._made_by[name] for name in node.input if name in self._made_by]
        sources = [cast.input[0] for cast in casts if cast.op_type == "Cast" and cast.input[0] in self._constants]
        return NodePrecision(
            name=node.name or node.output[0],
            op=node.op_type,
            precision="INT8" if self._reads_int8(node) else _name(self._types.get(node.output[0])),
            stored="+".join(sorted({_name(self._types.get(source)) for source in sources})),
        )

    def _reads_int8(self, node: NodeProto) -> bool:
        """Whether every input but shapes and the bias is dequantised with one scale."""
        bias = _BIAS.get(node.op_type)
        numbers = [name for index, name in enumerate(node.input) if index != bias and self._is_number(name)]
        if node.op_type == "Resize":
            numbers = numbers[:1]  # the rest are factors
        return bool(numbers) and all(len(self._scales(name)) == 1 for name in numbers)

    def _is_number(self, name: str) -> bool:
        return bool(name) and self._types.get(name, TensorProto.FLOAT) in _NAMES

    def _scales(self, name: str) -> set[bytes]:
        """Returns the constant scales of a dequantised tensor, through rearrangements; empty if any is missing."""
        maker = self._made_by.get(name)
        if maker is None:
            return set()
        if maker.op_type == "DequantizeLinear":
            scale = self._constants.get(maker.input[1])
            return set() if scale is None else {scale.tobytes()}
        if maker.op_type not in _REARRANGING:
            return set()
        found = [self._scales(source) for source in maker.input if self._is_number(source)]
        return set().union(*found) if all(found) else set()


def _name(kind: int | None) -> str:
    if not kind:
        return UNKNOWN
    return _NAMES.get(kind, TensorProto.DataType.Name(kind))


def describe_file(path: Path, proto: ModelProto, sha256: str) -> list[str]:
    """Returns the lines that `inspect` prints about an ONNX file itself."""
    graph = proto.graph
    constants = {constant.name for constant in graph.initializer}
    opsets = ", ".join(f"{entry.domain or 'onnx'} {entry.version}" for entry in proto.opset_import)
    made_by = " ".join(filter(None, (proto.producer_name, proto.producer_version))) or UNKNOWN
    form = "OpenVINO IR, read as ONNX" if is_ir(path) else "ONNX"
    return [
        f"{path}: {form}, {path.stat().st_size / 1e6:.2f} MB, sha256 {sha256}",
        f"opsets {opsets}; made by {made_by}; quantised {_quantisation(proto)}",
        *(f"input  {_value(value)}" for value in graph.input if value.name not in constants),
        *(f"output {_value(value)}" for value in graph.output),
        *_metadata({entry.key: entry.value for entry in proto.metadata_props}),
    ]


def _quantisation(proto: ModelProto) -> str:
    kinds = {node.op_type for node in proto.graph.node}
    if any(kind.startswith("QLinear") for kind in kinds):
        return "in QOperator form"
    if kinds & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}:
        return "dynamically"
    return "in Q/DQ form" if kinds & set(_QUANTIZING) else "not at all"


def describe_use(model: ModelFile) -> list[str]:
    """Returns the lines that `inspect` prints about the use of a model."""
    graph, spec = model.proto.graph, model.spec
    padding = f"kept, padded {spec.padding}" if spec.keep_ratio else "stretched"
    pixels = f"mean {_plain(list(spec.mean_bgr))}, std {_plain(list(spec.std_bgr))} in B, G, R order"
    classes = "over all classes" if spec.class_agnostic else "within a class"
    suppression = f"NMS by {spec.nms.upper()} {classes}" if spec.suppresses else "no NMS"
    return [
        f"used as {spec.name}: {counted(spec.num_classes, 'label')}, {_rows(spec)}, aspect ratio {padding}, {pixels}, "
        f"{suppression}",
        *_changes(model),
        *(f"input  {_value(value)}" for value in graph.input),
        *(f"output {_value(value)}" for value in graph.output),
    ]


def _rows(spec: ModelSpec) -> str:
    """Names the form of the boxes."""
    if spec.has_bins:
        return f"reg_max {spec.reg_max}"
    return f"{FAMILIES[spec.family].word} {spec.output}"


def _changes(model: ModelFile) -> list[str]:
    """Returns a line for the file's input, and one for each level of its outputs."""
    if model.form is None:
        return []
    image = model.form.image
    said = [
        f"batch {image.batch}" if image.batch else "any batch",
        "float16" if image.is_half else "float32",
        "channels last" if image.channels_last else "channels first",
        "RGB" if image.is_rgb else "BGR",
    ]
    lines = [f"read   {image.name}: {', '.join(said)}"]
    if isinstance(model.form.layout, Finished):
        return [*lines, f"read   finished detections from {', '.join(model.form.layout.parts)}"]
    for level in model.form.layout.levels:
        scores, boxes = level.scores, level.boxes
        sigmoid = "after a sigmoid" if level.activated else "before a sigmoid, which is added"
        lines.append(
            f"read   scores from {scores.name} channels {scores.start} to {scores.stop - 1}, {sigmoid}; boxes from "
            f"{boxes.name} channels {boxes.start} to {boxes.stop - 1}, as {level.form}"
        )
    return lines


def describe_graph(proto: ModelProto) -> list[str]:
    """Returns the lines that `inspect` prints about a graph's cost and layers."""
    precisions = node_precisions(proto)
    by_op: dict[str, Counter[str]] = defaultdict(Counter)
    for node in precisions:
        by_op[node.op][node.precision] += 1
    stored = Counter(node.stored for node in precisions if node.stored)
    return [
        f"cost   {model_cost(proto)}",
        *(f"layers {op}: {_counts(counts)}" for op, counts in sorted(by_op.items())),
        *(f"stored in {kind}: the weights of {counted(count, 'layer')}" for kind, count in stored.items()),
        *_table(("layer", "operator", "precision"), [(node.name, node.op, node.precision) for node in precisions]),
    ]


def describe_onnx(path: Path, spec: ModelSpec | None) -> list[str]:
    """Returns the lines that `inspect` prints about an ONNX file and, where it has a description, its use.

    Raises:
        ModelError: the file isn't ONNX, or doesn't fit its description.
    """
    proto, sha256 = read_graph(path)
    lines = describe_file(path, proto, sha256)
    spec = spec or find_description(path, proto)
    if spec is None:
        undescribed = "not described: --model-config FILE shows how it would be used"
        return [*lines, undescribed, *describe_graph(proto)]
    model = load_model(path, spec)
    return [*lines, *describe_use(model), *describe_graph(model.proto)]


def describe_engine(path: Path) -> list[str]:
    """Returns the lines that `inspect` prints about an engine, from the report of its build.

    Raises:
        EngineError: the engine or its report is missing or damaged.
    """
    report = read_report(path)
    read_engine(path)
    made_of = {key: value for key, value in report.fingerprint.items() if key not in ("format", "options")}
    rows = [
        (layer.name, layer.kind, layer.inputs, layer.weights or "-", layer.outputs, " ".join(layer.onnx))
        for layer in report.layers
    ]
    return [
        f"{path}: engine, {report.size_bytes / 1e6:.2f} MB, sha256 {report.sha256}",
        *(f"input  {port.name} {port.precision} {list(port.shape)}" for port in report.inputs),
        *(f"output {port.name} {port.precision} {list(port.shape)}" for port in report.outputs),
        *(f"{key}: {_plain(value)}" for key, value in {**made_of, **report.fingerprint.get("options", {})}.items()),
        *_metadata(report.metadata),
        f"layers {summary(report.layers)}",
        *_table(("kernel", "kind", "reads", "weights", "writes", "ONNX nodes"), rows),
    ]


def _value(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    shape = [d.dim_param or d.dim_value or "?" for d in tensor.shape.dim]
    return f"{value.name} {_name(tensor.elem_type)} [{', '.join(map(str, shape))}]"


def _metadata(metadata: Mapping[str, str]) -> list[str]:
    return [f"metadata {key}: {_shortened(value)}" for key, value in sorted(metadata.items())]


def _shortened(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}... ({len(value)} characters)"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None or value == {} else str(value)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {precision}" for precision, count in counts.most_common())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns left-aligned columns under a header; nothing for no rows."""
    lines = [header, *rows]
    if len(lines) == 1:
        return []
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``inspect``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="an .onnx, an OpenVINO .xml or an .engine file")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")


def run(options: argparse.Namespace) -> int:
    """Prints what a model or engine file is.

    Raises:
        StreamerError: the file isn't one, or is damaged.
    """
    if options.file.suffix == ".engine":
        lines = describe_engine(options.file)
    elif options.file.suffix in (".onnx", ".xml"):
        spec = ModelSpec.from_yaml(options.model_config) if options.model_config else None
        lines = describe_onnx(options.file, spec)
    else:
        raise ConfigError(f"{options.file}: wanted a file that ends in .onnx or .engine, or .xml of OpenVINO")
    say("\n".join(lines))
    return 0
