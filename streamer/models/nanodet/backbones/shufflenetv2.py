"""ShuffleNetV2, the backbone of NanoDet-m and NanoDet-Plus-m."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, conv, shuffle_halves
from streamer.models.network_spec import ShuffleNetV2Spec


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit (Ma et al. 2018, figure 3 c and d): half the channels pass by, or both halves at stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: NewActivation) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1: nn.Sequential | None = None
        if stride == 2:
            self.branch1 = nn.Sequential(
                conv(inputs, inputs, 3, stride, groups=inputs),
                nn.BatchNorm2d(inputs),
                conv(inputs, half, 1),
                nn.BatchNorm2d(half),
                activation(),
            )
        self.branch2 = nn.Sequential(
            conv(inputs if stride == 2 else half, half, 1),
            nn.BatchNorm2d(half),
            activation(),
            conv(half, half, 3, stride, groups=half),
            nn.BatchNorm2d(half),
            conv(half, half, 1),
            nn.BatchNorm2d(half),
            activation(),
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.branch1 is None:
            passed, worked = features.chunk(2, dim=1)
        else:
            passed, worked = self.branch1(features), features
        return shuffle_halves(torch.cat((passed, self.branch2(worked)), dim=1))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 without its last convolution and classifier."""

    def __init__(self, spec: ShuffleNetV2Spec, activation: NewActivation) -> None:
        super().__init__()
        inputs = spec.stem_channels
        self.conv1 = nn.Sequential(conv(3, inputs, 3, stride=2), nn.BatchNorm2d(inputs), activation())
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        for outputs, blocks in zip(spec.stage_channels, spec.stage_blocks, strict=True):
            units = [ShuffleUnit(inputs, outputs, 2, activation)]
            units += [ShuffleUnit(outputs, outputs, 1, activation) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*units))
            inputs = outputs
        self.stage2, self.stage3, self.stage4 = stages
        self.channels = spec.stage_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        stride8 = self.stage2(self.maxpool(self.conv1(images)))
        stride16 = self.stage3(stride8)
        return [stride8, stride16, self.stage4(stride16)]
