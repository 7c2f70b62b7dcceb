"""What a model file's author meant: its outputs for one picture, computed from the file itself, untouched.

ONNX Runtime computes it where it is installed, without optimising; else, and where it is an OpenVINO IR, OpenVINO in
float32, without its integer kernels. An engine's output, for which the graph was rewritten and optimised, has to be
much the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer import __version__
from streamer.common.cache import cached_file
from streamer.common.cpu_info import processor_name, version_of
from streamer.models.families import boxes_of, scores_of
from streamer.models.file import ModelFile
from streamer.models.file_forms import is_ir
from streamer.models.graph.openvino_writer import port_name
from streamer.models.spec import ModelSpec

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]
_MAX_SCORE_DIFFERENCE = 0.2
_MAX_DISTANCE_DIFFERENCE = 0.2
_PACKAGES = ("onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch")


def reference_rows(model: ModelFile, pixels: npt.NDArray[np.uint8]) -> Rows | None:
    """Computes the file's own outputs for one picture.

    Args:
        model: loaded from a file.
        pixels: (H, W, 3) uint8 BGR, of the network's input size.

    Returns:
        (rows, channels) float32, as `ModelSpec` describes them; None where nothing here runs the file.
    """
    if model.form is None:
        return None
    spec = model.spec
    values = (pixels.astype(np.float32) - np.array(spec.mean_bgr, np.float32)) / np.array(spec.std_bgr, np.float32)
    image = model.form.image
    images = {image.name: image.of(values.transpose(2, 0, 1)[None].astype(np.float32)), **image.sizes}
    runners = {"onnxruntime": _run_onnxruntime, "openvino": _run_openvino}
    if is_ir(model.path):
        del runners["onnxruntime"]
    for package, run in runners.items():
        if importlib.util.find_spec(package) is None:
            continue
        try:
            return model.form.layout.rows(run(model, images))
        except Exception as error:  # their exceptions share no base but Exception
            log.info("%s can't run %s as it is: %s", package, model.path.name, _last_line(error))
    return None


def _run_onnxruntime(model: ModelFile, images: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Rows]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, sums of 16 bits saturate
    session = ort.InferenceSession(str(model.path), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, images), strict=True))


def _run_openvino(model: ModelFile, images: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Rows]:
    from streamer.common.openvino_core import shared_core

    core = shared_core()
    network = core.read_model(str(model.path))
    given: Any = dict(images)
    if len(images) == 1:  # whose name an IR needn't say
        (given,) = images.values()
    network.reshape(list(given.shape) if len(images) == 1 else {name: list(each.shape) for name, each in given.items()})
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    found = core.compile_model(network, "CPU", exact)(given)
    return {name: values for port, values in found.items() for name in (port_name(port), *port.get_names())}


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def difference_of_rows(reference: Rows, rows: Rows, spec: ModelSpec) -> str | None:
    """Says in one phrase how an engine's output differs from the reference, or returns None where it doesn't by much.

    Rounding to bf16 or between INT8 kernels moves a score by a few hundredths, and the distances by a few hundredths
    of their size.
    """
    scores = np.abs(scores_of(rows, spec) - scores_of(reference, spec)).max(initial=0)
    if not scores <= _MAX_SCORE_DIFFERENCE:
        return f"a score differs by {scores:.2f}"
    ours, wanted = (_distances(one, spec) for one in (rows, reference))
    apart = np.linalg.norm(ours - wanted) / max(float(np.linalg.norm(wanted)), 1e-6)
    return None if apart <= _MAX_DISTANCE_DIFFERENCE else f"distances differ by {apart:.0%}"


def _distances(rows: Rows, spec: ModelSpec) -> npt.NDArray[np.floating]:
    """Returns what tells boxes of anchor points apart: their sides' distances in strides, or the boxes in pixels."""
    if not spec.has_bins:
        return boxes_of(rows, spec.anchor_points(), spec)
    each = rows[:, spec.num_classes :].reshape(len(rows), 4, -1)
    weights = np.exp(each - each.max(axis=2, keepdims=True))
    distances: npt.NDArray[np.floating] = (weights / weights.sum(axis=2, keepdims=True)) @ np.arange(spec.reg_max + 1)
    return distances


def approval(model: ModelFile, engine: str) -> Path:
    """Returns the file whose being there says that an engine's output was compared and found right.

    Args:
        model: loaded from a file.
        engine: name of the engine, and what its results depend on beside packages and processor.
    """
    versions = [f"{package} {version_of(package)}" for package in _PACKAGES]
    parts = [model.sha256, repr(model.form), model.spec.model_dump_json(), engine, processor_name(), *versions]
    name = hashlib.sha256("\0".join([__version__, *parts]).encode()).hexdigest()[:32]
    return cached_file("self_check", name)


def approve(approval: Path) -> None:
    """Makes the file of `approval`, where it can be written."""
    try:
        approval.parent.mkdir(parents=True, exist_ok=True)
        approval.touch()
    except OSError as error:
        log.info("can't remember in %r that the model was tried: %s", str(approval), error.strerror or error)
