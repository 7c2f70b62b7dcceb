"""NanoDet's layers, with the attribute names of official checkpoints.

A BatchNorm2d directly follows its convolution in an `nn.Sequential`, or their module has `conv_norm_names`, for
`streamer.models.nanodet.fuse`. Only convolutions without BatchNorm2d have a bias.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamer.models.network_spec import ActivationName

NewActivation = Callable[[], nn.Module]

LEAKY_SLOPE = 0.1
"""Of every LeakyReLU of NanoDet, for negative values."""


def activation_factory(name: ActivationName) -> NewActivation:
    """Returns a factory of the activation in `ModelSpec.activation`."""
    return {
        "LeakyReLU": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        "ReLU": lambda: nn.ReLU(inplace=True),
        "ReLU6": lambda: nn.ReLU6(inplace=True),
        "SELU": lambda: nn.SELU(inplace=True),
        "ELU": lambda: nn.ELU(inplace=True),
        "GELU": nn.GELU,
        "SiLU": lambda: nn.SiLU(inplace=True),
        "HardSwish": lambda: nn.Hardswish(inplace=True),
    }[name]


def nearest_multiple(value: float, divisor: int) -> int:
    """Rounds scaled channels to a multiple of `divisor`, at most 10 % below, as MobileNet does."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Returns a convolution for a BatchNorm2d to follow, padded so that a side of n becomes ceil(n / stride)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_norm_act(inputs: int, outputs: int, kernel: int, activation: NewActivation, stride: int = 1) -> nn.Sequential:
    """Returns convolution, batch normalisation and activation."""
    layers = OrderedDict(conv=conv(inputs, outputs, kernel, stride), bn=nn.BatchNorm2d(outputs), act=activation())
    return nn.Sequential(layers)


def depthwise_separable(
    inputs: int, outputs: int, kernel: int, activation: NewActivation, stride: int = 1
) -> nn.Sequential:
    """Returns depthwise then 1x1 convolution, each with batch normalisation and activation (Howard et al. 2017)."""
    layers = OrderedDict(
        depthwise=conv(inputs, inputs, kernel, stride, groups=inputs),
        dwnorm=nn.BatchNorm2d(inputs),
        dwact=activation(),
        pointwise=conv(inputs, outputs, 1),
        pwnorm=nn.BatchNorm2d(outputs),
        pwact=activation(),
    )
    return nn.Sequential(layers)


def lateral(inputs: int, outputs: int) -> nn.Sequential:
    """Returns the plain 1x1 convolution, bias and no more, that brings a backbone level to the neck's width."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(inputs, outputs, 1)))


def folded(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns a convolution's weight and bias with the batch normalisation behind it folded in, in float64.

    w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta
    """
    assert isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None, "a BatchNorm2d of this network keeps running statistics"
    factor = norm.weight.double() / (var.double() + norm.eps).sqrt()
    bias = -mean.double() if layer.bias is None else layer.bias.double() - mean.double()
    return layer.weight.double() * factor[:, None, None, None], bias * factor + norm.bias.double()


class GhostModule(nn.Module):
    """Half the outputs by a 1x1 convolution, the other half by a cheap depthwise 3x3 on them (Han et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, activation: NewActivation) -> None:
        super().__init__()
        half = outputs // 2
        self.primary_conv = nn.Sequential(conv(inputs, half, 1), nn.BatchNorm2d(half), activation())
        self.cheap_operation = nn.Sequential(conv(half, half, 3, groups=half), nn.BatchNorm2d(half), activation())

    def forward(self, features: Tensor) -> Tensor:
        primary = self.primary_conv(features)
        return torch.cat((primary, self.cheap_operation(primary)), dim=1)


def size_hw(features: Tensor) -> tuple[int, int]:
    """Returns (height, width) of (B, C, H, W) as numbers: fixed in a traced graph, whose batch alone varies."""
    return int(features.shape[2]), int(features.shape[3])


def resize(features: Tensor, wanted_hw: tuple[int, int]) -> Tensor:
    """Resizes (B, C, H, W) bilinearly with half-pixel centres.

    Exact doubling and halving, which is all that inputs of a multiple of 32 need, is expressed as a factor: an ONNX
    graph then has a constant there, where a size would be computed from the varying batch.
    """
    now_hw = size_hw(features)
    for factor in (2.0, 0.5):
        if wanted_hw == (now_hw[0] * factor, now_hw[1] * factor):
            return F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)
    return F.interpolate(features, size=wanted_hw, mode="bilinear", align_corners=False)


def flatten_points(features: Tensor) -> Tensor:
    """Returns (B, C, H * W), points row by row."""
    height, width = size_hw(features)
    return features.reshape(-1, features.shape[1], height * width)


def shuffle_halves(features: Tensor) -> Tensor:
    """Interleaves the two halves of the channels (the channel shuffle of ShuffleNet, two groups)."""
    height, width = size_hw(features)
    channels = int(features.shape[1])
    pairs = features.reshape(-1, 2, channels // 2, height, width)
    return torch.transpose(pairs, 1, 2).reshape(-1, channels, height, width)
