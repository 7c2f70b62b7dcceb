"""What follows the last step: the ONNX files, their accuracy, curves, pictures and the model card."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from calibration.accuracy import Found, coco_accuracy
from calibration.bootstrap import WeightedAp, ap_intervals
from calibration.checkpoint import load_checkpoint
from calibration.evaluate import EVALUATION_CONF, detect_all
from calibration.export import export
from calibration.labels import Sample
from calibration.matching import match_found
from calibration.pictures import LabelledPictures
from calibration.quantize import quantize
from calibration.report import QuantizationReport
from calibration.run_folder.model_card import MeasuredAccuracy, ModelCard, Speed, SplitCounts
from calibration.run_folder.results_plot import draw_results
from calibration.run_folder.results_table import read_results
from calibration.run_folder.validation import write_validation
from calibration.training.job import Job, Outcome
from calibration.training.validation import Validator
from streamer.common.cpu_info import available_cores, version_of
from streamer.common.errors import counted
from streamer.common.terminal import say
from streamer.detector import open_detector
from streamer.models.nanodet import build, load_into

_CALIBRATION_PICTURES = 300
_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy", "opencv-python")


@dataclass(frozen=True)
class Told:
    """What the card tells of a run beside its figures.

    Attributes:
        command: that trained the model.
        initial: how its weights began.
        machine: processor and GPU.
    """

    command: str
    initial: str
    machine: str


def finish(
    job: Job,
    outcome: Outcome,
    splits: Mapping[str, Sequence[Sample]],
    told: Told,
    device: torch.device,
    *,
    int8: bool,
    max_ap_drop: float,
) -> None:
    """Exports the best weights, quantises them where that is wanted, measures both, and writes all that is drawn.

    Figures are of the split ``test`` where there is one, else of ``val``.

    Raises:
        ConfigError: a file can't be written, or a package is missing.
        ModelError: the exported file computes something else, or the INT8 file fails the accuracy gate; all other
            files are written before.
    """
    folder = job.folder
    if results := read_results(folder.results):
        draw_results(results, folder.results_picture, folder.path.name)
    if not outcome.state.best_step:
        say(f"{folder.path}: no validation took place, so there are no best weights; resume it, or give it more time")
        return
    exported = export(job.spec, folder.best_checkpoint, folder.best_onnx)
    say(f"{exported.path}: {exported.size_bytes / 1e6:.2f} MB, relative error to PyTorch {exported.relative_error:.1e}")
    measured_on = "test" if splits.get("test") else "val"
    samples, found = _detect(job, splits[measured_on], device)
    accuracy = coco_accuracy(samples, found, job.spec.labels)
    say(f"float, split {measured_on}:\n{accuracy.table()}")
    curves, matrix = write_validation(folder, samples, found, job.spec.labels)
    interval = _interval(samples, found)
    card = ModelCard(
        folder=folder, names=job.spec.labels, network=job.spec.name, activation=job.spec.activation,
        input_size_wh=job.spec.input_size_wh, data=str(job.data),
        splits={name: SplitCounts.of(each, job.spec.labels) for name, each in splits.items()},
        measured_on=measured_on, command=told.command, initial_weights=told.initial,
        recipe=job.recipe.line(job.budget_s).removeprefix("recipe "),
        seed=job.seed, epochs=outcome.state.epoch, steps=outcome.state.step, batch=job.recipe.batch,
        time_s=outcome.state.elapsed_s, machine=told.machine, float_accuracy=MeasuredAccuracy(accuracy, interval),
        curves=curves, confused=tuple(matrix.confused()),
        versions={name: version for name in _PACKAGES if (version := version_of(name))},
    )  # fmt: skip
    card.write()
    if int8:
        card = _with_int8(card, job, splits, max_ap_drop)
        card.write()
    say(f"{folder.model_card}: {card.stream_command}")


def _with_int8(card: ModelCard, job: Job, splits: Mapping[str, Sequence[Sample]], max_ap_drop: float) -> ModelCard:
    """Quantises the best weights behind the gate and returns the card with what was measured."""
    folder = job.folder
    held_out = splits["val"] if len(splits["val"]) >= len(splits.get("test", ())) else splits["test"]
    say("quantising, and training the quantised network where it fails the gate: ten minutes at most for its trials")
    report = quantize(
        folder.best_onnx, folder.best_int8_onnx,
        images=LabelledPictures(splits["train"][:_CALIBRATION_PICTURES], held_out), max_ap_drop=max_ap_drop,
    )  # fmt: skip
    for result in report.results:
        say(result.line())
    with open_detector(folder.best_int8_onnx, device="cpu", conf=EVALUATION_CONF) as detector:
        samples, found = detect_all(detector, splits[card.measured_on], job.data)
    int8 = coco_accuracy(samples, found, job.spec.labels)
    say(f"INT8, split {card.measured_on}:\n{int8.table()}")
    curves, matrix = write_validation(folder, samples, found, job.spec.labels)
    return replace(
        card,
        curves=curves,
        confused=tuple(matrix.confused()),
        int8_accuracy=MeasuredAccuracy(int8, _interval(samples, found)),
        speeds=tuple(_speeds(report)),
        speed_machine=f"{report.machine}, one thread",
    )


def _interval(samples: Sequence[Sample], found: Sequence[Found]) -> tuple[float, float] | None:
    """Returns the 95 % interval of AP x 100."""
    weighted = WeightedAp.of_matches(match_found(samples, found))
    return ap_intervals(weighted, len(samples)).AP


def _speeds(report: QuantizationReport) -> list[Speed]:
    """Returns the measured latencies on one thread."""
    return [
        Speed("INT8" if model == "int8" else model, engine, latency_ms=milliseconds)
        for engine, by_threads in report.latency_ms.items()
        for model, milliseconds in by_threads.get("1", {}).items()
    ]


def _detect(job: Job, samples: Sequence[Sample], device: torch.device) -> tuple[list[Sample], list[Found]]:
    """Detects with the best weights in PyTorch, as validation does."""
    network = build(job.spec)
    load_into(network, load_checkpoint(job.folder.best_checkpoint)[0])
    validator = Validator(samples, job.spec, job.data)
    return validator.samples, validator.detect(network.to(device), device)


def machine_line(device: str) -> str:
    """Returns the processor and what trains on it, in words."""
    return f"{platform.processor() or platform.machine()}, {counted(available_cores(), 'core')}; trained on {device}"
