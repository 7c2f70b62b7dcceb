"""ResNet (He et al. 2015), with the parameter names of torchvision and upstream NanoDet."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, conv
from streamer.models.network_spec import ResNetSpec

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_WIDTHS = (64, 128, 256, 512)


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Returns the projection of a block's input, or None where the shapes agree."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: ResNet-18 and -34."""

    expansion = 1
    conv_norm_names: ClassVar = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, inputs: int, width: int, stride: int, activation: NewActivation) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.act = activation()
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        output = self.bn2(self.conv2(self.act(self.bn1(self.conv1(features)))))
        shortcut = features if self.downsample is None else self.downsample(features)
        summed: Tensor = self.act(output + shortcut)
        return summed


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut: ResNet-50 and deeper; the 3x3 has the stride."""

    expansion = 4
    conv_norm_names: ClassVar = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, inputs: int, width: int, stride: int, activation: NewActivation) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.act = activation()
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        output = self.act(self.bn1(self.conv1(features)))
        output = self.bn3(self.conv3(self.act(self.bn2(self.conv2(output)))))
        shortcut = features if self.downsample is None else self.downsample(features)
        summed: Tensor = self.act(output + shortcut)
        return summed


class ResNet(nn.Module):
    """ResNet without its classifier; the levels are the last three stages."""

    conv_norm_names: ClassVar = (("conv1", "bn1"),)

    def __init__(self, spec: ResNetSpec, activation: NewActivation) -> None:
        super().__init__()
        block = BasicBlock if spec.depth < 50 else Bottleneck
        inputs = _WIDTHS[0]
        self.conv1, self.bn1, self.act = conv(3, inputs, 7, 2), nn.BatchNorm2d(inputs), activation()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = []
        for index, (width, blocks) in enumerate(zip(_WIDTHS, _BLOCKS[spec.depth], strict=True)):
            units = [block(inputs, width, 1 if index == 0 else 2, activation)]
            inputs = width * block.expansion
            units += [block(inputs, width, 1, activation) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(width * block.expansion for width in _WIDTHS[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.layer1(self.maxpool(self.act(self.bn1(self.conv1(images)))))
        stride8 = self.layer2(features)
        stride16 = self.layer3(stride8)
        return [stride8, stride16, self.layer4(stride16)]
