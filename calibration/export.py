"""Exports a checkpoint to a self-describing ONNX file.

It has one input ``images`` (batch, 3, H, W), normalised, and one output ``output`` (batch, N, classes + 4 (reg_max +
1)), scores after the sigmoid. Weights keep the network's parameter names; metadata is `ModelSpec.to_metadata`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.files import check_output, temporary_folder, write_whole
from streamer.common.errors import ConfigError, ModelError, counted
from streamer.common.terminal import say
from streamer.models.spec import ModelSpec, parse_size_wh, spec_for

if TYPE_CHECKING:
    from streamer.models.nanodet import NanoDet

INPUT_NAME = "images"
OUTPUT_NAME = "output"
PRODUCER = "nanodet-streamer"
MAX_RELATIVE_ERROR = 1e-4
_CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the ONNX file.
        size_bytes: its size.
        sha256: its hash, in hex.
        checkpoint_sha256: hash of the checkpoint, in hex.
        relative_error: largest difference between PyTorch and ONNX Runtime on random input, relative to the largest
            value, of scores and of box bins.
    """

    path: Path
    size_bytes: int
    sha256: str
    checkpoint_sha256: str
    relative_error: float


def export(
    spec: ModelSpec, checkpoint: Path, output: Path, *, float16_weights: bool = False, opset: int = 17
) -> ExportReport:
    """Exports a checkpoint to ONNX, compares it with PyTorch, and writes it atomically. Output is reproducible.

    Args:
        spec: the model, with its architecture; its input size becomes the file's.
        checkpoint: see `calibration.checkpoint.load_checkpoint`.
        output: the ``.onnx`` file to write.
        float16_weights: store convolution weights as float16 with a Cast to float32: half the size.
        opset: ONNX operator set.

    Raises:
        ConfigError: a package of the ``calibration`` extra is missing, or `output` can't be written.
        ModelError: the checkpoint is unreadable or doesn't fit, or the exported graph's results differ.
    """
    _require_packages()
    from calibration.checkpoint import load_checkpoint
    from streamer.detector.self_check import record
    from streamer.engines import open_engine
    from streamer.models.file import ModelFile
    from streamer.models.nanodet import build, fuse_batchnorm, load_into

    check_output(output, checkpoint, ending=".onnx")
    weights, checkpoint_sha256 = load_checkpoint(checkpoint)
    network = build(spec)
    load_into(network, weights)
    fuse_batchnorm(network)
    network.sigmoid_scores = True
    if float16_weights:
        _round_weights(network)

    model = _trace(spec, opset)
    _put_weights(model, network, float16_weights)
    _describe(model, spec.model_copy(update={"checkpoint_sha256": checkpoint_sha256}))
    content = model.SerializeToString(deterministic=True)
    error = _relative_error(content, network)
    if not error <= MAX_RELATIVE_ERROR:
        raise ModelError(
            f"{checkpoint}: the exported graph's results differ from PyTorch's (relative error {error:.1e}, at most"
            f" {MAX_RELATIVE_ERROR:.0e}); nothing was written. Try other versions of torch, onnxsim or onnxruntime"
        )
    exported = ModelFile(output, "", spec, model)
    with contextlib.closing(open_engine("onnxruntime", exported, slots=1)) as engine:
        record(exported, engine)
    content = model.SerializeToString(deterministic=True)
    write_whole(output, content)
    return ExportReport(output, len(content), hashlib.sha256(content).hexdigest(), checkpoint_sha256, error)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``export``."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="NAME", help="packaged model, <network>_<size>, such as nanodet-m_320")
    model.add_argument("--model-config", metavar="YAML", type=Path, help="description of a model of your own")
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, required=True, help="weights, .pth or .ckpt")
    parser.add_argument("-o", "--output", metavar="OUT.onnx", type=Path, required=True, help="file to write")
    parser.add_argument("--input-size", metavar="W[xH]", help="network input in pixels, instead of the model's own")
    parser.add_argument("--float16-weights", action="store_true", help="store weights as float16: half the size")


def run(args: argparse.Namespace) -> int:
    """Runs the verb ``export`` and prints what was written.

    Raises:
        StreamerError: see `export`.
    """
    spec = read_spec(args.model, args.model_config, args.checkpoint)
    if args.input_size:
        spec = spec.with_input_size(parse_size_wh(args.input_size))
    report = export(spec, args.checkpoint, args.output, float16_weights=args.float16_weights)
    width, height = spec.input_size_wh
    say(
        f"{report.path}: {spec.name} {width}x{height}, {counted(spec.num_classes, 'class')},"
        f" {report.size_bytes / 1e6:.2f} MB, relative error to PyTorch {report.relative_error:.1e},"
        f" sha256 {report.sha256}"
    )
    return 0


def read_spec(name: str, config: Path | None, checkpoint: Path) -> ModelSpec:
    """Returns the description to export: a file's, or a name's with the classes and activation of an own checkpoint.

    Raises:
        ConfigError: the file can't be read, the name is unknown, or a package of the ``calibration`` extra is missing.
    """
    if config is not None:
        return ModelSpec.from_yaml(config)
    _require_packages()
    from calibration.training.checkpoint_file import as_trained

    return as_trained(spec_for(name), checkpoint)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxsim  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"export needs {error.name}: pip install 'nanodet-streamer[calibration]'") from error


def _round_weights(network: NanoDet) -> None:
    """Rounds convolution weights to float16 and back, in place."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4:
            rounded = parameter.data.half().float()
            if not bool(rounded.isfinite().all()):
                raise ModelError(f"{name} exceeds float16's range; export without --float16-weights")
            parameter.data = rounded


def _trace(spec: ModelSpec, opset: int) -> onnx.ModelProto:
    """Returns the simplified graph of the fused network with random weights: the exporter merges equal ones."""
    import onnxsim
    import torch

    from streamer.models.nanodet import build, fuse_batchnorm

    network = build(spec)
    fuse_batchnorm(network)
    network.sigmoid_scores = True
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    width, height = spec.input_size_wh
    with temporary_folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter calls itself legacy, and fixed sizes a risk
        exported = folder / "exported.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, height, width),),
            exported,
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
        )
        traced = onnx.load(exported)
    simplified: onnx.ModelProto
    simplified, unchanged = onnxsim.simplify(traced)
    if not unchanged:
        raise ModelError(f"{spec.name}: onnxsim changed what the graph computes; try another version of onnxsim")
    return simplified


def _put_weights(model: onnx.ModelProto, network: NanoDet, float16_weights: bool) -> None:
    """Replaces the random weights by the network's own, by name."""
    from streamer.models.nanodet import NEVER_APPLIED

    values = {name: value.numpy() for name, value in network.state_dict().items()}
    casts = []
    for initializer in model.graph.initializer:
        name = initializer.name
        if name not in values:
            continue
        value = values.pop(name)
        if float16_weights and value.ndim == 4:
            value = value.astype(np.float16)
            computed = f"{name}.float32"
            for node in model.graph.node:
                node.input[:] = [computed if used == name else used for used in node.input]
            casts.append(helper.make_node("Cast", [name], [computed], name=f"{name}.cast", to=TensorProto.FLOAT))
        initializer.CopyFrom(numpy_helper.from_array(value, name))
    lost = [name for name in values if not name.startswith(NEVER_APPLIED)]
    if lost:
        raise ModelError(f"torch.onnx.export or onnxsim renamed {lost[0]} and {len(lost) - 1} more; try other versions")
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _describe(model: onnx.ModelProto, spec: ModelSpec) -> None:
    model.producer_name = PRODUCER
    model.producer_version = ""
    model.graph.name = spec.name
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model, full_check=True)


def _relative_error(content: bytes, network: NanoDet) -> float:
    """Compares ONNX Runtime with PyTorch on random images, scores and box bins each by their own size; may be NaN."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    width, height = network.spec.input_size_wh
    classes = network.spec.num_classes
    errors = []
    for batch in _CHECKED_BATCHES:
        images = random.standard_normal((batch, 3, height, width), dtype=np.float32)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(images)).numpy()
        (got,) = session.run([OUTPUT_NAME], {INPUT_NAME: images})
        for part in (slice(None, classes), slice(classes, None)):
            scale = max(np.abs(wanted[..., part]).max(), np.finfo(np.float32).tiny)
            errors.append(np.abs(got[..., part] - wanted[..., part]).max() / scale)
    return float(np.max(errors))
