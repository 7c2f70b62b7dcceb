"""NanoDet as a whole: backbone, neck, head, one tensor in and one out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from streamer.common.errors import ModelError
from streamer.models.nanodet.backbones import build_backbone
from streamer.models.nanodet.layers import (
    NewActivation,
    activation_factory,
    conv_norm_act,
    depthwise_separable,
    flatten_points,
)
from streamer.models.nanodet.necks import GhostPan, Pan
from streamer.models.network_spec import ActivationName, GhostPanSpec, HeadSpec, NetworkSpec
from streamer.models.spec import ModelSpec


class DistributionProject(nn.Module):
    """Holds 0 ... reg_max, the values a box side's distribution runs over: a constant that checkpoints carry too."""

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.arange(reg_max + 1, dtype=torch.float32))


class Head(nn.Module):
    """Predicts scores and box distributions of each level by one 1x1 convolution (GFL, Li et al. 2020).

    NanoDet v0's checkpoints carry a box layer `gfl_reg` that its head, sharing one layer for both, never applies.
    """

    def __init__(self, spec: ModelSpec, head: HeadSpec, inputs: int, activation: NewActivation) -> None:
        super().__init__()
        layer = depthwise_separable if head.depthwise else conv_norm_act
        levels = range(len(spec.strides))
        widths = [inputs] + [head.channels] * (head.convs - 1)
        self.distribution_project = DistributionProject(spec.reg_max)
        self.cls_convs = nn.ModuleList(
            nn.Sequential(*(layer(width, head.channels, head.kernel, activation) for width in widths)) for _ in levels
        )
        self.gfl_cls = nn.ModuleList(nn.Conv2d(head.channels, spec.output_channels, 1) for _ in levels)
        if spec.family == "nanodet":
            self.gfl_reg = nn.ModuleList(nn.Conv2d(head.channels, 4 * (spec.reg_max + 1), 1) for _ in levels)

    def forward(self, levels: list[Tensor]) -> Tensor:
        predictions = [
            flatten_points(predict(convs(level)))
            for convs, predict, level in zip(self.cls_convs, self.gfl_cls, levels, strict=True)
        ]
        return torch.cat(predictions, dim=2)


class NanoDet(nn.Module):
    """A NanoDet or NanoDet-Plus network with the parameter names of official checkpoints.

    Attributes:
        spec: what it was built from.
        sigmoid_scores: whether class scores come out after the sigmoid (as in an exported file) or before it.
    """

    def __init__(self, spec: ModelSpec, network: NetworkSpec) -> None:
        super().__init__()
        name = cast(ActivationName, spec.activation)  # a ModelSpec with a network has no other
        activation = activation_factory(name)
        self.spec = spec
        self.sigmoid_scores = False
        self.backbone = build_backbone(network.backbone, name)
        inputs, channels = self.backbone.channels, network.neck.channels
        self.fpn = (
            GhostPan(inputs, channels, network.neck.kernel, len(spec.strides) - len(inputs), activation)
            if isinstance(network.neck, GhostPanSpec)
            else Pan(inputs, channels)
        )
        self.head = Head(spec, network.head, channels, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Runs the network at any height and width.

        Args:
            images: (B, 3, H, W) float32, B, G, R, normalised with the spec's mean and std.

        Returns:
            (B, N, num_classes + 4 * (reg_max + 1)) float32: per anchor point the class scores, then the bins for left,
            top, right and bottom before their softmax.
        """
        points: Tensor = self.head(self.fpn(self.backbone(images)))
        if self.sigmoid_scores:
            classes = self.spec.num_classes
            points = torch.cat((points[:, :classes].sigmoid(), points[:, classes:]), dim=1)
        return points.permute(0, 2, 1)


def build(spec: ModelSpec) -> NanoDet:
    """Returns the network of `spec` in evaluation mode, its weights random.

    Raises:
        ModelError: the spec doesn't describe the architecture.
    """
    if spec.network is None:
        raise ModelError(f"{spec.name}: the model description has no 'network', so the network can't be built from it")
    return NanoDet(spec, spec.network).eval()
