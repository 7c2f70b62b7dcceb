"""Adaptive training sample selection (Zhang et al. 2020), the assigner of NanoDet m and g."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calibration.training.assignment import Assignment
from calibration.training.boxes import contains, iou
from calibration.training.truth import Truth

_LEAST_INSIDE = 0.01  # pixels between a point and the sides of its object


@torch.no_grad()
def atss(points: Tensor, counts: Sequence[int], truth: Truth, *, topk: int, cell_scale: float) -> Assignment:
    """Assigns anchor points to objects by the overlap of square cells around the points, whatever is predicted.

    An object's candidates are the `topk` points of each level nearest to its centre. Positive are those inside it whose
    cells overlap it by at least the mean plus the standard deviation over its candidates. A point of several objects
    goes to the one that its cell overlaps most.

    Args:
        points: (N, 3) x, y, stride.
        counts: points of each level.
        truth: the objects of B pictures.
        topk: candidates a level.
        cell_scale: side of a cell in strides (upstream's `octave_base_scale`).
    """
    candidates = _nearest(points, counts, truth, topk)
    near = points[candidates]
    boxes = truth.boxes[:, :, None]
    half = near[..., 2:] * (cell_scale / 2)
    overlaps = iou(torch.cat((near[..., :2] - half, near[..., :2] + half), dim=-1), boxes)
    threshold = overlaps.mean(-1, keepdim=True) + overlaps.std(-1, keepdim=True)
    chosen = (overlaps >= threshold) & contains(boxes, near, _LEAST_INSIDE) & truth.is_object[..., None]
    return _most_overlapping(candidates, overlaps, chosen, len(points))


def _nearest(points: Tensor, counts: Sequence[int], truth: Truth, topk: int) -> Tensor:
    """Returns (B, G, K) int64: the points of each level nearest to each object's centre."""
    x, y = ((truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2).unsqueeze(-2).unbind(-1)
    chosen, start = [], 0
    for count in counts:
        level = points[start : start + count]
        distances = (level[:, 0] - x).square() + (level[:, 1] - y).square()
        chosen.append(distances.topk(min(topk, count), largest=False, sorted=False).indices + start)
        start += count
    return torch.cat(chosen, dim=-1)


def _most_overlapping(candidates: Tensor, overlaps: Tensor, chosen: Tensor, num_points: int) -> Assignment:
    """Settles points of several objects: the largest overlap, then the first row."""
    batch, rows, _ = candidates.shape
    where = candidates.flatten(1)
    values = overlaps.masked_fill(~chosen, -1).flatten(1)
    best = values.new_full((batch, num_points), -1).scatter_reduce(1, where, values, "amax")
    numbers = torch.arange(rows, device=where.device)[:, None].expand(candidates.shape[1:]).flatten()
    wins = chosen.flatten(1) & (values == best.gather(1, where))
    row = where.new_full((batch, num_points), rows)
    row = row.scatter_reduce(1, where, torch.where(wins, numbers, rows), "amin")
    is_positive = row < rows
    return Assignment(row.masked_fill(~is_positive, 0), is_positive, None)
