"""Agreement of two models: accuracy without labels, and with less noise than AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamer.frames.detections import Detections
from streamer.models.families import boxes_of, scores_of
from streamer.models.spec import ModelSpec

Output = npt.NDArray[np.float32]
"""The network's raw output for one picture, (N, channels), as `ModelSpec` describes it."""

SHOWN = 0.4
"""Least score of a shown detection: the command line's default."""
SOUGHT = 0.3
"""Least score of a partner, so that 0.41 and 0.39 match."""
SAME_PLACE = 0.5
"""Least IoU of partners."""
_COUNTS = 0.05
"""Least score in `fidelity` and in measuring accuracy."""
_MOST_RANKED = 300


@dataclass(frozen=True)
class Agreement:
    """Detections of a tested model compared with a reference's.

    Attributes:
        matched: pairs of one class that overlap.
        misses: detections of the reference without a partner.
        extras: detections of the tested model without a partner.
        mean_iou: of pairs; 1 without pairs.
        mean_score_difference: absolute, of pairs; 0 without pairs.
    """

    matched: int
    misses: int
    extras: int
    mean_iou: float
    mean_score_difference: float

    @property
    def score(self) -> float:
        """Mean of IoU minus score difference, 0 to 1; misses and extras count 0; 1 without detections."""
        total = self.matched + self.misses + self.extras
        return self.matched * max(self.mean_iou - self.mean_score_difference, 0.0) / total if total else 1.0


def agreement(reference: Sequence[Detections], tested: Sequence[Detections]) -> Agreement:
    """Compares two models' detections of the same pictures.

    Args:
        reference: detections of each picture, with scores down to `SOUGHT`.
        tested: the same pictures in the same order.

    Raises:
        ValueError: the lengths differ.
    """
    ious: list[float] = []
    differences: list[float] = []
    misses = extras = 0
    for wanted, got in zip(reference, tested, strict=True):
        pairs = _pairs(wanted, got)
        partner_of_wanted = {i for i, _, _ in pairs}
        partner_of_got = {j for _, j, _ in pairs}
        for i, j, iou in pairs:
            if max(wanted.scores[i], got.scores[j]) >= SHOWN:
                ious.append(iou)
                differences.append(abs(float(wanted.scores[i]) - float(got.scores[j])))
        misses += sum(i not in partner_of_wanted for i in np.flatnonzero(wanted.scores >= SHOWN))
        extras += sum(j not in partner_of_got for j in np.flatnonzero(got.scores >= SHOWN))
    return Agreement(
        len(ious),
        int(misses),
        int(extras),
        float(np.mean(ious)) if ious else 1.0,
        float(np.mean(differences)) if differences else 0.0,
    )


def fidelity(spec: ModelSpec, reference: Sequence[Output], tested: Sequence[Output]) -> float:
    """Returns the similarity of raw outputs, one a picture, to a reference's, 0 to 1.

    Over all (row, class) pairs that either model scores at `_COUNTS` or more: the sum of the smaller score times the
    IoU of the boxes, divided by the sum of the larger score (a weighted Jaccard index without NMS); 1 without pairs.
    """
    compare = _same_rows if spec.has_anchors else _ranked_rows
    kept = total = 0.0
    for wanted, got in zip(reference, tested, strict=True):
        low, high = compare(spec, np.nan_to_num(wanted), np.nan_to_num(got))
        kept += low
        total += high
    return kept / total if total else 1.0


def _same_rows(spec: ModelSpec, wanted: Output, got: Output) -> tuple[float, float]:
    """Returns both sums of `fidelity` for one picture, where a row is the same anchor point in both outputs."""
    points = spec.anchor_points()
    scores = [scores_of(output, spec).astype(np.float64) for output in (wanted, got)]
    rows, classes = np.nonzero(np.maximum(*scores) >= _COUNTS)
    boxes = [boxes_of(output[rows], points[rows], spec).astype(np.float64) for output in (wanted, got)]
    low, high = np.sort([score[rows, classes] for score in scores], axis=0)
    return float(np.sum(low * box_overlap(*boxes))), float(np.sum(high))


def _ranked_rows(spec: ModelSpec, wanted: Output, got: Output) -> tuple[float, float]:
    """The same for rows ranked by score: rows of one class are paired, best IoU first."""
    sides = [_best_rows(spec, output) for output in (wanted, got)]
    (scores, classes, boxes), (other_scores, other_classes, other_boxes) = sides
    overlap = box_overlap(boxes[:, None], other_boxes[None])
    overlap[classes[:, None] != other_classes[None]] = 0
    total = float(scores.sum() + other_scores.sum())
    kept = 0.0
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(place), max(1, len(other_scores)))
        if overlap[row, column] <= 0:
            continue
        low = min(float(scores[row]), float(other_scores[column]))
        kept += low * float(overlap[row, column])
        total -= low  # a pair counts with its greater score
        overlap[row, :] = 0
        overlap[:, column] = 0
    return kept, total


def _best_rows(
    spec: ModelSpec, output: Output
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns score, class and box of the (row, class) pairs that count, at most `_MOST_RANKED`."""
    scores = scores_of(output, spec).astype(np.float64)
    rows, classes = np.nonzero(scores >= _COUNTS)
    order = np.argsort(-scores[rows, classes], kind="stable")[:_MOST_RANKED]
    rows, classes = rows[order], classes[order]
    boxes = boxes_of(output[rows], np.empty((len(rows), 0), np.float32), spec)
    return scores[rows, classes], classes, boxes.astype(np.float64)


def _pairs(wanted: Detections, got: Detections) -> list[tuple[int, int, float]]:
    """Returns (index in `wanted`, index in `got`, IoU), each index once, best IoU first."""
    rows = np.flatnonzero(wanted.scores >= SOUGHT)
    columns = np.flatnonzero(got.scores >= SOUGHT)
    if not rows.size or not columns.size:
        return []
    boxes = wanted.boxes_xyxy[rows].astype(np.float64), got.boxes_xyxy[columns].astype(np.float64)
    overlap = box_overlap(boxes[0][:, None], boxes[1][None])
    overlap[wanted.class_ids[rows][:, None] != got.class_ids[columns][None]] = 0
    pairs = []
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(place), columns.size)
        if overlap[row, column] >= SAME_PLACE:
            pairs.append((int(rows[row]), int(columns[column]), float(overlap[row, column])))
            overlap[row, :] = 0
            overlap[:, column] = 0
    return pairs


def box_overlap(a_xyxy: npt.NDArray[np.float64], b_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the IoU of boxes (..., 4); the leading axes are broadcast."""
    sides = np.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - np.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (a_xyxy, b_xyxy)]
    union = areas[0] + areas[1] - common
    overlap: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlap
