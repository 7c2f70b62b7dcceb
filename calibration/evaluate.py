"""Measures the COCO accuracy of a model with the runtime's preprocessing, engine and decoding."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from calibration.accuracy import Accuracy, Found, coco_accuracy, coco_results
from calibration.agreement import agreement
from calibration.dataset import check_unreadable, read_frame, read_samples
from calibration.files import check_output, check_report, to_json, write_whole
from calibration.labels import Sample, coco_categories
from streamer.common.errors import SourceError
from streamer.common.terminal import say
from streamer.detector import open_detector
from streamer.detector.base import Detector, EngineInfo
from streamer.detector.cuda import GPU_ENGINES
from streamer.engines import ENGINE_NAMES, PRECISIONS
from streamer.frames.frame import Frame

EVALUATION_CONF = 0.05
"""The least score that counts when accuracy is measured; upstream's own (`nanodet/model/head/gfl_head.py`)."""


def detect_all(detector: Detector, samples: Sequence[Sample], images: Path) -> tuple[list[Sample], list[Found]]:
    """Detects in every picture, with a progress bar; skips unreadable ones with a message. `images` is for messages.

    Returns:
        The readable samples, and the size (width, height) and detections of each.

    Raises:
        ConfigError: too many can't be read.
    """
    bad: dict[Path, str] = {}

    def frames() -> Iterator[Frame]:
        for index, sample in enumerate(samples):
            try:
                yield read_frame(sample.image, index)
            except SourceError as error:
                bad[sample.image] = str(error)

    detected = tqdm(detector.stream(frames()), total=len(samples), unit=" images", disable=None)
    found = [(frame.size_wh, detections) for frame, detections in detected]
    for problem in bad.values():
        say(f"skipped: {problem}")
    check_unreadable(list(bad), len(samples), images)
    return [sample for sample in samples if sample.image not in bad], found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb `evaluate`."""
    parser.add_argument("--model", required=True, metavar="NAME|FILE", help="a model's name or an ONNX file")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")
    parser.add_argument("--against", metavar="NAME|FILE", help="another model to compare with, such as the float one")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures: a folder, or a .txt list")
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="DIR|FILE", help="YOLO .txt or VOC .xml files, or a COCO .json"
    )
    parser.add_argument("--engine", default="auto", choices=("auto", *ENGINE_NAMES, *GPU_ENGINES))
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument(
        "--against-engine",
        choices=("auto", *ENGINE_NAMES, *GPU_ENGINES),
        help="what the other model runs on, at its own precision (default: the same engine, device and precision)",
    )
    parser.add_argument("--iou", type=float, default=0.6, help="NMS: largest overlap of kept boxes (0.6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, also of each class")
    parser.add_argument("--per-class", action="store_true", help="print the AP of each class, the worst first")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the detections there, as COCO results JSON")


@dataclass(frozen=True)
class Measurement:
    """One model's detections and accuracy."""

    engine: EngineInfo
    labels: Sequence[str]
    samples: Sequence[Sample]
    found: Sequence[Found]
    accuracy: Accuracy

    def content(self) -> dict[str, Any]:
        """Returns the figures for JSON."""
        return {"engine": asdict(self.engine), "images": len(self.samples), **asdict(self.accuracy)}


def run(options: argparse.Namespace) -> int:
    """Measures one model, or two with ``--against``, and prints tables and a line of JSON."""
    read = [Path(name) for name in (options.model, options.against) if name] + [options.model_config, options.labels]
    for output, begins in ((options.json, rb"\s*\{"), (options.results, rb"\s*\[")):
        if output:
            check_output(output, *read)
            check_report(output, begins)
            read.append(output)
    measured = _measure(options.model, options, options.engine, options.device, options.precision)
    say(measured.accuracy.table())
    if options.per_class:
        say(measured.accuracy.class_table())
    content = measured.content()
    if options.against:
        how = (options.engine, options.device, options.precision)
        if options.against_engine is not None:
            how = (options.against_engine, "auto", "auto")
        reference = _measure(options.against, options, *how)
        seen = agreement([each for _, each in reference.found], [each for _, each in measured.found])
        drop = reference.accuracy.AP - measured.accuracy.AP
        say(f"against {options.against}:\n{reference.accuracy.table()}")
        say(
            f"drop {drop:+.2f} AP; agreement {seen.score:.3f}: {seen.matched} matched "
            f"(IoU {seen.mean_iou:.3f}, score difference {seen.mean_score_difference:.3f}), {seen.misses} missed, "
            f"{seen.extras} extra"
        )
        content["against"] = reference.content() | {"drop": drop, "agreement": asdict(seen)}
    say(to_json(_without_classes(content)))
    if options.json:
        write_whole(options.json, f"{to_json(content)}\n".encode())
    if options.results:
        is_coco = options.labels.suffix.lower() == ".json"
        categories = coco_categories(options.labels, measured.labels) if is_coco else None
        write_whole(options.results, to_json(coco_results(measured.samples, measured.found, categories)).encode())
    return 0


def _without_classes(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures for the printed line."""
    kept = {key: value for key, value in content.items() if key != "classes"}
    return kept | {"against": _without_classes(kept["against"])} if "against" in kept else kept


def _measure(model: str, options: argparse.Namespace, engine: str, device: str, precision: str) -> Measurement:
    with open_detector(
        model,
        model_config=options.model_config,
        engine=engine,
        device=device,
        precision=precision,
        conf=EVALUATION_CONF,
        iou=options.iou,
    ) as detector:
        samples = read_samples(options.images, options.labels, detector.labels)
        samples, found = detect_all(detector, samples, options.images)
        accuracy = coco_accuracy(samples, found, detector.labels)
        return Measurement(detector.info, detector.labels, samples, found, accuracy)
