"""The reference for an engine's output: what the untouched model file computes for one picture.

ONNX Runtime without optimisation computes it where it is installed and the file isn't an OpenVINO IR, else OpenVINO in
float32 without its integer kernels. Engines run a rewritten and optimised graph; its output must be nearly the same.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from streamer import __version__
from streamer.common.cache import cached_file
from streamer.common.cpu_info import processor_flags, processor_name, version_of
from streamer.engines import installed_engines
from streamer.models.families import boxes_of, scores_of
from streamer.models.file_forms import is_openvino_format
from streamer.models.graph.saturation import has_saturating_sums, has_uint8_integer_convolutions
from streamer.models.spec import ModelSpec

if TYPE_CHECKING:
    from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]
_MAX_SCORE_DIFFERENCE = 0.2
_MAX_DISTANCE_DIFFERENCE = 0.2
_PACKAGES = ("onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch")


def reference_rows(model: ModelFile, pixels: npt.NDArray[np.uint8], *, factor: float = 1) -> Rows | None:
    """Computes the file's own output for one picture.

    Args:
        model: loaded from a file.
        pixels: (H, W, 3) uint8 BGR, of the network's input size.
        factor: what the normalised picture is multiplied by.

    Returns:
        (rows, channels) float32, as `ModelSpec` describes them; None where no package here runs the file.
    """
    if model.form is None:
        return None
    spec = model.spec
    values = (pixels.astype(np.float32) - np.array(spec.mean_bgr, np.float32)) / np.array(spec.std_bgr, np.float32)
    values *= np.float32(factor)
    image = model.form.image
    images = {image.name: image.of(values.transpose(2, 0, 1)[None].astype(np.float32)), **image.sizes}
    runners = {"onnxruntime": _run_onnxruntime, "openvino": _run_openvino}
    if is_openvino_format(model.path):
        del runners["onnxruntime"]
    installed = installed_engines()
    for package, run in runners.items():
        if installed[package] is not None:
            continue
        try:
            return model.form.layout.rows(run(model, images))
        except Exception as error:  # the packages' exceptions share no base but Exception
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            log.info("%s can't run %s unchanged: %s", package, model.path.name, reason)
    return None


def _run_onnxruntime(model: ModelFile, images: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Rows]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if has_saturating_sums(processor_flags()) and has_uint8_integer_convolutions(onnx.load(model.path)):
        # ONNX Runtime rewrites the graph to prevent that, at this level of optimisation and above only
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(str(model.path), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, images), strict=True))


def _run_openvino(model: ModelFile, images: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Rows]:
    from streamer.common.openvino_core import shared_core
    from streamer.models.graph.openvino_writer import port_name

    core = shared_core()
    network = core.read_model(str(model.path))
    given: Any = dict(images)
    if len(images) == 1:  # an IR may leave its only input unnamed
        (given,) = images.values()
    network.reshape(list(given.shape) if len(images) == 1 else {name: list(each.shape) for name, each in given.items()})
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    found = core.compile_model(network, "CPU", exact)(given)
    return {name: values for port, values in found.items() for name in (port_name(port), *port.get_names())}


def difference_of_rows(reference: Rows, rows: Rows, spec: ModelSpec) -> str | None:
    """Describes in one phrase how an engine's output differs from the reference, or returns None.

    Rounding to bf16 or between INT8 kernels changes a score by a few hundredths and distances by a few percent.
    """
    scores = np.abs(scores_of(rows, spec) - scores_of(reference, spec)).max(initial=0)
    if not scores <= _MAX_SCORE_DIFFERENCE:
        return f"a score differs by {scores:.2f}"
    ours, wanted = (_distances(one, spec) for one in (rows, reference))
    relative = np.linalg.norm(ours - wanted) / max(float(np.linalg.norm(wanted)), 1e-6)
    return None if relative <= _MAX_DISTANCE_DIFFERENCE else f"distances differ by {relative:.0%}"


def _distances(rows: Rows, spec: ModelSpec) -> npt.NDArray[np.floating]:
    """Returns the distances of boxes' sides in strides, or of a family without distributions the boxes in pixels."""
    if not spec.has_bins:
        return boxes_of(rows, spec.anchor_points(), spec)
    each = rows[:, spec.num_classes :].reshape(len(rows), 4, -1)
    weights = np.exp(each - each.max(axis=2, keepdims=True))
    distances: npt.NDArray[np.floating] = (weights / weights.sum(axis=2, keepdims=True)) @ np.arange(spec.reg_max + 1)
    return distances


def approval_path(model: ModelFile, engine: str) -> Path:
    """Returns the cache file that exists once an engine's output passed; `engine` is what the output depends on."""
    versions = [f"{package} {version_of(package)}" for package in _PACKAGES]
    parts = [model.sha256, repr(model.form), model.spec.model_dump_json(), engine, processor_name(), *versions]
    return cached_file("self_check", hashlib.sha256("\0".join([__version__, *parts]).encode()).hexdigest()[:32])


def mark_approved(path: Path) -> None:
    """Creates the file of `approval_path`, where the cache is writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        log.info("can't store in %r that the model passed the self-check: %s", str(path), error.strerror or error)
