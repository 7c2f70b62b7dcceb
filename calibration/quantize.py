"""Quantises a float ONNX model and writes it if it passes the accuracy gate."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from calibration.files import check_output, check_report, sha256_of_files, write_whole
from calibration.gate import AccuracyGate, GateResult, Limits, latencies_ms
from calibration.methods import METHODS, Quantizer, check_float, quantized_layers, require_packages
from calibration.pictures import DatasetSplit, LabelledPictures, network_input, split, split_labelled
from calibration.report import QuantizationReport
from calibration.search import Candidate, Search
from streamer.common.cpu_info import available_cores, version_of
from streamer.common.errors import ConfigError, EngineError, ModelError, counted
from streamer.common.terminal import say
from streamer.detector.self_check import record
from streamer.engines import ENGINE_NAMES, installed_engines, open_engine
from streamer.models.file import ModelFile, load_model
from streamer.models.spec import METADATA_PREFIX, ModelSpec

CPU_ENGINES = tuple(name for name in ENGINE_NAMES if name in ("openvino", "onnxruntime"))
_LOG = logging.getLogger(__name__)
_PACKAGES = ("nncf", "onnx", "onnxruntime", "openvino")


def quantize(
    model: Path,
    output: Path,
    *,
    images: Path | LabelledPictures,
    labels: Path | None = None,
    gate_images: Path | None = None,
    gate_labels: Path | None = None,
    extra_images: Path | None = None,
    spec: ModelSpec | None = None,
    method: str = "auto",
    max_ap_drop: float = 0.5,
    min_agreement: float = 0.75,
    max_minutes: float = 10.0,
    distill: bool = True,
) -> QuantizationReport:
    """Quantises a float model and writes it with a ``.json`` and ``.md`` report, if it passes the accuracy gate.

    The output is reproducible unless the search runs out of time.

    Args:
        model: float32 ONNX file.
        output: the INT8 file to write.
        images: folder of pictures to calibrate on; three quarters are held out unless `gate_images` is given. Or
            pictures whose labels are read already, instead of these five arguments.
        labels: labels of `images`, used for held-out pictures.
        gate_images: folder of pictures for validation and the gate.
        gate_labels: labels of `gate_images`.
        extra_images: more pictures to calibrate on, without labels.
        spec: describes a foreign model; None uses the file's own description.
        method: ``auto`` or one of `METHODS`.
        max_ap_drop: AP x 100 that may be lost on each engine, with labels.
        min_agreement: least agreement with the float model on each engine, 0 to 1, without labels.
        max_minutes: when to start no further trial.
        distill: whether to train a model that fails the gate before leaving layers in float.

    Raises:
        ConfigError: an option, a picture set or the output is invalid, or a package is missing.
        ModelError: the model can't be quantised, or loses too much accuracy; nothing is written.
    """
    require_packages()
    if method not in ("auto", *METHODS):
        raise ConfigError(f"unknown method {method!r} (known: auto, {', '.join(METHODS)})")
    check_output(output, model, ending=".onnx")
    check_report(output.with_suffix(".json"), rb'\{\s*"model"')
    check_report(output.with_suffix(".md"), rb"# .*, INT8\n")
    began = time.monotonic()
    original = load_model(model, spec)
    check_float(original.proto, model)
    engines = [name for name in CPU_ENGINES if installed_engines()[name] is None]
    if not engines:
        raise EngineError("no inference engine is installed: pip install openvino")
    if isinstance(images, LabelledPictures):
        pictures, labelled = split_labelled(original.spec, images), True
    else:
        pictures = split(original.spec, images, labels, gate_images, gate_labels, extra_images)
        labelled = bool(gate_labels if gate_images else labels)
    gate = AccuracyGate(original, engines, Limits(max_ap_drop, min_agreement), labelled)
    inputs = [network_input(picture, original.spec) for picture in pictures.calibration]
    search = Search(Quantizer(original.proto, inputs), gate, pictures, began + 60 * max_minutes, distills=distill)
    best, results = search.run(METHODS if method == "auto" else (method,))
    if not all(result.passed for result in results):
        raise ModelError(_refusal(best, results, labelled, max_ap_drop, min_agreement))
    calibration_sha256 = sha256_of_files(sorted(picture.sample.image for picture in pictures.calibration))
    content = _describe(best, original, calibration_sha256, engines[0])
    report = _report(best, original, content, pictures, search, results, calibration_sha256)
    write_whole(output, content)
    write_whole(output.with_suffix(".json"), report.to_json().encode())
    write_whole(output.with_suffix(".md"), report.to_markdown().encode())
    return report


def _refusal(
    best: Candidate, results: Sequence[GateResult], labelled: bool, max_ap_drop: float, min_agreement: float
) -> str:
    limit = f"at most {max_ap_drop:g} AP may be lost" if labelled else f"agreement of at least {min_agreement:g}"
    fix = "--max-ap-drop" if labelled else "--min-agreement"
    failed = any(not result.passed and result.more_pictures is None for result in results)
    result = "fails the accuracy gate" if failed else "may lose too much for the accuracy gate"
    return (
        f"not written, the INT8 model {result} ({limit}) with method {best.trial.method} and"
        f" {counted(len(best.trial.float_layers), 'layer')} in float: {'; '.join(result.line() for result in results)}."
        f" Give more pictures, another --method, more --max-minutes, or another {fix}"
    )


def _describe(best: Candidate, original: ModelFile, calibration_sha256: str, engine: str) -> bytes:
    """Returns the INT8 file; its metadata has the description, the method and the self-check."""
    proto = best.proto
    kept = {entry.key: entry.value for entry in [*original.proto.metadata_props, *proto.metadata_props]}
    notes = {
        "int8_method": best.trial.method,
        "int8_float_layers": list(best.trial.float_layers),
        "int8_calibration_sha256": calibration_sha256,
        "int8_float_sha256": original.sha256,
    }
    described = {f"{METADATA_PREFIX}{key}": json.dumps(value) for key, value in notes.items()}
    onnx.helper.set_model_props(proto, kept | original.spec.to_metadata() | described)
    proto.producer_name = original.proto.producer_name
    proto.producer_version = ""
    proto.doc_string = ""
    quantized = replace(original, proto=proto)
    with contextlib.closing(open_engine(engine, quantized, slots=1)) as runner:
        record(quantized, runner)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _report(
    best: Candidate,
    original: ModelFile,
    content: bytes,
    pictures: DatasetSplit,
    search: Search,
    results: Sequence[GateResult],
    calibration_sha256: str,
) -> QuantizationReport:
    sha256 = hashlib.sha256(content).hexdigest()
    models = {"float": original, "int8": ModelFile(original.path, sha256, original.spec, best.proto)}
    latency: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        for threads in sorted({1, available_cores()}):
            figures = latencies_ms(models, result.engine, pictures.gate[0], threads)
            latency.setdefault(result.engine, {})[str(threads)] = figures
    return QuantizationReport(
        model=original.spec.name,
        float_sha256=original.sha256,
        int8_sha256=sha256,
        float_bytes=original.path.stat().st_size,
        int8_bytes=len(content),
        method=best.trial.method,
        float_layers=best.trial.float_layers,
        quantized_layers=len(quantized_layers(best.proto, search.quantizer.layers)),
        calibration_sha256=calibration_sha256,
        pictures={
            "calibration": len(pictures.calibration),
            "choice": len(pictures.validation),
            "gate": len(pictures.gate),
        },
        unreadable=tuple(file.name for file in pictures.unreadable),
        trials=tuple(search.trials),
        results=tuple(results),
        latency_ms=latency,
        machine=f"{platform.processor() or platform.machine()}, {counted(available_cores(), 'core')}",
        versions={name: version for name in _PACKAGES if (version := version_of(name))},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``quantize``."""
    parser.add_argument("model", metavar="MODEL.onnx", type=Path, help="float32 model")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.onnx", help="file to write")
    add_search_arguments(parser)


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options for pictures, methods and limits; their defaults are those of `quantize`."""
    parser.set_defaults(**_search_defaults())
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="pictures to calibrate on, 16 or more; or a .txt list"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="DIR|FILE", help="their labels, to measure AP on held-out ones: see val"
    )
    parser.add_argument(
        "--gate-images", type=Path, metavar="DIR", help="pictures for the accuracy gate, instead of held-out ones"
    )
    parser.add_argument("--gate-labels", type=Path, metavar="DIR|FILE", help="their labels")
    parser.add_argument(
        "--extra-images", type=Path, metavar="DIR", help="more pictures to calibrate on, without labels"
    )
    parser.add_argument("--method", choices=("auto", *METHODS), help="auto tries all, keeps the best")
    parser.add_argument("--max-ap-drop", type=float, metavar="AP", help="AP that may be lost (%(default)s)")
    parser.add_argument(
        "--min-agreement", type=float, metavar="A", help="without labels: least agreement, 0 to 1 (%(default)s)"
    )
    parser.add_argument("--max-minutes", type=float, metavar="M", help="when to stop trying (%(default)s)")
    parser.add_argument(
        "--no-distill", action="store_false", dest="distill", help="leave layers in float without training first"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the verb ``quantize`` and prints what was measured and written.

    Raises:
        StreamerError: see `quantize`.
    """
    spec = ModelSpec.from_yaml(args.model_config) if args.model_config else None
    print_report(quantize(args.model, args.output, spec=spec, **search_options(args)), args.output)
    return 0


def search_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of `add_search_arguments` as arguments of `quantize`."""
    return {name: getattr(args, name) for name in ("images", *_search_defaults())}


def _search_defaults() -> dict[str, Any]:
    return {name: value for name, value in (quantize.__kwdefaults__ or {}).items() if name != "spec"}


def print_report(report: QuantizationReport, output: Path) -> None:
    """Prints trials, results and the output file."""
    for name in report.unreadable:
        say(f"skipped, can't be read: {name}")
    for trial in report.trials:
        say(trial.line())
    for result in report.results:
        say(result.line())
    if report.float_layers:
        say(f"left in float: {', '.join(report.float_layers)}")
    say(f"{output}: {report.int8_bytes / 1e6:.2f} MB, method {report.method}, sha256 {report.int8_sha256}")
