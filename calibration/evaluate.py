"""COCO accuracy of a model, through the runtime's own preprocessing, engine and decoding."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from calibration.agreement import agreement
from calibration.dataset import Sample, read_frame, read_samples
from calibration.files import check_output, check_report, write_whole
from streamer.detections import Detections
from streamer.detector import open_detector
from streamer.detector.base import Detector
from streamer.detector.cuda import GPU_ENGINES
from streamer.engines import ENGINE_NAMES, PRECISIONS
from streamer.errors import ConfigError

EVALUATION_CONF = 0.05
"""The least score that counts when accuracy is measured; upstream's own (`nanodet/model/head/gfl_head.py`)."""


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics x 100; small is under 32x32 pixels, medium under 96x96. NaN where there are no such objects."""

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float

    def table(self) -> str:
        """Returns two lines: names and values."""
        values = asdict(self)
        return "\n".join(
            ("  ".join(f"{name:>6}" for name in values), "  ".join(f"{value:6.2f}" for value in values.values()))
        )


def detect_all(detector: Detector, samples: Sequence[Sample]) -> Iterator[tuple[tuple[int, int], Detections]]:
    """Yields every sample's picture size (width, height) and detections, in order, with a progress bar."""
    frames = (read_frame(sample.image, index) for index, sample in enumerate(samples))
    for frame, detections in tqdm(detector.stream(frames), total=len(samples), unit=" images", disable=None):
        yield frame.size_wh, detections


def coco_accuracy(
    samples: Sequence[Sample], found: Sequence[tuple[tuple[int, int], Detections]], labels: Sequence[str]
) -> Accuracy:
    """Compares detections with ground truth as COCO does.

    Args:
        samples: ground truth.
        found: picture size (width, height) and detections of each sample, in the same order.
        labels: class names.

    Raises:
        ConfigError: if the package that computes the metrics isn't installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ConfigError("measuring accuracy needs: pip install 'nanodet-streamer[calibration]'") from error
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": label} for i, label in enumerate(labels)],
    }
    results: list[dict[str, Any]] = []
    for image_id, (sample, (size_wh, detections)) in enumerate(zip(samples, found, strict=True), start=1):
        truth["images"].append({"id": image_id, "width": size_wh[0], "height": size_wh[1]})
        sizes = np.tile(size_wh, 2)
        corners = sample.boxes_cxcywh - np.pad(sample.boxes_cxcywh[:, 2:] / 2, ((0, 0), (0, 2)))
        for class_id, box in zip(sample.class_ids, corners * sizes, strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(class_id),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
            )
        boxes = detections.boxes_xyxy.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, class_id in zip(boxes, detections.scores, detections.class_ids, strict=True):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(class_id),
                    "bbox": box.tolist(),
                    "score": float(score),
                }
            )
    if not results:
        return Accuracy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval_faster(coco, coco.loadRes(results), "bbox")
        evaluation.run()
    return Accuracy(*(100 * value if value >= 0 else float("nan") for value in evaluation.stats[:6].tolist()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb `evaluate`."""
    parser.add_argument("--model", required=True, metavar="NAME|FILE", help="a model's name or an ONNX file")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")
    parser.add_argument("--against", metavar="NAME|FILE", help="another model to compare with, such as the float one")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="YOLO labels: class cx cy w h")
    parser.add_argument("--engine", default="auto", choices=("auto", *ENGINE_NAMES, *GPU_ENGINES))
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument(
        "--against-engine",
        choices=("auto", *ENGINE_NAMES, *GPU_ENGINES),
        help="what the other model runs on, at its own precision (default: the same engine, device and precision)",
    )
    parser.add_argument("--iou", type=float, default=0.6, help="overlap above which the weaker box goes (0.6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(options: argparse.Namespace) -> int:
    """Measures one model's accuracy, beside another's where asked, and prints tables and a line of JSON."""
    if options.json:
        models = (Path(name) for name in (options.model, options.against) if name)
        check_output(options.json, *models, options.model_config)
        check_report(options.json, rb"\s*\{")
    found, accuracy, content = _measure(options.model, options, options.engine, options.device, options.precision)
    print(accuracy.table())
    if options.against:
        how = (options.engine, options.device, options.precision)
        if options.against_engine is not None:
            how = (options.against_engine, "auto", "auto")
        before, reference, described = _measure(options.against, options, *how)
        seen = agreement([detections for _, detections in before], [detections for _, detections in found])
        print(f"against {options.against}:\n{reference.table()}")
        print(
            f"drop {reference.AP - accuracy.AP:+.2f} AP; agreement {seen.score:.3f}: {seen.matched} matched "
            f"(IoU {seen.mean_iou:.3f}, score difference {seen.mean_score_difference:.3f}), {seen.misses} missed, "
            f"{seen.extras} extra"
        )
        content["against"] = described | {"drop": reference.AP - accuracy.AP, "agreement": asdict(seen)}
    text = json.dumps(content)
    print(text)
    if options.json:
        write_whole(options.json, f"{text}\n".encode())
    return 0


def _measure(
    model: str, options: argparse.Namespace, engine: str, device: str, precision: str
) -> tuple[list[tuple[tuple[int, int], Detections]], Accuracy, dict[str, Any]]:
    """Returns every picture's size and detections, the accuracy, and both in the form of the JSON."""
    with open_detector(
        model,
        model_config=options.model_config,
        engine=engine,
        device=device,
        precision=precision,
        conf=EVALUATION_CONF,
        iou=options.iou,
    ) as detector:
        samples = read_samples(options.images, options.labels, len(detector.labels))
        found = list(detect_all(detector, samples))
        accuracy = coco_accuracy(samples, found, detector.labels)
        return found, accuracy, {"engine": asdict(detector.info), "images": len(samples), **asdict(accuracy)}
