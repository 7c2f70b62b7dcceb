"""NanoDet's loss as its original trainer computes it: picture by picture, level by level, with lists of positives.

Written from the algorithms of github.com/RangiLyu/nanodet (Apache-2.0) for comparison: the same arithmetic as
`calibration.training.losses`, and the same waits for the device as upstream's. Ignored regions don't count in either
of its heads' published configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.training.losses import LossSettings, Predictions
from streamer.models.spec import ModelSpec

_FAR = 1e8


class Labels(NamedTuple):
    """One picture's objects: (G, 4) float32 x1, y1, x2, y2 in input pixels, and (G,) int64 classes."""

    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


class _Targets(NamedTuple):
    """What the N points of one picture learn: class (C is background), score, weight, box."""

    classes: Tensor
    scores: Tensor
    weights: Tensor
    boxes: Tensor
    positives: int


def upstream_loss(
    predictions: Predictions, labels: Sequence[Labels], spec: ModelSpec, size_hw: tuple[int, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss of a batch, and its terms by `calibration.training.losses.Losses`'s names."""
    settings = LossSettings.of(spec)
    if settings.assigner == "atss":
        return _loss_by_levels(predictions.main, labels, spec, settings, size_hw)
    return _loss_of_plus(predictions, labels, spec, settings, size_hw)


def _loss_by_levels(
    output: Tensor, labels: Sequence[Labels], spec: ModelSpec, settings: LossSettings, size_hw: tuple[int, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    levels = _grid(spec, size_hw, output.device)
    counts = [len(level) for level in levels]
    points = torch.cat(levels)
    targets = [_atss_targets(points, counts, each, spec, settings) for each in labels]
    total = max(float(torch.tensor(sum(max(each.positives, 1) for each in targets)).to(output.device).item()), 1.0)
    classes, boxes, weights = (
        torch.split(torch.stack(each), counts, 1)
        for each in ([t.classes for t in targets], [t.boxes for t in targets], [t.weights for t in targets])
    )
    sums = [
        _level_loss(*level, settings, spec.num_classes)
        for level in zip(torch.split(output, counts, 1), levels, classes, boxes, weights, strict=True)
    ]
    factor = float(torch.stack([each[3] for each in sums]).sum().item())
    qfl, bbox, dfl = (torch.stack([each[index] for each in sums]).sum() for index in range(3))
    terms = {"qfl": qfl / total, "bbox": bbox / factor, "dfl": dfl / factor}
    if factor <= 0:
        terms = {name: output.sum() * 0 for name in terms}
    return torch.stack(list(terms.values())).sum(), terms


def _level_loss(
    output: Tensor,
    level: Tensor,
    classes: Tensor,
    boxes: Tensor,
    weights: Tensor,
    settings: LossSettings,
    num_classes: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns one level's sums, with the sum of its positives' best scores; boxes in strides."""
    stride = float(level[0, 2])
    points = (level[:, :2] / stride).repeat(len(output), 1)
    output, classes, weights = output.reshape(-1, output.shape[-1]), classes.reshape(-1), weights.reshape(-1)
    logits, bins = output[:, :num_classes], output[:, num_classes:]
    positive = torch.nonzero((classes >= 0) & (classes < num_classes)).squeeze(1)
    scores = weights.new_zeros(weights.shape)
    bbox = dfl = bins.sum() * 0
    best = bins.new_zeros(())
    if len(positive) > 0:
        wanted, own_bins, own_points = boxes.reshape(-1, 4)[positive] / stride, bins[positive], points[positive]
        best = logits.detach().sigmoid().max(dim=1)[0][positive]
        predicted = _decoded(own_points, own_bins)
        scores[positive] = _overlap(predicted.detach(), wanted)
        bbox = settings.giou_weight * (_giou_loss(predicted, wanted) * best).sum()
        dfl = settings.dfl_weight * _distribution_loss(own_bins, _sides(own_points, wanted, own_bins), best)
    qfl = settings.qfl_weight * _quality_loss(logits, classes, scores, weights, settings.qfl_beta)
    return qfl, bbox, dfl, best.sum()


def _atss_targets(
    points: Tensor, counts: Sequence[int], labels: Labels, spec: ModelSpec, settings: LossSettings
) -> _Targets:
    boxes, classes = (torch.from_numpy(each).to(points.device) for each in labels)
    row = _atss(points, counts, boxes, settings)
    return _targets(row, points, boxes, classes, spec.num_classes, None)


def _atss(points: Tensor, counts: Sequence[int], boxes: Tensor, settings: LossSettings) -> Tensor:
    """Returns (N,): the object's number from 1, or 0."""
    row = torch.zeros(len(points), dtype=torch.long, device=points.device)
    if len(boxes) == 0:
        return row
    half = points[:, 2:] * (settings.cell_scale / 2)
    overlaps = _pairwise_overlap(torch.cat((points[:, :2] - half, points[:, :2] + half), 1), boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = (points[:, None, :2] - centres[None]).pow(2).sum(-1).sqrt()
    candidates, start = [], 0
    for count in counts:
        near = distances[start : start + count].topk(min(settings.atss_topk, count), dim=0, largest=False)[1]
        candidates.append(near + start)
        start += count
    chosen = torch.cat(candidates)
    numbers = torch.arange(len(boxes), device=points.device)
    of_candidates = overlaps[chosen, numbers]
    is_positive = of_candidates >= (of_candidates.mean(0) + of_candidates.std(0))[None]
    x, y = points[:, 0][chosen], points[:, 1][chosen]
    inside = torch.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y], 1).min(1)[0] > 0.01
    for number in range(len(boxes)):
        chosen[:, number] += number * len(points)
    taken = chosen.view(-1)[(is_positive & inside).view(-1)]
    best = torch.full_like(overlaps, -_FAR).t().contiguous().view(-1)
    best[taken] = overlaps.t().contiguous().view(-1)[taken]
    largest, which = best.view(len(boxes), -1).t().max(dim=1)
    row[largest != -_FAR] = which[largest != -_FAR] + 1
    return row


def _loss_of_plus(
    predictions: Predictions,
    labels: Sequence[Labels],
    spec: ModelSpec,
    settings: LossSettings,
    size_hw: tuple[int, int],
) -> tuple[Tensor, dict[str, Tensor]]:
    outputs = {"": predictions.main}
    if predictions.auxiliary is not None:
        outputs["aux_"] = predictions.auxiliary
    points = torch.cat(_grid(spec, size_hw, predictions.main.device))
    num_classes = spec.num_classes
    decoded = {name: _decoded(points, output[..., num_classes:]) for name, output in outputs.items()}
    assigner = "aux_" if "aux_" in outputs else ""
    logits, predicted = outputs[assigner][..., :num_classes].detach(), decoded[assigner].detach()
    targets = [
        _dynamic_targets(logits[index], predicted[index], points, each, spec, settings)
        for index, each in enumerate(labels)
    ]
    terms: dict[str, Tensor] = {}
    for name, output in outputs.items():
        terms |= _head_loss(name, output, decoded[name], points, targets, spec, settings)
    return torch.stack(list(terms.values())).sum(), terms


def _head_loss(
    name: str,
    output: Tensor,
    decoded: Tensor,
    points: Tensor,
    targets: Sequence[_Targets],
    spec: ModelSpec,
    settings: LossSettings,
) -> dict[str, Tensor]:
    device, num_classes = output.device, spec.num_classes
    total = max(float(torch.tensor(sum(each.positives for each in targets)).to(device).item()), 1.0)
    classes, scores, weights, boxes = (
        torch.cat(each) for each in zip(*(target[:4] for target in targets), strict=True)
    )
    every = points.repeat(len(output), 1)
    output, decoded = output.reshape(-1, output.shape[-1]), decoded.reshape(-1, 4)
    logits, bins = output[:, :num_classes], output[:, num_classes:]
    qfl = settings.qfl_weight * _quality_loss(logits, classes, scores, weights, settings.qfl_beta) / total
    positive = torch.nonzero((classes >= 0) & (classes < num_classes)).squeeze(1)
    bbox = dfl = bins.sum() * 0
    if len(positive) > 0:
        best = logits[positive].detach().sigmoid().max(dim=1)[0]
        factor = max(float(best.sum().item()), 1.0)
        bbox = settings.giou_weight * (_giou_loss(decoded[positive], boxes[positive]) * best).sum() / factor
        stride = every[positive, 2:]
        sides = _sides(every[positive, :2] / stride, boxes[positive] / stride, bins)
        dfl = settings.dfl_weight * _distribution_loss(bins[positive], sides, best) / factor
    return {f"{name}qfl": qfl, f"{name}bbox": bbox, f"{name}dfl": dfl}


@torch.no_grad()
def _dynamic_targets(
    logits: Tensor, predicted: Tensor, points: Tensor, labels: Labels, spec: ModelSpec, settings: LossSettings
) -> _Targets:
    boxes, classes = (torch.from_numpy(each).to(points.device) for each in labels)
    row = torch.zeros(len(points), dtype=torch.long, device=points.device)
    quality = points.new_zeros(len(points))
    x, y = points[:, 0, None], points[:, 1, None]
    inside = torch.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y], -1).min(-1).values > 0
    valid = inside.sum(1) > 0
    scores, candidates = logits[valid], predicted[valid]
    if len(boxes) > 0 and len(candidates) > 0:
        overlaps = _pairwise_overlap(candidates, boxes)
        one_hot = F.one_hot(classes, spec.num_classes).float()[None].repeat(len(candidates), 1, 1)
        soft, spread = one_hot * overlaps[..., None], scores[:, None].repeat(1, len(boxes), 1)
        entropy = F.binary_cross_entropy_with_logits(spread, soft, reduction="none")
        cost = (entropy * (soft - spread.sigmoid()).abs().pow(2.0)).sum(-1)
        cost = cost - settings.iou_factor * torch.log(overlaps + 1e-7)
        matched = torch.zeros_like(cost)
        largest = overlaps.topk(min(settings.dynamic_topk, len(overlaps)), dim=0)[0]
        wanted = largest.sum(0).int().clamp(min=1)
        for number in range(len(boxes)):
            matched[cost[:, number].topk(int(wanted[number].item()), largest=False)[1], number] = 1.0
        several = matched.sum(1) > 1
        if several.sum() > 0:
            cheapest = cost[several].min(dim=1)[1]
            matched[several] = 0.0
            matched[several, cheapest] = 1.0
        takes = matched.sum(1) > 0
        places = torch.nonzero(valid).squeeze(1)[takes]
        row[places] = matched[takes].argmax(1) + 1
        quality[places] = (matched * overlaps).sum(1)[takes]
    return _targets(row, points, boxes, classes, spec.num_classes, quality)


def _targets(
    row: Tensor, points: Tensor, boxes: Tensor, classes: Tensor, num_classes: int, quality: Tensor | None
) -> _Targets:
    positive, negative = (torch.unique(torch.nonzero(each).squeeze(-1)) for each in (row > 0, row == 0))
    learnt = points.new_full((len(points),), num_classes, dtype=torch.long)
    scores, weights, targets = (
        points.new_zeros(len(points)),
        points.new_zeros(len(points)),
        points.new_zeros(len(row), 4),
    )
    if len(positive) > 0:
        which = row[positive] - 1
        targets[positive], learnt[positive], weights[positive] = boxes[which], classes[which], 1.0
        if quality is not None:
            scores[positive] = quality[positive]
    if len(negative) > 0:
        weights[negative] = 1.0
    return _Targets(learnt, scores, weights, targets, len(positive))


def _grid(spec: ModelSpec, size_hw: tuple[int, int], device: torch.device) -> list[Tensor]:
    """Returns each level's points, (N, 3) x, y, stride, computed at every step."""
    levels = []
    for stride in spec.strides:
        rows, columns = (torch.arange(-(-side // stride), device=device) for side in size_hw)
        y, x = torch.meshgrid(
            (rows + spec.anchor_offset) * stride, (columns + spec.anchor_offset) * stride, indexing="ij"
        )
        levels.append(torch.stack((x.flatten(), y.flatten(), torch.full_like(x, stride).flatten()), 1).float())
    return levels


def _decoded(points: Tensor, bins: Tensor) -> Tensor:
    """Returns boxes of (..., 4 (reg_max + 1)) bins; in strides unless the points have a third column, the stride."""
    bins = bins.reshape(*bins.shape[:-1], 4, -1)
    steps = torch.linspace(0, bins.shape[-1] - 1, bins.shape[-1]).to(bins.device)
    distances = F.linear(bins.softmax(-1), steps[None]).squeeze(-1)
    if points.shape[-1] == 3:
        distances = distances * points[..., 2:]
    return torch.cat((points[..., :2] - distances[..., :2], points[..., :2] + distances[..., 2:]), -1)


def _sides(points: Tensor, boxes: Tensor, bins: Tensor) -> Tensor:
    sides = torch.cat((points - boxes[:, :2], boxes[:, 2:] - points), 1)
    return sides.clamp(min=0, max=bins.shape[-1] // 4 - 1 - 0.1)


def _quality_loss(logits: Tensor, classes: Tensor, scores: Tensor, weights: Tensor, beta: float) -> Tensor:
    probabilities = logits.sigmoid()
    zeros = probabilities.new_zeros(logits.shape)
    loss = F.binary_cross_entropy_with_logits(logits, zeros, reduction="none") * probabilities.pow(beta)
    positive = torch.nonzero((classes >= 0) & (classes < logits.shape[1])).squeeze(1)
    own = classes[positive].long()
    entropy = F.binary_cross_entropy_with_logits(logits[positive, own], scores[positive], reduction="none")
    loss[positive, own] = entropy * (scores[positive] - probabilities[positive, own]).abs().pow(beta)
    return (loss.sum(1) * weights).sum()


def _distribution_loss(bins: Tensor, sides: Tensor, weights: Tensor) -> Tensor:
    bins, sides = bins.reshape(len(bins) * 4, -1), sides.reshape(-1)
    left = sides.long()
    near = F.cross_entropy(bins, left, reduction="none") * ((left + 1).float() - sides)
    far = F.cross_entropy(bins, left + 1, reduction="none") * (sides - left.float())
    return ((near + far) * weights[:, None].expand(-1, 4).reshape(-1)).sum() / 4


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Returns the intersection over union of boxes that broadcast, (..., 4)."""
    low, high = torch.max(first[..., :2], second[..., :2]), torch.min(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_area(first) + _area(second) - shared).clamp(min=1e-6)


def _pairwise_overlap(first: Tensor, second: Tensor) -> Tensor:
    return _overlap(first[:, None], second[None])


def _giou_loss(first: Tensor, second: Tensor) -> Tensor:
    low, high = torch.max(first[:, :2], second[:, :2]), torch.min(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = (_area(first) + _area(second) - shared).clamp(min=1e-6)
    outer = torch.max(first[:, 2:], second[:, 2:]) - torch.min(first[:, :2], second[:, :2])
    enclosing = outer.clamp(min=0).prod(-1).clamp(min=1e-6)
    return 1 - (shared / union - (enclosing - union) / enclosing)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
