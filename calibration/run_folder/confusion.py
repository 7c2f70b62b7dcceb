"""The confusion matrix of detections at one threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.accuracy import Found
from calibration.agreement import SAME_PLACE, box_overlap
from calibration.labels import Sample
from calibration.matching import share_inside
from streamer.frames.detections import Detections

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How labelled objects were detected.

    Attributes:
        counts: (C + 1, C + 1) int64: rows are the labelled class, columns the detected one, both with the background
            last. The last column counts missed objects, the last row detections where no object is.
        names: the classes by class id.
        threshold: detections with a greater score count.
    """

    counts: npt.NDArray[np.int64]
    names: tuple[str, ...]
    threshold: float

    def normalised(self) -> npt.NDArray[np.float64]:
        """Returns the shares of each row, (C + 1, C + 1), 0 to 1; 0 in an empty row."""
        totals = self.counts.sum(axis=1, keepdims=True)
        shares: npt.NDArray[np.float64] = self.counts / np.maximum(totals, 1)
        return shares

    def confused(self, most: int = 5) -> list[tuple[str, str, int]]:
        """Returns (labelled class, detected class, count) of objects detected as another class, the most first."""
        mixed = self.counts[:-1, :-1] * ~np.eye(len(self.names), dtype=bool)
        order = np.argsort(-mixed, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(order, mixed.shape)
        return [
            (self.names[row], self.names[column], int(mixed[row, column]))
            for row, column in zip(rows, columns, strict=True)
            if mixed[row, column]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns the matrix for JSON."""
        return {
            "threshold": self.threshold,
            "iou": SAME_PLACE,
            "names": [*self.names, BACKGROUND],
            "counts": self.counts.tolist(),
        }


def confusion_matrix(
    samples: Sequence[Sample], found: Sequence[Found], names: Sequence[str], threshold: float
) -> ConfusionMatrix:
    """Counts which class each object is detected as, at an IoU of at least 0.5.

    Pairs of one class are matched first, then those of two classes, greatest IoU first, each box once. Detections
    without a partner that lie half or more in a region to ignore of their class don't count.

    Args:
        samples: the pictures' labels.
        found: their sizes and detections, in the same order.
        names: the classes by class id.
        threshold: detections with a greater score count, as with ``--conf``.

    Raises:
        ValueError: `samples` and `found` differ in length.
    """
    background = len(names)
    counts = np.zeros((background + 1, background + 1), np.int64)
    for sample, (size_wh, detections) in zip(samples, found, strict=True):
        boxes = sample.boxes_xyxy(size_wh)
        shown = detections.where(detections.scores > np.float32(threshold))
        truth, class_ids = boxes[sample.is_object], sample.class_ids[sample.is_object]
        pairs = _pairs(truth, class_ids, shown)
        for row, column in pairs:
            counts[class_ids[row], shown.class_ids[column]] += 1
        missed = np.delete(class_ids, [row for row, _ in pairs])
        counts[:, background] += np.bincount(missed, minlength=background + 1)
        alone = np.delete(np.arange(len(shown)), [column for _, column in pairs])
        for class_id in np.unique(shown.class_ids[alone]):
            mine = alone[shown.class_ids[alone] == class_id]
            regions = boxes[sample.regions_of(class_id)]
            ignored = share_inside(shown.boxes_xyxy[mine], regions) >= SAME_PLACE
            counts[background, class_id] += int((~ignored).sum())
    return ConfusionMatrix(counts, tuple(names), threshold)


def _pairs(
    truth: npt.NDArray[np.float64], class_ids: npt.NDArray[np.int64], shown: Detections
) -> list[tuple[int, int]]:
    """Returns (object, detection), each once: of one class first, then greatest IoU first."""
    if not len(truth) or not len(shown):
        return []
    overlap = box_overlap(truth[:, None], shown.boxes_xyxy.astype(np.float64)[None])
    rows, columns = np.nonzero(overlap >= SAME_PLACE)
    differs = class_ids[rows] != shown.class_ids[columns]
    pairs: dict[int, int] = {}
    taken = set()
    for place in np.lexsort((-overlap[rows, columns], differs)):
        row, column = int(rows[place]), int(columns[place])
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return list(pairs.items())
