"""Reads model files (ONNX, OpenVINO IR) into one normal form: a description and an ONNX graph.

Exports of this project describe themselves; a foreign file may need a YAML description.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.checker import ValidationError

from streamer.common.errors import ModelError
from streamer.common.file_content import text_instead
from streamer.models.described import DescribedModel
from streamer.models.families import FAMILIES
from streamer.models.file_forms import is_ir, is_onnx, refuse_other_forms
from streamer.models.graph.constants import fold_constants
from streamer.models.graph.editor import GraphEditor
from streamer.models.graph.external_data import load_external_data
from streamer.models.graph.finished import Finished, read_finished
from streamer.models.graph.inputs import ImageForm, fit_input
from streamer.models.graph.int8 import is_quantized, quantize_convolution_outputs, use_uint8
from streamer.models.graph.layout import Layout, read_layout
from streamer.models.graph.openvino import read_ir
from streamer.models.graph.outputs import join_outputs
from streamer.models.graph.qoperator import use_pairs
from streamer.models.graph.recognise import recognised
from streamer.models.graph.saturation import prevent_saturation
from streamer.models.graph.shapes import shapes_of
from streamer.models.spec import METADATA_PREFIX, ModelSpec

log = logging.getLogger(__name__)

_FRAMES = "frames"
_HEAD_BYTES = 512


@dataclass(frozen=True)
class FileForm:
    """Input and outputs of the file itself, before normalising."""

    image: ImageForm
    layout: Layout | Finished


@dataclass(frozen=True, eq=False)
class ModelFile(DescribedModel):
    """A model in the form every engine takes.

    Attributes:
        proto: one input (batch, 3, H, W) float32, normalised BGR; one output (batch, N, channels) float32, scores
            after sigmoid.
        form: of the file itself; None for a graph made in memory.
    """

    proto: ModelProto
    form: FileForm | None = None

    @cached_property
    def quantized(self) -> bool:
        """True when the graph holds INT8 Q/DQ nodes."""
        return is_quantized(self.proto)

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the graph takes; None where it takes any."""
        return self.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None

    def with_uint8_input(
        self,
        *,
        activations: Literal["uint8", "int8"] = "uint8",
        convolution_outputs: bool = False,
        fits_16_bits: bool = False,
    ) -> bytes:
        """Returns the serialised graph with one input (batch, H, W, 3) uint8 BGR, normalisation inside.

        Args:
            activations: storage of INT8 activations; the values are equal (see `streamer.models.graph.int8`).
            convolution_outputs: quantise these too, for ONNX Runtime; needs uint8 activations.
            fits_16_bits: make weights smaller where sums of two products need more than 16 bits, see
                `streamer.models.graph.saturation`; with uint8 activations.

        Raises:
            ModelError: an INT8 model can't be adapted.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        if self.quantized and activations == "uint8":
            use_uint8(proto)
            if convolution_outputs:
                quantize_convolution_outputs(proto)
            if fits_16_bits:
                prevent_saturation(proto)
        editor = GraphEditor(proto)
        image = proto.graph.input[0]
        width, height = self.spec.input_size_wh
        batch = image.type.tensor_type.shape.dim[0]
        means = editor.constant(np.array(self.spec.mean_bgr, np.float32), f"{_FRAMES}.mean")
        scales = editor.constant(1 / np.array(self.spec.std_bgr, np.float32), f"{_FRAMES}.scale")
        given, floats, centred, normalised = (
            editor.fresh(f"{_FRAMES}{part}") for part in ("", ".float", ".centred", ".normalised")
        )
        nodes = [
            helper.make_node("Cast", [given], [floats], to=TensorProto.FLOAT),
            helper.make_node("Sub", [floats, means], [centred]),
            helper.make_node("Mul", [centred, scales], [normalised]),
            helper.make_node("Transpose", [normalised], [image.name], perm=[0, 3, 1, 2]),
        ]
        size: list[int | str | None] = [batch.dim_param or batch.dim_value or "batch", height, width, 3]
        editor.replace_input(helper.make_tensor_value_info(given, TensorProto.UINT8, size), nodes)
        return proto.SerializeToString()


def load_model(path: Path, spec: ModelSpec | None = None) -> ModelFile:
    """Reads an ONNX file or an OpenVINO IR, with external weights.

    `spec` describes a foreign file; None uses `find_description`.

    Raises:
        ModelError: the file can't be read, has no description, or doesn't fit it.
        ConfigError: the description beside it is invalid.
    """
    proto, digest = read_graph(path)
    spec = spec or find_description(path, proto)
    if spec is None:
        raise ModelError(
            f"{str(path)!r} describes itself nowhere, and its graph alone doesn't tell what it is: give --model-config "
            f"FILE with labels: and its family: ({', '.join(FAMILIES)}), or configs/models/<network>.yaml of a NanoDet"
        )
    return in_one_form(path, digest, proto, spec)


def in_one_form(path: Path, digest: str, proto: ModelProto, spec: ModelSpec) -> ModelFile:
    """Converts a graph that `spec` describes to the form that every engine takes, in place.

    `path` is the file, for messages; `digest` its SHA-256 in hex.

    Raises:
        ModelError: the graph doesn't fit `spec`.
    """
    try:
        image, spec = fit_input(proto, spec)
        use_pairs(proto)
        shapes = shapes_of(proto, spec.input_size_wh)
        layout, spec = read_finished(proto, spec, shapes) or read_layout(proto, spec, shapes)
        join_outputs(proto, layout, spec)
    except ModelError as error:
        raise ModelError(f"{str(path)!r} {error}") from None
    known = ("auto", "auto") if spec.has_bins else ("probabilities", "scores-first")
    spec = spec.model_copy(update={"channel_order": "BGR", "scores": known[0], "order": known[1]})
    return ModelFile(path, digest, spec, proto, FileForm(image, layout))


def find_description(path: Path, proto: ModelProto) -> ModelSpec | None:
    """Returns the description in the metadata, or beside the file, or recognised by the graph; else None.

    Raises:
        ModelError: the metadata is damaged.
        ConfigError: the description beside the file is invalid.
    """
    if is_described(proto):
        try:
            return ModelSpec.from_metadata({entry.key: entry.value for entry in proto.metadata_props})
        except ModelError as error:
            raise ModelError(f"{str(path)!r}: {error}") from error
    spec = description_beside(path)
    if spec is None and (spec := recognised(proto, path.stem)):
        log.info("%s is recognised as %s with COCO's labels", path.name, FAMILIES[spec.family].word)
    return spec


def is_described(proto: ModelProto) -> bool:
    """Whether a graph's metadata describes it."""
    return any(entry.key.startswith(METADATA_PREFIX) for entry in proto.metadata_props)


def description_beside(path: Path) -> ModelSpec | None:
    """Reads the .yaml, .yml or .json description beside a file that isn't ONNX; None where there is none.

    Raises:
        ConfigError: it is invalid.
    """
    beside = [] if is_onnx(path) else [path.with_suffix(ending) for ending in (".yaml", ".yml", ".json")]
    return next((ModelSpec.from_yaml(file) for file in beside if file.is_file()), None)


def read_graph(path: Path) -> tuple[ModelProto, str]:
    """Reads an ONNX file, or an OpenVINO IR (``NAME.xml`` and ``NAME.bin``) as ONNX; returns it and its SHA-256.

    Raises:
        ModelError: the file can't be read, or is of another format.
    """
    refuse_other_forms(path)
    return _read_ir(path) if is_ir(path) else read_onnx(path)


def _read_ir(path: Path) -> tuple[ModelProto, str]:
    parts = []
    try:
        for part in (path, path.with_suffix(".bin")):
            parts.append(part.read_bytes())
    except OSError as error:
        raise ModelError(
            f"can't read the model {str(path)!r}: {part.name}: {error.strerror or error}; an OpenVINO IR is two files"
        ) from error
    if problem := text_instead(parts[1][:_HEAD_BYTES]):
        raise ModelError(f"{part.name!r}, the weights of {str(path)!r}, {problem}")
    try:
        proto = read_ir(*parts)
        _check(proto, b"")
        fold_constants(proto)
    except ModelError as error:
        raise ModelError(f"{str(path)!r} {error}") from None
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{str(path)!r} is not a readable OpenVINO IR: {_first_line(error)}") from error
    return proto, hashlib.sha256(b"".join(parts)).hexdigest()


def read_onnx(path: Path) -> tuple[ModelProto, str]:
    """Reads an ONNX file and folds its constants; returns it and the SHA-256 of it and its external data, in hex.

    Raises:
        ModelError: the file can't be read, or isn't ONNX.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"can't read the model {str(path)!r}: {error.strerror or error}") from error
    digest = hashlib.sha256(data)
    try:
        proto = onnx.load_model_from_string(data)
        if external := load_external_data(proto, path):
            digest.update(external)
            data = b""
        _check(proto, data)
        _check_constants(proto)
    except ModelError as error:
        raise ModelError(f"{str(path)!r} {error}") from None
    except (ValidationError, ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        raise ModelError(f"{str(path)!r} is not a readable ONNX file: {_first_line(error)}") from error
    except Exception as error:  # protobuf's DecodeError has no stable home
        if type(error).__name__ != "DecodeError":
            raise
        raise ModelError(f"{str(path)!r} is not an ONNX file (or was cut short): {_first_line(error)}") from error
    return proto, digest.hexdigest()


def _check(proto: ModelProto, data: bytes) -> None:
    """Runs ONNX's checker; inputs and outputs may lack a shape. `data`, where complete, saves a serialisation."""
    values = (*proto.graph.input, *proto.graph.output)
    undeclared = [value.type.tensor_type for value in values if not value.type.tensor_type.HasField("shape")]
    for tensor in undeclared:
        tensor.shape.SetInParent()
    onnx.checker.check_model(proto if undeclared or not data else data)
    for tensor in undeclared:
        tensor.ClearField("shape")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_constants(proto: ModelProto) -> None:
    """Checks every constant's size and folds constants; raises ModelError, which continues the file's name."""
    name = ""
    try:
        for constant in proto.graph.initializer:
            name = constant.name
            numpy_helper.to_array(constant)
        name = "of a node"
        fold_constants(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"is damaged at its constant {name!r} ({_first_line(error)})") from error
