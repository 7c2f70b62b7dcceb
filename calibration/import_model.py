"""`python -m calibration import`: converts OpenVINO IR, TFLite and NCNN models to self-describing ONNX files.

OpenVINO reads IR and TFLite, and its results are compared with the ONNX graph's. NCNN's files are read here, because a
damaged file crashes the package ``ncnn``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from calibration.files import check_output, write_whole
from calibration.ncnn_graph import read_ncnn
from streamer.common.errors import ConfigError, ModelError
from streamer.common.terminal import say
from streamer.detector.reference import difference_of_rows, reference_rows
from streamer.detector.self_check import packaged_frame, record
from streamer.engines import open_engine
from streamer.models.file import description_beside, in_one_form, read_graph
from streamer.models.file_forms import is_openvino_format
from streamer.models.graph.openvino import read_openvino
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec, parse_size_wh, spec_for

_READ = (".xml", ".tflite", ".param")


@dataclass(frozen=True)
class ImportReport:
    """What was written.

    Attributes:
        path: the ONNX file.
        size_bytes: its size.
        sha256: its hash, in hex.
    """

    path: Path
    size_bytes: int
    sha256: str


def import_model(model: Path, spec: ModelSpec | None, output: Path) -> ImportReport:
    """Converts a model to ONNX.

    Args:
        model: ``.xml`` (OpenVINO IR), ``.tflite`` or ``.param`` (NCNN), with its weights beside it.
        spec: describes it; None uses the description beside it or in an IR.
        output: the ``.onnx`` file, written atomically.

    Raises:
        ConfigError: `output` can't be written, or the description is missing or invalid.
        ModelError: the model can't be read, doesn't fit its description, or the ONNX graph's results differ.
    """
    ending = model.suffix.lower()
    if ending not in _READ:
        raise ConfigError(f"{model}: wanted an OpenVINO IR (.xml), a TFLite (.tflite) or an NCNN model (.param)")
    check_output(output, model, model.with_suffix(".bin"), ending=".onnx")
    described = spec or description_beside(model)
    proto, digest = _read(model, described)
    if described is None:
        described = _own_description(model, proto)
    imported = in_one_form(model, digest, proto, described)
    frame = packaged_frame()
    width, height = imported.spec.input_size_wh
    pixels = np.zeros((height, width, 3), np.uint8)
    Letterbox.for_model(frame, imported.spec).apply(frame, pixels)
    engine = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "openvino"
    with contextlib.closing(open_engine(engine, imported, slots=1, precision="f32")) as runner:
        runner.input(0)[:] = pixels
        runner.start(0)
        computed = runner.wait(0)[0].copy()
        wanted = reference_rows(imported, pixels) if is_openvino_format(model) else None
        problem = None if wanted is None else difference_of_rows(wanted, computed, imported.spec)
        if problem:
            raise ModelError(f"{str(model)!r}: the ONNX graph computes something else than OpenVINO ({problem})")
        kept = {entry.key: entry.value for entry in proto.metadata_props} | imported.spec.to_metadata()
        onnx.helper.set_model_props(proto, kept)
        record(imported, runner)
    content = proto.SerializeToString(deterministic=True)
    write_whole(output, content)
    return ImportReport(output, len(content), hashlib.sha256(content).hexdigest())


def _read(model: Path, spec: ModelSpec | None) -> tuple[ModelProto, str]:
    ending = model.suffix.lower()
    if ending == ".xml":
        return read_graph(model)
    if ending == ".param":
        proto = read_ncnn(model, spec.input_size_wh if spec else None)
        return proto, _sha256(model, model.with_suffix(".bin"))
    try:
        digest = _sha256(model)
        return read_openvino(model), digest
    except OSError as error:
        raise ModelError(f"can't read the model {str(model)!r}: {error.strerror or error}") from error
    except ModelError as error:
        raise ModelError(f"{str(model)!r} {error}") from None


def _sha256(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _own_description(model: Path, proto: ModelProto) -> ModelSpec:
    try:
        return ModelSpec.from_metadata({entry.key: entry.value for entry in proto.metadata_props})
    except ModelError as error:
        raise ConfigError(f"{model}: {error}; say --model nanodet-m_320 or the like, or --model-config FILE") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``import``."""
    parser.add_argument("file", metavar="FILE", type=Path, help="an .xml (OpenVINO), .tflite or .param (NCNN) file")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME", help="what it is: <network>_<size>, such as nanodet-m_320")
    model.add_argument("--model-config", metavar="YAML", type=Path, help="description of a model of your own")
    parser.add_argument("--input-size", metavar="W[xH]", help="network input in pixels, where the file leaves it open")
    parser.add_argument("-o", "--output", metavar="OUT.onnx", type=Path, required=True, help="file to write")


def run(args: argparse.Namespace) -> int:
    """Runs the verb ``import`` and prints what was written.

    Raises:
        StreamerError: see `import_model`.
    """
    spec = ModelSpec.from_yaml(args.model_config) if args.model_config else None
    spec = spec_for(args.model) if args.model else spec
    if args.input_size:
        if spec is None:
            raise ConfigError("--input-size goes with --model or --model-config")
        spec = spec.with_input_size(parse_size_wh(args.input_size))
    report = import_model(args.file, spec, args.output)
    say(f"{report.path}: {report.size_bytes / 1e6:.2f} MB, sha256 {report.sha256}")
    return 0
