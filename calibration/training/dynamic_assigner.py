"""The dynamic soft label assigner (RTMDet, Lyu et al. 2022, section 3.3), in NanoDet-Plus's form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.training.assignment import Assignment
from calibration.training.boxes import contains, iou
from calibration.training.truth import Truth


@torch.no_grad()
def dynamic_soft_labels(
    logits: Tensor, boxes: Tensor, points: Tensor, truth: Truth, *, topk: int, iou_factor: float
) -> Assignment:
    """Assigns anchor points to objects by what is predicted there.

    Points that lie in no object are background. An object takes the k points of least cost, k being the sum of its
    `topk` largest overlaps, at least 1. The cost is the quality focal loss with the overlap as target, plus
    `iou_factor` times -log of the overlap. A point that several objects take goes to the object of least cost there.

    Args:
        logits: (B, N, C) float32, class scores before the sigmoid.
        boxes: (B, N, 4) float32, predicted, in pixels.
        points: (N, 3) x, y, stride.
        truth: the objects of B pictures.
        topk: the most points of an object.
        iou_factor: weight of the boxes' part of the cost.
    """
    is_object = truth.is_object[..., None]
    inside = contains(truth.boxes[:, :, None], points)
    eligible = (inside & is_object).any(1, keepdim=True) & is_object
    overlaps = iou(boxes[:, None], truth.boxes[:, :, None]).masked_fill(~eligible, 0)
    cost = _score_cost(logits, truth.labels, overlaps) - iou_factor * (overlaps + 1e-7).log()
    cost = cost.masked_fill(~eligible, torch.inf)
    matched = _take_cheapest(cost, overlaps, min(topk, len(points)))
    takers = matched.sum(1)
    row = torch.where(takers > 1, cost.argmin(1), matched.to(torch.uint8).argmax(1))
    is_positive = takers > 0
    quality = overlaps.gather(1, row[:, None])[:, 0].masked_fill(~is_positive, 0)
    return Assignment(row.masked_fill(~is_positive, 0), is_positive, quality)


def _score_cost(logits: Tensor, labels: Tensor, overlaps: Tensor) -> Tensor:
    """Returns (B, G, N): the quality focal loss of every point's scores, were it of every object.

    Only the object's own class has a target other than 0, so the sum over classes is formed once and corrected there.
    """
    classes = logits.shape[-1]
    without = (F.softplus(logits) * logits.sigmoid().square()).sum(-1)[:, None]
    rows = labels.clamp(0, classes - 1)[..., None].expand(overlaps.shape)
    own = logits.transpose(1, 2).gather(1, rows)
    score, penalty = own.sigmoid(), F.softplus(own)
    return without - penalty * score.square() + (penalty - own * overlaps) * (overlaps - score).square()


def _take_cheapest(cost: Tensor, overlaps: Tensor, topk: int) -> Tensor:
    """Returns (B, G, N) bool: the points of least cost of each object, as many as its largest overlaps add up to."""
    wanted = overlaps.topk(topk).values.sum(-1, keepdim=True).int().clamp(min=1)
    cheapest = cost.topk(topk, largest=False)
    taken = (torch.arange(topk, device=cost.device) < wanted) & cheapest.values.isfinite()
    return torch.zeros_like(cost, dtype=torch.bool).scatter(2, cheapest.indices, taken)
