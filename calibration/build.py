"""`python -m calibration build`: builds a TensorRT engine with a report from a model file."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from calibration.files import check_output, check_report
from streamer.common.terminal import say
from streamer.detector.cuda import BATCHES
from streamer.engines.tensorrt.builder import build_engine, plan_build
from streamer.engines.tensorrt.cache import report_path, timings_path, write_engine
from streamer.engines.tensorrt.layers import summary
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage, parse_targets
from streamer.models.file import load_model
from streamer.models.spec import ModelSpec
from streamer.models.zoo import resolve_model

_DEFAULTS = BuildOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``build``."""
    parser.add_argument("model", metavar="NAME|FILE", help="a model's name or an ONNX file, float or INT8")
    parser.add_argument(
        "--flavour",
        required=True,
        choices=[package.value for package in TensorRTPackage if package.builder is package],
        help="the package",
    )
    parser.add_argument("--target", metavar="SM[,SM]", help="GPU architectures, such as sm89,sm120 (the present GPU's)")
    parser.add_argument("--fp16", action="store_true", help="compute in FP16 what isn't quantised")
    parser.add_argument(
        "--max-batch", type=int, metavar="N", help=f"largest batch ({max(BATCHES)}, or the model's fixed one)"
    )
    parser.add_argument(
        "--workspace",
        type=int,
        default=_DEFAULTS.workspace_mib,
        metavar="MIB",
        help=f"limit of the layers' working memory ({_DEFAULTS.workspace_mib})",
    )
    parser.add_argument(
        "--version-compatible", action="store_true", help="run on later TensorRT and on tensorrt-lean too"
    )
    parser.add_argument(
        "--exclude-lean-runtime",
        action="store_true",
        help="with --version-compatible: no code in the engine, for tensorrt-lean of the same version only",
    )
    parser.add_argument("--hardware-compatible", action="store_true", help="run on every Ampere or later GPU")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.engine", help="file to write")


def run(options: argparse.Namespace) -> int:
    """Builds and writes one engine, and prints what it is.

    Raises:
        StreamerError: see `build_engine` and `write_engine`.
    """
    path, spec = resolve_model(options.model)
    if options.model_config:
        spec = ModelSpec.from_yaml(options.model_config)
    check_output(options.output, path, options.model_config, ending=".engine")
    check_report(report_path(options.output), rb'\{\s*"sha256"')
    package = TensorRTPackage(options.flavour)
    model = load_model(path, spec)
    largest = model.fixed_batch or max(BATCHES)
    wanted = BuildOptions(
        targets=parse_targets(options.target) if options.target else (),
        fp16=options.fp16,
        max_batch=largest if options.max_batch is None else options.max_batch,
        workspace_mib=options.workspace,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        exclude_lean_runtime=options.exclude_lean_runtime,
    )
    plan = plan_build(model, package, wanted)
    with _Bar() as bar:
        built = build_engine(plan, timing_cache=timings_path(plan), on_progress=bar.show)
    write_engine(options.output, built)
    report = built.report
    for warning in report.warnings:
        say(f"{package.value}: {warning}")
    width, height = model.spec.input_size_wh
    say(
        f"{options.output}: {model.spec.name} {width}x{height} for {', '.join(plan.targets)} by"
        f" {plan.version}, batch 1 to {wanted.max_batch}, {report.size_bytes / 1e6:.2f} MB,"
        f" sha256 {report.sha256}"
    )
    say(summary(report.layers))
    return 0


class _Bar:
    """A progress bar on standard error, if a terminal; restarts with each phase."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] = tqdm(disable=None, leave=False)

    def show(self, phase: str, done: int, total: int) -> None:
        if self._bar.disable:
            return
        if self._bar.desc != f"{phase}: ":
            self._bar.reset(total)
            self._bar.set_description(phase)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
