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

from calibration.dataset import Sample, read_frame, read_samples
from streamer.detections import Detections
from streamer.detector import open_detector
from streamer.detector.base import Detector
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
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="YOLO labels: class cx cy w h")
    parser.add_argument("--engine", default="auto", choices=("auto", *ENGINE_NAMES))
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--iou", type=float, default=0.6, help="overlap above which the weaker box goes (0.6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(options: argparse.Namespace) -> int:
    """Measures and prints one model's accuracy, as a table and as a line of JSON."""
    with open_detector(
        options.model,
        model_config=options.model_config,
        engine=options.engine,
        precision=options.precision,
        conf=EVALUATION_CONF,
        iou=options.iou,
    ) as detector:
        samples = read_samples(options.images, options.labels, len(detector.labels))
        accuracy = coco_accuracy(samples, list(detect_all(detector, samples)), detector.labels)
        content = json.dumps({"engine": asdict(detector.info), "images": len(samples), **asdict(accuracy)})
    print(accuracy.table())
    print(content)
    if options.json:
        try:
            options.json.write_text(content + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"can't write {str(options.json)!r}: {error.strerror or error}") from error
    return 0
