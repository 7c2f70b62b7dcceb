"""The plain cross-stage-partial backbone of NanoDet-g."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, conv_norm_act
from streamer.models.network_spec import CspSpec


class ConcatResidual(nn.Module):
    """Halves the channels, convolves them once more, and joins both."""

    def __init__(self, channels: int, activation: NewActivation) -> None:
        super().__init__()
        half = channels // 2
        self.in_conv = conv_norm_act(channels, half, 3, activation)
        self.mid_conv = conv_norm_act(half, half, 3, activation)

    def forward(self, features: Tensor) -> Tensor:
        halved = self.in_conv(features)
        return torch.cat((self.mid_conv(halved), halved), dim=1)


class CspStage(nn.Module):
    """A cross-stage-partial block of 3x3 convolutions (Wang et al. 2019): channels double, what came in passes by."""

    def __init__(self, channels: int, blocks: int, stride: int, activation: NewActivation) -> None:
        super().__init__()
        self.in_conv = conv_norm_act(channels, channels, 3, activation, stride)
        self.res_blocks = nn.Sequential(*(ConcatResidual(channels, activation) for _ in range(blocks)))
        self.res_out_conv = conv_norm_act(channels, channels, 3, activation)

    def forward(self, features: Tensor) -> Tensor:
        features = self.in_conv(features)
        return torch.cat((self.res_out_conv(self.res_blocks(features)), features), dim=1)


class CspNet(nn.Module):
    """The backbone of NanoDet-g; `stages` is indexed as in its checkpoints: stem, pooling, then the four stages."""

    def __init__(self, spec: CspSpec, activation: NewActivation) -> None:
        super().__init__()
        stages: list[nn.Module] = [
            conv_norm_act(3, spec.stem_channels, 3, activation, stride=2),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        channels = spec.stem_channels
        for index, blocks in enumerate(spec.stage_blocks):
            stages.append(CspStage(channels, blocks, 1 if index == 0 else 2, activation))
            channels *= 2
        self.stages = nn.ModuleList(stages)
        self.channels = (channels // 4, channels // 2, channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        features = images
        for stage in self.stages:
            features = stage(features)
            outputs.append(features)
        return outputs[-3:]
