"""Boxes as x1, y1, x2, y2 in pixels: decoding from bins, and overlaps.

All functions broadcast and have gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_AREA = 1e-6


def decode(bins: Tensor, points: Tensor) -> Tensor:
    """Returns the boxes of predicted distributions: the mean distance of each side, in strides (GFL, Li et al. 2020).

    Args:
        bins: (B, N, 4 (reg_max + 1)) before the softmax: left, top, right, bottom.
        points: (N, 3) or (B, N, 3) x, y, stride.

    Returns:
        (B, N, 4) pixels.
    """
    probabilities = split_sides(bins).softmax(-1)
    steps = torch.arange(probabilities.shape[-1], dtype=bins.dtype, device=bins.device)
    distances = (probabilities * steps).sum(-1) * points[..., 2:]
    centres = points[..., :2]
    return torch.cat((centres - distances[..., :2], centres + distances[..., 2:]), dim=-1)


def split_sides(bins: Tensor) -> Tensor:
    """Returns (..., 4 (reg_max + 1)) as (..., 4, reg_max + 1)."""
    return bins.reshape(*bins.shape[:-1], 4, bins.shape[-1] // 4)


def contains(boxes: Tensor, points: Tensor, margin: float = 0.0) -> Tensor:
    """Returns (...) bool: whether a point lies further than `margin` pixels within each side.

    Args:
        boxes: (..., 4).
        points: (..., 2 or more) beginning with x, y.
        margin: in pixels.
    """
    x, y = points[..., 0], points[..., 1]
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x - x1 > margin) & (y - y1 > margin) & (x2 - x > margin) & (y2 - y > margin)


def side_distances(boxes: Tensor, points: Tensor) -> Tensor:
    """Returns (..., 4): how far left, top, right and bottom lie from a point, negative where it is outside.

    Args:
        boxes: (..., 4).
        points: (..., 2 or more) beginning with x, y.
    """
    centres = points[..., :2]
    return torch.cat((centres - boxes[..., :2], boxes[..., 2:] - centres), dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns intersection over union, (...), of boxes (..., 4)."""
    intersection, union = _intersection_and_union(first, second)
    return intersection / union


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the generalised intersection over union, (...), -1 to 1 (Rezatofighi et al. 2019)."""
    intersection, union = _intersection_and_union(first, second)
    width = torch.maximum(first[..., 2], second[..., 2]) - torch.minimum(first[..., 0], second[..., 0])
    height = torch.maximum(first[..., 3], second[..., 3]) - torch.minimum(first[..., 1], second[..., 1])
    enclosing = (width.clamp(min=0) * height.clamp(min=0)).clamp(min=_LEAST_AREA)
    return intersection / union - (enclosing - union) / enclosing


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Works side by side, so that pairs of all points and objects take no memory for four sides each."""
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    return intersection, (_area(first) + _area(second) - intersection).clamp(min=_LEAST_AREA)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
