"""Quantisation methods: from a float graph and network inputs to a Q/DQ graph.

Channels are equalised first (`calibration.equalize`). NNCF places pairs and quantises weights; activation ranges are
NNCF's or an ONNX Runtime calibrator's. One int8 pair precedes each convolution and none separates it from its
activation, as OpenVINO and TensorRT fuse it; `streamer.models.graph.int8` adapts the graph to ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from calibration.equalize import equalized
from calibration.files import temporary_folder
from calibration.prepare import prepared
from calibration.ranges import Range, convolution_ranges
from streamer.common.errors import ConfigError, ModelError
from streamer.common.telemetry import without_telemetry
from streamer.models.graph.int8 import RANGES_KEY, is_quantized
from streamer.models.spec import ModelSpec

METHODS = ("nncf", "minmax", "entropy", "percentile")
"""In the order that `auto` tries them, the best and fastest first."""

_CHUNK = 4
_CALIBRATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "minmax": ("MinMaxCalibrater", {}),
    "entropy": ("EntropyCalibrater", {}),
    "percentile": ("PercentileCalibrater", {"num_bins": 2048, "percentile": 99.999}),
}


def require_packages() -> None:
    """Raises ConfigError if a package is missing."""
    try:
        with without_telemetry():
            import nncf  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"quantize needs {error.name}: pip install 'nanodet-streamer[quantize]'") from error


def quiet_onnxruntime() -> None:
    """Silences ONNX Runtime in sessions of other packages: foreign files cause a warning for each weight."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # fatal errors only


def check_float(model: ModelProto, path: Path) -> None:
    """Raises ModelError for a model that is quantised, contains float16, or has no convolutions."""
    if is_quantized(model):
        raise ModelError(f"{path} is quantised already: quantise the float model it was made from")
    half = [constant.name for constant in model.graph.initializer if constant.data_type == TensorProto.FLOAT16]
    if half:
        raise ModelError(f"{path} holds float16 ({half[0]}): quantise a float32 export (without --float16-weights)")
    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise ModelError(f"{path} has no convolutions: nothing to quantise")


class Quantizer:
    """Quantises one float model by several methods, sharing intermediate results.

    Attributes:
        model: the float graph with equalised channels.
        layers: {convolution's node name: layer's name}.
        unrounded: outputs of convolutions that ONNX Runtime must not round before the activation.
    """

    def __init__(self, model: ModelProto, inputs: Sequence[npt.NDArray[np.float32]]) -> None:
        """Takes a float32 model and calibration data, each (1, 3, H, W) float32, normalised."""
        require_packages()
        quiet_onnxruntime()
        self.model = equalized(prepared(model, inputs[0]), inputs)
        for index, node in enumerate(self.model.graph.node):
            node.name = node.name or f"node{index}"
        self._inputs = inputs
        self._placed: dict[frozenset[str], ModelProto] = {}
        self._ranges: dict[str, dict[str, Range]] = {}
        self._output_ranges: dict[str, Range] = {}
        self._floats = self.model
        self.layers = layer_names(self.model)
        self.unrounded: set[str] = set()

    def quantize(self, method: str, float_layers: Collection[str] = ()) -> ModelProto:
        """Returns the Q/DQ graph.

        Args:
            method: one of `METHODS`.
            float_layers: convolutions, by the names in `layers`, to leave in float.

        Raises:
            ConfigError: the method is unknown.
            ModelError: the quantiser fails.
        """
        if method not in METHODS:
            raise ConfigError(f"unknown method {method!r} (known: {', '.join(METHODS)})")
        quantized = self._place(frozenset(float_layers))
        if method != "nncf":
            _set_scales(quantized, self._calibrate(method))
        if not self._output_ranges:
            self._output_ranges = convolution_ranges(self.model, self._inputs)
        self._write_ranges(quantized, self._output_ranges)
        return quantized

    def tune(
        self,
        quantized: ModelProto,
        spec: ModelSpec,
        pictures: Sequence[npt.NDArray[np.uint8]],
    ) -> ModelProto:
        """Returns a copy of a Q/DQ graph after `calibration.distill`.

        Args:
            quantized: from `quantize`.
            spec: the model's description.
            pictures: network inputs, each (H, W, 3) uint8 BGR.

        Raises:
            ModelError: the graph has an operator that can't be trained.
        """
        from calibration.distill import tune

        tuned, self._floats = tune(quantized, self.model, spec, pictures)
        self._write_ranges(tuned, convolution_ranges(self._floats, self._inputs))
        return tuned

    def in_float(self, quantized: ModelProto, float_layers: Collection[str]) -> ModelProto:
        """Returns a graph of `quantize` or, once there is one, of `tune` with some convolutions back in float.

        Args:
            quantized: the graph, which isn't changed.
            float_layers: convolutions, by the names in `layers`; after `tune` they have the trained weights.
        """
        names = {node for node, layer in self.layers.items() if layer in float_layers}
        return without_layers(quantized, self._floats, names)

    def _write_ranges(self, quantized: ModelProto, ranges: Mapping[str, Range]) -> None:
        write_output_ranges(quantized, {name: both for name, both in ranges.items() if name not in self.unrounded})

    def _place(self, float_layers: frozenset[str]) -> ModelProto:
        """Returns a copy of NNCF's result."""
        if float_layers not in self._placed:
            by_layer = {layer: node for node, layer in self.layers.items()}
            kept = {by_layer[layer] for layer in float_layers} | _behind_last_convolutions(self.model)
            self._placed[float_layers] = self._nncf(kept)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._placed[float_layers])
        return copy

    def _nncf(self, kept: Collection[str]) -> ModelProto:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

        logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would raise every handler's level too
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        name = model.graph.input[0].name
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantized: ModelProto = nncf.quantize(
                    model,
                    nncf.Dataset([{name: values} for values in self._inputs]),
                    preset=nncf.QuantizationPreset.PERFORMANCE,
                    subset_size=len(self._inputs),
                    ignored_scope=nncf.IgnoredScope(names=sorted(kept), validate=False),  # NNCF omits nodes of integers
                    advanced_parameters=AdvancedQuantizationParameters(
                        overflow_fix=nncf.OverflowFix.DISABLE,
                        # one scale a tensor: TensorRT and ONNX Runtime take no more
                        activations_quantization_params=QuantizationParameters(per_channel=False),
                    ),
                )
        except Exception as error:  # NNCF's exceptions share no other base
            raise ModelError(f"NNCF can't quantise this model: {str(error).strip().splitlines()[0]}") from error
        _make_signed(quantized)
        del quantized.graph.value_info[:]
        return quantized

    def _calibrate(self, method: str) -> dict[str, Range]:
        """Returns each float tensor's (min, max)."""
        if method not in self._ranges:
            self._ranges[method] = self._run_calibrator(method)
        return self._ranges[method]

    def _run_calibrator(self, method: str) -> dict[str, Range]:
        from onnxruntime.quantization import calibrate

        wanted = {self.model.graph.input[0].name}
        wanted |= {node.output[0] for node in self.model.graph.node if node.op_type in _MAKES_VALUES}
        kind, options = _CALIBRATORS[method]
        with temporary_folder() as folder:
            plain, augmented = folder / "plain.onnx", folder / "augmented.onnx"
            onnx.save(self.model, plain)
            calibrator = getattr(calibrate, kind)(str(plain), None, str(augmented), **options)
            infos = {info.name: info for info in [*calibrator.model.graph.value_info, *calibrator.model.graph.input]}
            floats = {name for name, info in infos.items() if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
            calibrator.select_tensors_to_calibrate = lambda model: (wanted & floats, infos)
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.augment_graph()
                calibrator.create_inference_session()
                for start in range(0, len(self._inputs), _CHUNK):  # a call keeps every picture's tensors in memory
                    chunk = self._inputs[start : start + _CHUNK]
                    calibrator.collect_data(_Reader(self.model.graph.input[0].name, chunk))
                found = calibrator.compute_data()
        return {
            name: (min(0.0, float(np.min(data.range_value[0]))), max(0.0, float(np.max(data.range_value[1]))))
            for name, data in found.items()
        }


_MAKES_VALUES = {"Conv", "LeakyRelu", "Relu", "Add", "Mul", "Sub", "Sigmoid", "HardSigmoid", "HardSwish", "AveragePool"}


class _Reader:
    """Feeds ONNX Runtime's calibrators."""

    def __init__(self, name: str, inputs: Sequence[npt.NDArray[np.float32]]) -> None:
        self._rest: Iterator[dict[str, npt.NDArray[np.float32]]] = ({name: values} for values in inputs)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self._rest, None)


def read_output_ranges(quantized: ModelProto) -> dict[str, Range]:
    """Returns the ranges of convolutions' outputs in the metadata."""
    text = next(entry.value for entry in quantized.metadata_props if entry.key == RANGES_KEY)
    return {name: (low, high) for name, (low, high) in json.loads(text).items()}


def write_output_ranges(quantized: ModelProto, ranges: Mapping[str, Range]) -> None:
    """Writes the ranges of convolutions' outputs into the metadata, for `streamer.models.graph.int8`."""
    rounded = {name: [float(f"{low:.6g}"), float(f"{high:.6g}")] for name, (low, high) in ranges.items()}
    metadata = {entry.key: entry.value for entry in quantized.metadata_props}
    onnx.helper.set_model_props(quantized, metadata | {RANGES_KEY: json.dumps(rounded, sort_keys=True)})


def layer_names(model: ModelProto) -> dict[str, str]:
    """Returns {convolution's node name: layer name, as in the state dict where the weight still has it}."""
    names = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            layer = node.input[1].removesuffix(".weight")
            names[node.name] = layer if layer != node.input[1] else node.name
    return names


def quantized_layers(quantized: ModelProto, layers: dict[str, str]) -> list[str]:
    """Returns the values of `layers` whose weights are quantised."""
    dequantized = {node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    return [
        layers[node.name]
        for node in quantized.graph.node
        if node.op_type == "Conv" and node.name in layers and node.input[1] in dequantized
    ]


def without_layers(quantized: ModelProto, model: ModelProto, names: Collection[str]) -> ModelProto:
    """Returns `quantized` with some convolutions, by node name, in float: weights as in `model`, inputs unrounded."""
    changed = onnx.ModelProto()
    changed.CopyFrom(quantized)
    sources = {node.name: node for node in model.graph.node}
    constants = {item.name: item for item in model.graph.initializer}
    made_by = {node.output[0]: node for node in changed.graph.node}
    for target in [node for node in changed.graph.node if node.name in names]:
        pair = made_by.get(target.input[0])
        if pair is not None and pair.op_type == "DequantizeLinear":
            target.input[0] = made_by[pair.input[0]].input[0]
        for place, name in enumerate(sources[target.name].input[1:], start=1):
            restored = changed.graph.initializer.add()
            restored.CopyFrom(constants[name])
            restored.name = f"{name}.restored"
            target.input[place] = restored.name
    _prune(changed)
    return changed


def _prune(model: ModelProto) -> None:
    """Removes nodes and constants that no output of the graph depends on."""
    graph = model.graph
    used = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    constants = [item for item in graph.initializer if item.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _behind_last_convolutions(model: ModelProto) -> set[str]:
    """Returns the nodes between the last convolutions and the output: scores and distances must not share a scale."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    names: set[str] = set()
    waiting = [output.name for output in model.graph.output]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.op_type != "Conv" and node.name not in names:
            names.add(node.name)
            waiting += node.input
    return names


def _make_signed(model: ModelProto) -> None:
    """Turns uint8 activations of zero point 0 (behind a ReLU) into int8 of twice the scale: TensorRT takes no uint8."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    done: set[str] = set()
    for node in _pairs(model):
        scale, zero = (constants[name] for name in node.input[1:3])
        if numpy_helper.to_array(zero).dtype == np.int8:
            continue
        if scale.name not in done:
            wider = numpy_helper.to_array(scale) * np.float32(255 / 127)
            scale.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), scale.name))
        zero.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(zero), np.int8), zero.name))
        done.add(scale.name)


def _pairs(model: ModelProto) -> list[NodeProto]:
    """Returns the QuantizeLinear and DequantizeLinear nodes of activations."""
    constants = {constant.name for constant in model.graph.initializer}
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return [node for node in model.graph.node if node.op_type in kinds and node.input[0] not in constants]


def _set_scales(model: ModelProto, ranges: dict[str, tuple[float, float]]) -> None:
    """Replaces the scales of activations; tensors that shared a scale (joined by a Concat) keep sharing one."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    largest: dict[bytes, float] = {}
    groups: dict[str, bytes] = {}
    for node in _pairs(model):
        scale = numpy_helper.to_array(constants[node.input[1]])
        groups.setdefault(node.input[1], scale.tobytes())
        if node.op_type == "QuantizeLinear":
            tensor = node.input[0]
            while tensor not in ranges:
                tensor = made_by[tensor].input[0]  # a rearrangement keeps the range
            group = groups[node.input[1]]
            largest[group] = max(largest.get(group, 0.0), *(abs(value) for value in ranges[tensor]))
    for name, group in groups.items():
        scale = np.array(max(largest[group], 1e-6) / 127, np.float32)
        shape = numpy_helper.to_array(constants[name]).shape
        constants[name].CopyFrom(numpy_helper.from_array(np.full(shape, scale, np.float32), name))
