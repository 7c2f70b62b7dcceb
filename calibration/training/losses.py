"""NanoDet's loss: quality focal loss, distribution focal loss and GIoU, weighed as upstream's heads do.

Nothing here loops over pictures or objects, or waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from calibration.training.assignment import Assignment, counts_in_loss
from calibration.training.atss import atss
from calibration.training.boxes import decode, giou, iou, side_distances, split_sides
from calibration.training.dynamic_assigner import dynamic_soft_labels
from calibration.training.truth import Truth
from streamer.models.spec import ModelSpec

_NEVER_ZERO = 1e-9


class Predictions(NamedTuple):
    """A training network's output for B pictures.

    Attributes:
        main: (B, N, C + 4 (reg_max + 1)): class scores before the sigmoid, then bins before the softmax.
        auxiliary: the auxiliary head's, of the same shape, or None.
        points: (N, 3) float32 x, y, stride in pixels.
        level_counts: points of each level.
    """

    main: Tensor
    auxiliary: Tensor | None
    points: Tensor
    level_counts: tuple[int, ...]


class Losses(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: its sum, to be differentiated.
        terms: ``qfl``, ``bbox`` and ``dfl``, and with an auxiliary head ``aux_qfl``, ``aux_bbox`` and ``aux_dfl``;
            weighted, so that they add up to `total`.
        positives: number of points with an object in this process's batch.
    """

    total: Tensor
    terms: dict[str, Tensor]
    positives: Tensor


@dataclass(frozen=True)
class LossSettings:
    """Upstream's constants.

    Attributes:
        assigner: ``atss`` or ``dynamic`` soft labels.
        cell_scale: of `atss`, in strides.
        atss_topk: of `atss`.
        dynamic_topk: of `dynamic_soft_labels`.
        iou_factor: of `dynamic_soft_labels`.
        qfl_weight: of the quality focal loss.
        qfl_beta: exponent of its modulating factor.
        dfl_weight: of the distribution focal loss.
        giou_weight: of 1 - GIoU.
        auxiliary_assigns: whether an auxiliary head assigns for both heads. Where it is new and the main head is
            trained already, False lets the main head assign until the auxiliary one has learnt.
    """

    assigner: str = "atss"
    cell_scale: float = 5.0
    atss_topk: int = 9
    dynamic_topk: int = 13
    iou_factor: float = 3.0
    qfl_weight: float = 1.0
    qfl_beta: float = 2.0
    dfl_weight: float = 0.25
    giou_weight: float = 2.0
    auxiliary_assigns: bool = True

    @classmethod
    def of(cls, spec: ModelSpec) -> LossSettings:
        """Returns those of a network: NanoDet-Plus assigns dynamically; g, with its plain head, has larger cells."""
        if spec.family == "nanodet-plus":
            return cls(assigner="dynamic")
        plain = spec.network is not None and not spec.network.head.depthwise
        return cls(cell_scale=8.0 if plain else 5.0)


def detection_loss(
    predictions: Predictions, truth: Truth, spec: ModelSpec, settings: LossSettings | None = None
) -> Losses:
    """Computes the loss of a batch in float32, also under autocast.

    The quality focal loss is divided by the number of positive points, the boxes' losses by the sum of the positive
    points' best scores, each averaged over the processes of a distributed run. NanoDet m and g count at least one
    positive for every picture, NanoDet-Plus at least one for the batch. The auxiliary head's predictions decide which
    points get which objects, for both heads, where there is such a head, unless `settings` say otherwise. Points in
    ignored regions have no loss as background.

    A batch of background alone has the quality focal loss, whereas upstream's m and g have no loss then.

    Args:
        predictions: of a `TrainingNetwork`.
        truth: on the same device.
        spec: the network's description.
        settings: None is upstream's for `spec`.
    """
    settings = settings or LossSettings.of(spec)
    points, is_atss = predictions.points, settings.assigner == "atss"
    outputs = {"": predictions.main, "aux_": predictions.auxiliary}
    with torch.autocast(predictions.main.device.type, enabled=False):
        heads = {prefix: _Head.of(output, spec) for prefix, output in outputs.items() if output is not None}
        assigner = heads["aux_"] if "aux_" in heads and settings.auxiliary_assigns else heads[""]
        assignment = _assign(assigner, predictions, truth, settings)
        counted = counts_in_loss(assignment, points, truth)
        positives = _Positives.of(assignment, predictions, truth, settings)
        sums = [_sums(head, positives, counted, settings.qfl_beta) for head in heads.values()]
        per_picture = assignment.is_positive.sum(1)
        counted_positives = (per_picture.clamp(min=1) if is_atss else per_picture).sum()
        normalisers = _averaged_over_processes([counted_positives.float(), *(each.weight for each in sums)])
        least = _NEVER_ZERO if is_atss else 1.0
        terms = {}
        for prefix, each, weight in zip(heads, sums, normalisers[1:], strict=True):
            terms[f"{prefix}qfl"] = settings.qfl_weight * each.qfl / normalisers[0].clamp(min=1)
            terms[f"{prefix}bbox"] = settings.giou_weight * each.bbox / weight.clamp(min=least)
            terms[f"{prefix}dfl"] = settings.dfl_weight * each.dfl / weight.clamp(min=least)
        return Losses(torch.stack(list(terms.values())).sum(), terms, per_picture.sum())


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """Returns |target - sigmoid|^beta times the binary cross entropy, elementwise (GFL, Li et al. 2020, equation 5).

    Args:
        logits: before the sigmoid.
        targets: of the same shape, the overlap at an object's class, else 0.
        beta: of the modulating factor.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return entropy * (targets - logits.sigmoid()).abs().pow(beta)


def distribution_focal_loss(bins: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross entropy of the two bins around each target, weighed by nearness (GFL, equation 6).

    Args:
        bins: (..., reg_max + 1) before the softmax.
        targets: (...) from 0 to below reg_max, in strides.
    """
    left = targets.long()
    share = targets - left
    logs = bins.log_softmax(-1)
    near, far = (logs.gather(-1, index[..., None])[..., 0] for index in (left, left + 1))
    return -(near * (1 - share) + far * share)


class _Head(NamedTuple):
    """One head's output in float32: (B, N, C) logits and (B, N, 4 (reg_max + 1)) bins."""

    logits: Tensor
    bins: Tensor

    @classmethod
    def of(cls, output: Tensor, spec: ModelSpec) -> _Head:
        output = output.float()
        return cls(output[..., : spec.num_classes], output[..., spec.num_classes :])


class _Positives(NamedTuple):
    """The positive points of each picture, P rows each, of which `is_real` ones are: few of all points.

    Attributes:
        place: (B, P) int64, which point.
        is_real: (B, P) bool.
        points: (B, P, 3).
        boxes: (B, P, 4), the object's.
        labels: (B, P, 1), the object's.
        quality: (B, P), see `Assignment`.
    """

    place: Tensor
    is_real: Tensor
    points: Tensor
    boxes: Tensor
    labels: Tensor
    quality: Tensor | None

    @classmethod
    def of(cls, assignment: Assignment, predictions: Predictions, truth: Truth, settings: LossSettings) -> _Positives:
        points = predictions.points
        is_atss = settings.assigner == "atss"
        of_object = settings.atss_topk * len(predictions.level_counts) if is_atss else settings.dynamic_topk
        most = min(len(points), truth.boxes.shape[1] * of_object)
        is_real, place = assignment.is_positive.to(torch.uint8).topk(most, sorted=False)
        row = assignment.row.gather(1, place)
        labels = truth.labels.clamp(min=0).gather(1, row)[..., None]
        quality = None if assignment.quality is None else assignment.quality.gather(1, place)
        return cls(place, is_real > 0, points[place], _rows(truth.boxes, row), labels, quality)


class _Sums(NamedTuple):
    """Sums over a batch, not divided yet; `weight` is what the boxes' losses are divided by."""

    qfl: Tensor
    bbox: Tensor
    dfl: Tensor
    weight: Tensor


def _assign(head: _Head, predictions: Predictions, truth: Truth, settings: LossSettings) -> Assignment:
    points = predictions.points
    if settings.assigner == "atss":
        topk, scale = settings.atss_topk, settings.cell_scale
        return atss(points, predictions.level_counts, truth, topk=topk, cell_scale=scale)
    logits, boxes = head.logits.detach(), decode(head.bins.detach(), points)
    topk, factor = settings.dynamic_topk, settings.iou_factor
    return dynamic_soft_labels(logits, boxes, points, truth, topk=topk, iou_factor=factor)


def _sums(head: _Head, positives: _Positives, counted: Tensor, beta: float) -> _Sums:
    """Returns one head's losses. Scores are all formed as of background, and corrected at the objects' classes."""
    logits, bins = _rows(head.logits, positives.place), _rows(head.bins, positives.place)
    predicted = decode(bins, positives.points)
    boxes = torch.where(positives.is_real[..., None], positives.boxes, predicted.detach())
    quality = iou(predicted.detach(), boxes) if positives.quality is None else positives.quality
    own = logits.gather(2, positives.labels)[..., 0]
    correction = quality_focal_loss(own, quality, beta) - _background_loss(own, beta)
    qfl = (_background_loss(head.logits, beta).sum(-1) * counted).sum() + (correction * positives.is_real).sum()

    weight = logits.detach().amax(-1).sigmoid() * positives.is_real
    bbox = (1 - giou(predicted, boxes)) * weight
    farthest = split_sides(bins).shape[-1] - 1 - 0.1
    sides = side_distances(boxes, positives.points) / positives.points[..., 2:]
    sides = sides.nan_to_num().clamp(0, farthest)  # of a diverged network too they are places of bins; its loss is NaN
    dfl = distribution_focal_loss(split_sides(bins), sides).mean(-1) * weight
    return _Sums(qfl, bbox.sum(), dfl.sum(), weight.sum())


def _background_loss(logits: Tensor, beta: float) -> Tensor:
    """Returns the quality focal loss for targets of 0."""
    return F.softplus(logits) * logits.sigmoid().pow(beta)


def _rows(values: Tensor, place: Tensor) -> Tensor:
    """Returns (B, P, K) of (B, N, K) by the places (B, P)."""
    return values.gather(1, place[..., None].expand(-1, -1, values.shape[-1]))


def _averaged_over_processes(values: list[Tensor]) -> Tensor:
    stacked = torch.stack(values)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked = stacked / torch.distributed.get_world_size()
    return stacked
