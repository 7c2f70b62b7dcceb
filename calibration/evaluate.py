"""The verb `val`: accuracy with intervals, speed and thresholds, by the runtime's own preprocessing and decoding."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from calibration.accuracy import Accuracy, Found, coco_accuracy, coco_results
from calibration.agreement import SHOWN, agreement
from calibration.bootstrap import ApIntervals, WeightedAp, ap_intervals, difference
from calibration.dataset import check_unreadable, read_frame, read_samples
from calibration.evaluate_text import (
    agreement_line,
    class_lines,
    difference_lines,
    interval_lines,
    speed_line,
    threshold_lines,
)
from calibration.files import check_output, check_report, to_json, write_whole
from calibration.labels import Sample, coco_categories
from calibration.matching import match_found
from calibration.speed import Speed, speeds
from calibration.split import read_split
from calibration.thresholds import Thresholds, thresholds
from streamer.common.errors import ConfigError, SourceError, short
from streamer.common.terminal import say
from streamer.detector import open_detector
from streamer.detector.base import Detector, EngineInfo
from streamer.engines import ENGINE_NAMES, PRECISIONS
from streamer.engines.gpu_engines import GPU_ENGINES
from streamer.frames.frame import Frame

EVALUATION_CONF = 0.05
"""The least score that counts when accuracy is measured; upstream's own (`nanodet/model/head/gfl_head.py`)."""
_SPLITS = ("val", "test", "train")
_TIMED_PICTURES = 8


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
    """Adds the options of the verb `val`."""
    parser.add_argument("--model", required=True, metavar="NAME|FILE", help="a model's name or an ONNX file")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")
    parser.add_argument("--against", metavar="NAME|FILE", help="another model to compare with, such as the float one")
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures: a folder, or a .txt list")
    parser.add_argument("--labels", type=Path, metavar="DIR|FILE", help="YOLO .txt or VOC .xml files, or a COCO .json")
    parser.add_argument("--data", type=Path, metavar="FILE", help="a data.yaml, in place of --images and --labels")
    parser.add_argument("--split", choices=_SPLITS, help="which pictures of --data (val)")
    parser.add_argument("--engine", default="auto", choices=("auto", *ENGINE_NAMES, *GPU_ENGINES))
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--threads", type=int, metavar="N", help="processor cores to use (all)")
    parser.add_argument(
        "--against-engine",
        choices=("auto", *ENGINE_NAMES, *GPU_ENGINES),
        help="what the other model runs on, at its own precision (default: the same engine, device and precision)",
    )
    parser.add_argument("--iou", type=float, default=0.6, help="NMS: largest overlap of kept boxes (0.6)")
    parser.add_argument(
        "--precision-at", type=float, default=0.9, metavar="0..1", help="find the threshold with this precision (0.9)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, also of each class")
    parser.add_argument("--per-class", action="store_true", help="print AP and thresholds of each class too")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the detections there, as COCO results JSON")


@dataclass(frozen=True, eq=False)
class Measurement:
    """One model's detections and accuracy.

    Attributes:
        how: what it was opened with.
        weighted: its AP for resampled pictures.
        thresholds: of all classes together.
        class_thresholds: of each class with objects or detections, by label.
    """

    how: _How
    engine: EngineInfo
    labels: Sequence[str]
    samples: Sequence[Sample]
    found: Sequence[Found]
    accuracy: Accuracy
    weighted: WeightedAp
    intervals: ApIntervals
    thresholds: Thresholds
    class_thresholds: Mapping[str, Thresholds]

    def content(self) -> dict[str, Any]:
        """Returns the figures for JSON."""
        figures = {"engine": asdict(self.engine), "images": len(self.samples), **asdict(self.accuracy)}
        figures |= {"intervals": asdict(self.intervals), "thresholds": asdict(self.thresholds)}
        classes = {label: asdict(each) for label, each in self.class_thresholds.items()}
        return figures | {"class_thresholds": classes}


class _How(NamedTuple):
    """A model and what runs it."""

    model: str
    engine: str
    device: str
    precision: str


def run(options: argparse.Namespace) -> int:
    """Measures one model, or two with ``--against``, and prints the figures."""
    _check(options)
    measured = _measure(_How(options.model, options.engine, options.device, options.precision), options)
    reference = None
    if options.against is not None:
        reference = _measure(_against(options), options)
        if tuple(reference.labels) != tuple(measured.labels):
            raise ConfigError(
                f"{options.against} has other classes than {options.model}: {short(list(reference.labels))}"
            )
    both = [measured] if reference is None else [measured, reference]
    times = _speeds(both, options)
    content = measured.content() | {"precision_at": options.precision_at, "speed": asdict(times[0])}
    _print(measured, times[0], options)
    if reference is not None:
        content["against"] = _compare(measured, reference, times, options)
    if options.json:
        write_whole(options.json, f"{to_json(content)}\n".encode())
    if options.results:
        is_coco = options.labels is not None and options.labels.suffix.lower() == ".json"
        categories = coco_categories(options.labels, measured.labels) if is_coco else None
        write_whole(options.results, to_json(coco_results(measured.samples, measured.found, categories)).encode())
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuses contradictory options, and outputs that are inputs, before any work."""
    if options.data is None and (options.images is None or options.labels is None):
        raise ConfigError("give the pictures: --images DIR --labels DIR, or --data data.yaml")
    if options.data is not None and (options.images is not None or options.labels is not None):
        raise ConfigError("--data names pictures and labels itself: leave out --images and --labels")
    if options.data is None and options.split is not None:
        raise ConfigError("--split is of a data.yaml: give --data")
    if not 0 < options.precision_at <= 1:
        raise ConfigError(f"--precision-at wants a number above 0, up to 1, got {options.precision_at:g}")
    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"--threads wants at least 1, got {options.threads}")
    read = [Path(name) for name in (options.model, options.against) if name]
    read += [path for path in (options.model_config, options.labels, options.data) if path]
    for output, begins in ((options.json, rb"\s*\{"), (options.results, rb"\s*\[")):
        if output:
            check_output(output, *read)
            check_report(output, begins)
            read.append(output)


def _against(options: argparse.Namespace) -> _How:
    if options.against_engine is not None:
        return _How(options.against, options.against_engine, "auto", "auto")
    return _How(options.against, options.engine, options.device, options.precision)


def _open(how: _How, options: argparse.Namespace, conf: float, depth: int | None = None) -> Detector:
    return open_detector(
        how.model,
        model_config=options.model_config,
        engine=how.engine,
        device=how.device,
        precision=how.precision,
        conf=conf,
        iou=options.iou,
        depth=depth,
        threads=options.threads,
    )


def _measure(how: _How, options: argparse.Namespace) -> Measurement:
    with _open(how, options, EVALUATION_CONF) as detector:
        labels, info = detector.labels, detector.info
        if options.data is not None:
            samples, where = read_split(options.data, options.split or "val", labels), options.data
        else:
            samples, where = read_samples(options.images, options.labels, labels), options.images
        samples, found = detect_all(detector, samples, where)
    classes = match_found(samples, found)
    weighted = WeightedAp.of_matches(classes)
    return Measurement(
        how,
        info,
        labels,
        samples,
        found,
        coco_accuracy(samples, found, labels),
        weighted,
        ap_intervals(weighted, len(samples)),
        thresholds(classes, options.precision_at),
        {labels[each.class_id]: thresholds([each], options.precision_at) for each in classes},
    )


def _speeds(measured: Sequence[Measurement], options: argparse.Namespace) -> list[Speed]:
    """Times the models in turns on the first pictures, with the threshold of a stream."""
    frames = [read_frame(sample.image, place) for place, sample in enumerate(measured[0].samples[:_TIMED_PICTURES])]
    with ExitStack() as stack:
        detectors = [stack.enter_context(_open(each.how, options, SHOWN, depth=1)) for each in measured]
        return speeds(detectors, frames, options.threads)


def _print(measured: Measurement, speed: Speed, options: argparse.Namespace) -> None:
    say(measured.accuracy.table())
    lines = [*interval_lines(measured.accuracy, measured.intervals, len(measured.samples))]
    lines.append(speed_line(speed, measured.engine))
    lines += threshold_lines("all classes", measured.thresholds, options.precision_at)
    if options.per_class:
        lines += class_lines(measured.accuracy, measured.class_thresholds, options.precision_at)
    say("\n".join(lines))


def _compare(
    measured: Measurement, reference: Measurement, times: Sequence[Speed], options: argparse.Namespace
) -> dict[str, Any]:
    """Prints how the reference differs; returns its figures for JSON."""
    compared = difference(measured.weighted, reference.weighted, len(measured.samples))
    seen = agreement([each for _, each in reference.found], [each for _, each in measured.found])
    ratio = times[0].frame_ms / times[1].frame_ms
    say(f"against {options.against}:\n{reference.accuracy.table()}")
    lines = [*interval_lines(reference.accuracy, reference.intervals, len(reference.samples))]
    lines.append(speed_line(times[1], reference.engine))
    lines += difference_lines(options.model, options.against, compared, ratio)
    say("\n".join([*lines, agreement_line(seen)]))
    return reference.content() | {
        "drop": reference.accuracy.AP - measured.accuracy.AP,
        "difference": asdict(compared),
        "agreement": asdict(seen),
        "speed": asdict(times[1]),
        "time_ratio": ratio,
    }
