"""Folding batch normalisation into the convolutions before it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def fuse_batchnorm(network: nn.Module) -> None:
    """Folds every BatchNorm2d into its convolution, in place; evaluation-mode outputs stay the same.

    Each convolution keeps its weight's name and gets a `bias` beside it, and the BatchNorm2d becomes an identity with
    no parameters: so the file exported from a fused network can be loaded into another fused network by name. Doing it
    twice changes nothing more.
    """
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        layers = list(module.named_children())
        for (_, layer), (name, following) in pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                _fold(layer, following)
                setattr(module, name, nn.Identity())


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Folds in float64: w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None, "a BatchNorm2d of this network keeps running statistics"
    factor = norm.weight.double() / (var.double() + norm.eps).sqrt()
    bias = -mean.double() if conv.bias is None else conv.bias.double() - mean.double()
    conv.weight.copy_(conv.weight.double() * factor[:, None, None, None])
    conv.bias = nn.Parameter((bias * factor + norm.bias.double()).to(conv.weight.dtype), requires_grad=False)
