"""The two path-aggregation necks: the backbone's levels in, all of one width out, each informed by the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streamer.models.nanodet.layers import (
    GhostModule,
    NewActivation,
    conv,
    conv_norm_act,
    depthwise_separable,
    lateral,
    resize,
    size_hw,
)


class Pan(nn.Module):
    """NanoDet's path aggregation: PANet (Liu et al. 2018) with its convolutions taken out, all but the laterals."""

    def __init__(self, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(lateral(width, channels) for width in inputs)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        outputs = [bring(level) for bring, level in zip(self.lateral_convs, levels, strict=True)]
        for index in range(len(outputs) - 1, 0, -1):
            outputs[index - 1] = outputs[index - 1] + resize(outputs[index], size_hw(outputs[index - 1]))
        for index in range(len(outputs) - 1):
            outputs[index + 1] = outputs[index + 1] + resize(outputs[index], size_hw(outputs[index + 1]))
        return outputs


class GhostBottleneck(nn.Module):
    """Two Ghost modules, the second without activation, and a depthwise-separable shortcut."""

    def __init__(self, inputs: int, outputs: int, kernel: int, activation: NewActivation) -> None:
        super().__init__()
        self.ghost1 = GhostModule(inputs, outputs, activation)
        self.ghost2 = GhostModule(outputs, outputs, nn.Identity)
        self.shortcut = nn.Sequential(
            conv(inputs, inputs, kernel, groups=inputs),
            nn.BatchNorm2d(inputs),
            conv(inputs, outputs, 1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.ghost2(self.ghost1(features)) + self.shortcut(features)


class GhostBlocks(nn.Module):
    """Merges two joined levels; a list of one bottleneck, as the names in checkpoints have it."""

    def __init__(self, channels: int, kernel: int, activation: NewActivation) -> None:
        super().__init__()
        self.blocks = nn.Sequential(GhostBottleneck(2 * channels, channels, kernel, activation))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.blocks(torch.cat((first, second), dim=1))


class GhostPan(nn.Module):
    """NanoDet-Plus's path aggregation; levels beyond the backbone's are made from its last one, in and out."""

    def __init__(
        self, inputs: Sequence[int], channels: int, kernel: int, extra_levels: int, activation: NewActivation
    ) -> None:
        super().__init__()
        merges = range(len(inputs) - 1)
        self.reduce_layers = nn.ModuleList(conv_norm_act(width, channels, 1, activation) for width in inputs)
        self.top_down_blocks = nn.ModuleList(GhostBlocks(channels, kernel, activation) for _ in merges)
        self.downsamples = nn.ModuleList(_halve(channels, kernel, activation) for _ in merges)
        self.bottom_up_blocks = nn.ModuleList(GhostBlocks(channels, kernel, activation) for _ in merges)
        self.extra_lvl_in_conv = nn.ModuleList(_halve(channels, kernel, activation) for _ in range(extra_levels))
        self.extra_lvl_out_conv = nn.ModuleList(_halve(channels, kernel, activation) for _ in range(extra_levels))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        reduced = [layer(level) for layer, level in zip(self.reduce_layers, levels, strict=True)]
        descended = [reduced[-1]]
        for block, level in zip(self.top_down_blocks, reversed(reduced[:-1]), strict=True):
            descended.append(block(resize(descended[-1], size_hw(level)), level))
        descended.reverse()
        outputs = [descended[0]]
        for halve, block, level in zip(self.downsamples, self.bottom_up_blocks, descended[1:], strict=True):
            outputs.append(block(halve(outputs[-1]), level))
        for extra_in, extra_out in zip(self.extra_lvl_in_conv, self.extra_lvl_out_conv, strict=True):
            outputs.append(extra_in(reduced[-1]) + extra_out(outputs[-1]))
        return outputs


def _halve(channels: int, kernel: int, activation: NewActivation) -> nn.Sequential:
    return depthwise_separable(channels, channels, kernel, activation, stride=2)
