"""MobileNetV2 (Sandler et al. 2018), with upstream NanoDet's parameter names."""

from __future__ import annotations

from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, conv
from streamer.models.network_spec import MobileNetV2Spec

# Expansion, outputs at width 1, blocks, stride of the first: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM = 32
_RETURNED = (2, 4, 6)


def _conv_norm_act(inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs), act)


class InvertedResidual(nn.Module):
    """Widens by a 1x1 convolution, filters depthwise, narrows by a linear 1x1; adds its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, activation: NewActivation) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_norm_act(inputs, wide, 1, 1, 1, activation()))
        layers.append(_conv_norm_act(wide, wide, 3, stride, wide, activation()))
        self.conv = nn.Sequential(*layers, conv(wide, outputs, 1), nn.BatchNorm2d(outputs))
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.conv(features)
        return features + output if self.adds_input else output


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier; the last level is that of the last 1x1 convolution."""

    def __init__(self, spec: MobileNetV2Spec, activation: NewActivation) -> None:
        super().__init__()
        inputs = int(_STEM * spec.width)
        self.first_layer = _conv_norm_act(3, inputs, 3, 2, 1, activation())
        widths = []
        for index, (expansion, channels, blocks, stride) in enumerate(_STAGES):
            outputs = int(channels * spec.width)
            units: list[nn.Module] = [InvertedResidual(inputs, outputs, stride, expansion, activation)]
            units += [InvertedResidual(outputs, outputs, 1, expansion, activation) for _ in range(blocks - 1)]
            inputs = outputs
            if index == len(_STAGES) - 1:
                units.append(_conv_norm_act(inputs, spec.last_channels, 1, 1, 1, activation()))
                outputs = spec.last_channels
            setattr(self, f"stage{index}", nn.Sequential(*units))
            widths.append(outputs)
        self.channels = tuple(widths[index] for index in _RETURNED)

    def forward(self, images: Tensor) -> list[Tensor]:
        features, levels = self.first_layer(images), []
        for index in range(len(_STAGES)):
            features = getattr(self, f"stage{index}")(features)
            if index in _RETURNED:
                levels.append(features)
        return levels
