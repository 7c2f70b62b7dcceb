"""GhostNet (Han et al. 2020), with upstream NanoDet's parameter names."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from streamer.models.nanodet.layers import GhostModule, NewActivation, activation_factory, conv, nearest_multiple
from streamer.models.network_spec import GhostNetSpec

# Kernel, expanded and output channels at width 1, squeeze and excitation, stride: table 1 of the paper.
_Unit = tuple[int, int, int, bool, int]
_STAGES: tuple[tuple[_Unit, ...], ...] = (
    ((3, 16, 16, False, 1),),
    ((3, 48, 24, False, 2),),
    ((3, 72, 24, False, 1),),
    ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),),
    ((3, 240, 80, False, 2),),
    (
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
    ),
    ((5, 672, 160, True, 2),),
    ((5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 960, 160, True, 1)),
)
_STEM, _LAST = 16, 960
_RETURNED = (4, 6, 9)
_DIVISOR = 4


class SqueezeExcite(nn.Module):
    """Scales channels by what their means say (Hu et al. 2018), with a quarter of them between and a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = nearest_multiple(channels * 0.25, _DIVISOR)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = activation_factory("ReLU")()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.conv_expand(self.act1(self.conv_reduce(self.avg_pool(features))))
        return features * F.hardsigmoid(squeezed)


class GhostUnit(nn.Module):
    """Widens and narrows by Ghost modules, with a depthwise convolution between them where the stride is 2."""

    def __init__(self, inputs: int, wide: int, outputs: int, unit: _Unit, activation: NewActivation) -> None:
        super().__init__()
        kernel, _, _, excites, stride = unit
        self.ghost1 = GhostModule(inputs, wide, activation)
        self.conv_norm_names = (("conv_dw", "bn_dw"),) if stride > 1 else ()
        if stride > 1:
            self.conv_dw, self.bn_dw = conv(wide, wide, kernel, stride, groups=wide), nn.BatchNorm2d(wide)
        self.se = SqueezeExcite(wide) if excites else None
        self.ghost2 = GhostModule(wide, outputs, nn.Identity)
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.append(conv(inputs, inputs, kernel, stride, groups=inputs))
            self.shortcut.append(nn.BatchNorm2d(inputs))
            self.shortcut.append(conv(inputs, outputs, 1))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        output = self.ghost1(features)
        if self.stride > 1:
            output = self.bn_dw(self.conv_dw(output))
        if self.se is not None:
            output = self.se(output)
        summed: Tensor = self.ghost2(output) + self.shortcut(features)
        return summed


class LastConv(nn.Module):
    """The 1x1 convolution behind the last stage, with batch normalisation and activation."""

    conv_norm_names: ClassVar = (("conv", "bn1"),)

    def __init__(self, inputs: int, outputs: int, activation: NewActivation) -> None:
        super().__init__()
        self.conv, self.bn1, self.act1 = conv(inputs, outputs, 1), nn.BatchNorm2d(outputs), activation()

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.act1(self.bn1(self.conv(features)))
        return output


class GhostNet(nn.Module):
    """GhostNet without its classifier; the last level is that of its last 1x1 convolution."""

    conv_norm_names: ClassVar = (("conv_stem", "bn1"),)

    def __init__(self, spec: GhostNetSpec, activation: NewActivation) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return nearest_multiple(channels * spec.width, _DIVISOR)

        inputs = scaled(_STEM)
        self.conv_stem, self.bn1, self.act1 = conv(3, inputs, 3, 2), nn.BatchNorm2d(inputs), activation()
        stages, widths = [], []
        for stage in _STAGES:
            units = []
            for unit in stage:
                outputs = scaled(unit[2])
                units.append(GhostUnit(inputs, scaled(unit[1]), outputs, unit, activation))
                inputs = outputs
            stages.append(nn.Sequential(*units))
            widths.append(inputs)
        stages.append(nn.Sequential(LastConv(inputs, scaled(_LAST), activation)))
        widths.append(scaled(_LAST))
        self.blocks = nn.Sequential(*stages)
        self.channels = tuple(widths[index] for index in _RETURNED)

    def forward(self, images: Tensor) -> list[Tensor]:
        features, levels = self.act1(self.bn1(self.conv_stem(images))), []
        for index, stage in enumerate(self.blocks):
            features = stage(features)
            if index in _RETURNED:
                levels.append(features)
        return levels
