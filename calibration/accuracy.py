"""COCO metrics of detections against ground truth, and COCO results files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from calibration.labels import EVERY_CLASS, Sample
from streamer.common.errors import ConfigError
from streamer.frames.detections import Detections

Found = tuple[tuple[int, int], Detections]
"""A picture's size (width, height) in pixels and its detections."""


@dataclass(frozen=True)
class ClassAccuracy:
    """AP x 100 of one class, and the number of its objects without crowds."""

    AP: float
    AP50: float
    objects: int


@dataclass(frozen=True)
class Accuracy:
    """COCO metrics x 100; small is under 32x32 pixels, medium under 96x96; NaN without such objects.

    Attributes:
        classes: of each class with objects, by label.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    classes: Mapping[str, ClassAccuracy] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Returns the metrics of all classes by name."""
        return {name: value for name, value in asdict(self).items() if name != "classes"}

    def table(self) -> str:
        """Returns two lines: names and values; ``-`` for NaN."""
        values = self.values()
        figures = ("-" if np.isnan(value) else f"{value:.2f}" for value in values.values())
        return "\n".join(("  ".join(f"{name:>6}" for name in values), "  ".join(f"{text:>6}" for text in figures)))


def coco_accuracy(samples: Sequence[Sample], found: Sequence[Found], labels: Sequence[str]) -> Accuracy:
    """Returns the COCO metrics of the detections `found` in `samples`, in the same order.

    Raises:
        ConfigError: faster-coco-eval isn't installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ConfigError("measuring accuracy needs: pip install 'nanodet-streamer[quantize]'") from error
    truth = _truth(samples, found, labels)
    results = [
        {"image_id": image_id, "category_id": class_id, "bbox": box, "score": score}
        for image_id, (_, detections) in enumerate(found, start=1)
        for class_id, box, score in _rows(detections)
    ]
    counts = np.bincount(
        [each["category_id"] for each in truth["annotations"] if not each["iscrowd"]], minlength=len(labels)
    )
    if not results:
        nothing = {label: ClassAccuracy(0.0, 0.0, int(n)) for label, n in zip(labels, counts, strict=True) if n}
        return Accuracy(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, nothing)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval_faster(coco, coco.loadRes(results), "bbox")
        evaluation.run()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area, most detections); -1 where no objects are
    classes = {
        label: ClassAccuracy(_mean(precision[:, :, i, 0, -1]), _mean(precision[0, :, i, 0, -1]), int(counts[i]))
        for i, label in enumerate(labels)
        if counts[i]
    }
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    stats = [100 * value if value >= 0 else float("nan") for value in evaluation.stats[:6].tolist()]
    return Accuracy(**dict(zip(names, stats, strict=True)), classes=classes)


def coco_results(
    samples: Sequence[Sample], found: Sequence[Found], category_ids: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Returns COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, w, h), ``score`` and ``file_name``.

    Args:
        samples: the pictures; ``image_id`` is that of the COCO file, or the position from 1.
        found: their sizes and detections, in the same order.
        category_ids: categories by class id; None uses the class id.
    """
    return [
        {
            "image_id": place if sample.image_id is None else sample.image_id,
            "category_id": class_id if category_ids is None else category_ids[class_id],
            "bbox": box,
            "score": score,
            "file_name": sample.image.name,
        }
        for place, (sample, (_, detections)) in enumerate(zip(samples, found, strict=True), start=1)
        for class_id, box, score in _rows(detections)
        if category_ids is None or class_id in category_ids
    ]


def _truth(samples: Sequence[Sample], found: Sequence[Found], labels: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": label} for i, label in enumerate(labels)],
    }
    for image_id, (sample, (size_wh, _)) in enumerate(zip(samples, found, strict=True), start=1):
        truth["images"].append({"id": image_id, "width": size_wh[0], "height": size_wh[1]})
        corners = sample.boxes_cxcywh - np.pad(sample.boxes_cxcywh[:, 2:] / 2, ((0, 0), (0, 2)))
        boxes = corners * np.tile(size_wh, 2)
        areas = boxes[:, 2] * boxes[:, 3] if sample.areas is None else sample.areas * size_wh[0] * size_wh[1]
        for own, box, area, is_crowd in zip(sample.class_ids.tolist(), boxes, areas, ~sample.is_object, strict=True):
            for class_id in range(len(labels)) if own == EVERY_CLASS else (own,):
                truth["annotations"].append(
                    {
                        "id": len(truth["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": class_id,
                        "bbox": box.tolist(),
                        "area": float(area),
                        "iscrowd": int(is_crowd),
                    }
                )
    return truth


def _rows(detections: Detections) -> list[tuple[int, list[float], float]]:
    """Returns class id, box (x, y, w, h) in pixels and score of each detection."""
    boxes = detections.boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        (int(class_id), box.tolist(), float(score))
        for class_id, box, score in zip(detections.class_ids, boxes, detections.scores, strict=True)
    ]


def _mean(precision: Any) -> float:
    counted = precision[precision > -1]
    return 100 * float(counted.mean()) if counted.size else float("nan")
