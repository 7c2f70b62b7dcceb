"""EfficientNet-Lite (Tan and Le 2019, without squeeze and excitation), with upstream NanoDet's parameter names."""

from __future__ import annotations

import math

from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, activation_factory, conv, nearest_multiple
from streamer.models.network_spec import EfficientNetLiteSpec

_WIDTH_DEPTH = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}
# Blocks, kernel, stride of the first, expansion, outputs at width 1.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
_RETURNED = (2, 4, 6)
_DIVISOR = 8
_EPSILON = 1e-3


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


class MbConv(nn.Module):
    """Widens by a 1x1 convolution, filters depthwise, narrows by a linear 1x1; adds its input where shapes agree.

    Its activation is always ReLU6, as upstream.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.conv_norm_names: tuple[tuple[str, str], ...] = (("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv, self._bn0 = conv(inputs, wide, 1), _norm(wide)
            self.conv_norm_names += (("_expand_conv", "_bn0"),)
        self._depthwise_conv, self._bn1 = conv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = conv(wide, outputs, 1), _norm(outputs)
        self._act = activation_factory("ReLU6")()
        self._adds_input = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        output = self._act(self._bn0(self._expand_conv(features))) if self._expands else features
        output = self._bn2(self._project_conv(self._act(self._bn1(self._depthwise_conv(output)))))
        return features + output if self._adds_input else output


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its last convolution and classifier."""

    def __init__(self, spec: EfficientNetLiteSpec, activation: NewActivation) -> None:
        super().__init__()
        width, depth = _WIDTH_DEPTH[spec.variant]
        self.stem = nn.Sequential(conv(3, _STEM, 3, 2), _norm(_STEM), activation())
        inputs, stages, widths = _STEM, [], []
        for index, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
            outputs = nearest_multiple(channels * width, _DIVISOR)
            is_deepened = 0 < index < len(_STAGES) - 1
            units = [MbConv(inputs, outputs, kernel, stride, expansion)]
            for _ in range((math.ceil(blocks * depth) if is_deepened else blocks) - 1):
                units.append(MbConv(outputs, outputs, kernel, 1, expansion))
            stages.append(nn.ModuleList(units))
            widths.append(outputs)
            inputs = outputs
        self.blocks = nn.ModuleList(stages)
        self.channels = tuple(widths[index] for index in _RETURNED)

    def forward(self, images: Tensor) -> list[Tensor]:
        features, levels = self.stem(images), []
        for index, stage in enumerate(self.blocks):
            assert isinstance(stage, nn.ModuleList)
            for unit in stage:
                features = unit(features)
            if index in _RETURNED:
                levels.append(features)
        return levels
