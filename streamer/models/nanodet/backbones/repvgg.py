"""RepVGG (Ding et al. 2021): three branches a block in training, merged into one 3x3 convolution to run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamer.models.nanodet.layers import NewActivation, conv, folded
from streamer.models.network_spec import RepVggSpec

_LAST_GROUPED_LAYER = 26  # of those with even numbers: section 4.1 of the paper


class RepVggBlock(nn.Module):
    """A 3x3 and a 1x1 convolution and the identity, each with batch normalisation, summed; or all three in one.

    Parameter names are those of upstream NanoDet: ``rbr_dense``, ``rbr_1x1`` and ``rbr_identity``, or ``rbr_reparam``.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, groups: int, activation: NewActivation, *, deploy: bool
    ) -> None:
        super().__init__()
        self.act = activation()
        self._shape = (inputs, outputs, stride, groups)
        self.rbr_reparam: nn.Conv2d | None = None
        self.rbr_dense: nn.Sequential | None = None
        self.rbr_1x1: nn.Sequential | None = None
        self.rbr_identity: nn.BatchNorm2d | None = None
        if deploy:
            self.rbr_reparam = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups)
            return
        self.rbr_dense = nn.Sequential()
        self.rbr_1x1 = nn.Sequential()
        for branch, kernel in ((self.rbr_dense, 3), (self.rbr_1x1, 1)):
            branch.append(conv(inputs, outputs, kernel, stride, groups))
            branch.append(nn.BatchNorm2d(outputs))
        if inputs == outputs and stride == 1:
            self.rbr_identity = nn.BatchNorm2d(inputs)

    def forward(self, features: Tensor) -> Tensor:
        if self.rbr_reparam is not None:
            merged: Tensor = self.act(self.rbr_reparam(features))
            return merged
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        summed = self.rbr_dense(features) + self.rbr_1x1(features)
        if self.rbr_identity is not None:
            summed = summed + self.rbr_identity(features)
        activated: Tensor = self.act(summed)
        return activated

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Merges the branches into `rbr_reparam`, in place, in float64 (section 3.3 of the paper).

        A 1x1 kernel is a 3x3 one with its value in the middle; the identity is such a kernel with ones between a
        channel and itself. Doing it twice changes nothing more.
        """
        if self.rbr_dense is None or self.rbr_1x1 is None:
            return
        inputs, outputs, stride, groups = self._shape
        merged = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups)
        dense, dense_bias = folded(*self.rbr_dense)
        point, point_bias = folded(*self.rbr_1x1)
        kernel, bias = dense, dense_bias + point_bias
        kernel[:, :, 1:2, 1:2] += point
        if self.rbr_identity is not None:
            same = conv(inputs, outputs, 1, groups=groups)
            same.weight.zero_()
            same.weight[torch.arange(outputs), torch.arange(outputs) % (inputs // groups)] = 1
            identity, identity_bias = folded(same, self.rbr_identity)
            kernel[:, :, 1:2, 1:2] += identity
            bias = bias + identity_bias
        merged.weight.copy_(kernel)
        assert merged.bias is not None
        merged.bias.copy_(bias)
        self.rbr_reparam = merged.requires_grad_(False)
        self.rbr_dense = self.rbr_1x1 = self.rbr_identity = None


class RepVgg(nn.Module):
    """RepVGG without its classifier; the levels are the last three of its four stages."""

    def __init__(self, spec: RepVggSpec, activation: NewActivation) -> None:
        super().__init__()
        inputs = min(64, spec.stage_channels[0])
        self.stage0 = RepVggBlock(3, inputs, 2, 1, activation, deploy=spec.deploy)
        stages, layer = [], 0
        for outputs, blocks in zip(spec.stage_channels, spec.stage_blocks, strict=True):
            units = []
            for index in range(blocks):
                layer += 1
                groups = spec.groups if layer % 2 == 0 and layer <= _LAST_GROUPED_LAYER else 1
                units.append(
                    RepVggBlock(inputs, outputs, 2 if index == 0 else 1, groups, activation, deploy=spec.deploy)
                )
                inputs = outputs
            stages.append(nn.Sequential(*units))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.channels = spec.stage_channels[1:]

    def forward(self, images: Tensor) -> list[Tensor]:
        stride8 = self.stage2(self.stage1(self.stage0(images)))
        stride16 = self.stage3(stride8)
        return [stride8, stride16, self.stage4(stride16)]
