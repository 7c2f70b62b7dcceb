"""NanoDet-Plus's auxiliary head, which assigns points in training and is left out of exported models."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, flatten_points
from streamer.models.nanodet.necks import GhostPan
from streamer.models.spec import ModelSpec

_CONVS = 4
_GROUPS = 32


class Scale(nn.Module):
    """A learnt factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.scale


class SharedHead(nn.Module):
    """Two towers of 3x3 convolutions with group normalisation, for scores and boxes, shared by all levels.

    Upstream's `SimpleConvHead`; custom widths that 32 doesn't divide have fewer groups.
    """

    def __init__(self, spec: ModelSpec, channels: int, activation: NewActivation) -> None:
        super().__init__()
        self.cls_convs = nn.ModuleList(_conv_group_norm(channels, activation) for _ in range(_CONVS))
        self.reg_convs = nn.ModuleList(_conv_group_norm(channels, activation) for _ in range(_CONVS))
        self.gfl_cls = nn.Conv2d(channels, spec.num_classes, 3, padding=1)
        self.gfl_reg = nn.Conv2d(channels, 4 * (spec.reg_max + 1), 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in spec.strides)

    def forward(self, levels: list[Tensor]) -> Tensor:
        outputs = []
        for scale, level in zip(self.scales, levels, strict=True):
            scores = boxes = level
            for score_layer, box_layer in zip(self.cls_convs, self.reg_convs, strict=True):
                scores, boxes = score_layer(scores), box_layer(boxes)
            joined = torch.cat((self.gfl_cls(scores), scale(self.gfl_reg(boxes))), dim=1)
            outputs.append(flatten_points(joined))
        return torch.cat(outputs, dim=2)


class AuxiliaryHead(nn.Module):
    """A second neck, and a head on the levels of both necks joined; parameter names are upstream's."""

    def __init__(self, spec: ModelSpec, fpn: GhostPan, channels: int, activation: NewActivation) -> None:
        super().__init__()
        self.aux_fpn = copy.deepcopy(fpn)
        self.aux_head = SharedHead(spec, 2 * channels, activation)

    def forward(self, features: list[Tensor], levels: list[Tensor], *, detach: bool) -> Tensor:
        """Predicts as the main head does.

        Args:
            features: of the backbone.
            levels: of the main neck.
            detach: whether to keep the auxiliary losses' gradients from the backbone and the main neck.

        Returns:
            (B, C + 4 (reg_max + 1), N).
        """
        if detach:
            features, levels = [each.detach() for each in features], [each.detach() for each in levels]
        joined = [torch.cat(pair, dim=1) for pair in zip(levels, self.aux_fpn(features), strict=True)]
        output: Tensor = self.aux_head(joined)
        return output


def _conv_group_norm(channels: int, activation: NewActivation) -> nn.Sequential:
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    norm = nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
    return nn.Sequential(OrderedDict(conv=layer, gn=norm, act=activation()))
