"""The two backbones: each returns the features at strides 8, 16 and 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamer.model_spec import CspSpec, ShuffleNetV2Spec
from streamer.nanodet.layers import NewActivation, conv, conv_norm_act, shuffle_halves


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
