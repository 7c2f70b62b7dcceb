"""A NanoDet to train: the network as it is exported, with NanoDet-Plus's auxiliary head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from calibration.training.auxiliary import AuxiliaryHead
from calibration.training.losses import Predictions
from calibration.training.points import anchor_points, level_counts
from streamer.models.nanodet import build
from streamer.models.nanodet.layers import activation_factory
from streamer.models.nanodet.necks import GhostPan
from streamer.models.network_spec import ActivationName
from streamer.models.spec import ModelSpec

PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
"""Bias of a new class score: a probability of 0.01 before any training (RetinaNet, Lin et al. 2017)."""
HEAD_DEVIATION = 0.01
"""Standard deviation of new weights in heads."""


class TrainingNetwork(nn.Module):
    """A network in training mode, its weights random as upstream begins.

    Attributes:
        network: what is exported.
        auxiliary: NanoDet-Plus's auxiliary head, else None.
        detach_auxiliary: whether the auxiliary losses leave the backbone and main neck alone; upstream sets it from
            epoch 10 on (``detach_epoch``).
        has_new_auxiliary: whether the auxiliary head is untrained and the main one isn't.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Builds the network that `spec` describes.

        Raises:
            ModelError: it doesn't describe the architecture.
        """
        super().__init__()
        self.network = build(spec)
        self.auxiliary: AuxiliaryHead | None = None
        self.detach_auxiliary = False
        self.has_new_auxiliary = False
        self._is_backbone_frozen = self._keeps_statistics = False
        self._kept_points: tuple[tuple[tuple[int, int], torch.device], Tensor] | None = None
        _initialise_layers(self.network)
        neck, architecture = self.network.fpn, spec.network
        if isinstance(neck, GhostPan) and architecture is not None:
            activation = activation_factory(cast(ActivationName, spec.activation))
            self.auxiliary = AuxiliaryHead(spec, neck, architecture.neck.channels, activation)
            _initialise_layers(self.auxiliary.aux_head)
        for name, parameter in self.network.named_parameters():
            if name.startswith("head.gfl_reg."):  # never applied
                parameter.requires_grad_(False)
        self.train()

    @property
    def spec(self) -> ModelSpec:
        """What the network was built from."""
        return self.network.spec

    def forward(self, images: Tensor) -> Predictions:
        """Runs both heads.

        Args:
            images: (B, 3, H, W) float32, B, G, R, normalised with the spec's mean and std.
        """
        features = self.network.backbone(images)
        levels = self.network.fpn(features)
        main = self.network.head(levels)
        auxiliary = None
        if self.auxiliary is not None:
            auxiliary = self.auxiliary(features, levels, detach=self.detach_auxiliary).permute(0, 2, 1)
        size_hw = (images.shape[2], images.shape[3])
        points = self._points(size_hw, images.device)
        return Predictions(main.permute(0, 2, 1), auxiliary, points, level_counts(self.spec, size_hw))

    def _points(self, size_hw: tuple[int, int], device: torch.device) -> Tensor:
        """Returns the anchor points, made again only for another size or device; compiled, they are a constant."""
        if torch.compiler.is_compiling():
            return anchor_points(self.spec, size_hw, device)
        if self._kept_points is None or self._kept_points[0] != (size_hw, device):
            with torch.inference_mode(False):
                self._kept_points = (size_hw, device), anchor_points(self.spec, size_hw, device)
        return self._kept_points[1]

    def freeze_backbone(self) -> None:
        """Keeps the backbone as it is: no gradients, and batch normalisation by its running statistics."""
        self._is_backbone_frozen = True
        self.network.backbone.requires_grad_(False)
        self.train(self.training)

    def keep_statistics(self) -> None:
        """Makes batch normalisation use its running statistics in training too, so that its output depends on a picture
        alone, as that of a teacher in evaluation mode does; the auxiliary head's goes on with the batch's."""
        self._keeps_statistics = True
        self.train(self.training)

    def train(self, mode: bool = True) -> TrainingNetwork:
        """Sets the mode; a frozen backbone, and normalisations that keep their statistics, stay in evaluation mode."""
        super().train(mode)
        if self._is_backbone_frozen:
            self.network.backbone.eval()
        if self._keeps_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def official_state(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the weights by the names of official checkpoints (``backbone...``, ``aux_head...``).

        Args:
            state: weights by this module's own names, such as averaged ones; None is `state_dict()`.
        """
        state = self.state_dict() if state is None else state
        return {name.removeprefix("network.").removeprefix("auxiliary."): value for name, value in state.items()}


@torch.no_grad()
def _initialise_layers(module: nn.Module) -> None:
    """Draws weights as upstream does: He's rule in backbones and necks, small ones in heads, rare classes."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            if "cls_convs" in name or "reg_convs" in name or "gfl_" in name:
                nn.init.normal_(layer.weight, std=HEAD_DEVIATION)
            else:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.constant_(layer.bias, PRIOR_BIAS if "gfl_cls" in name else 0.0)
