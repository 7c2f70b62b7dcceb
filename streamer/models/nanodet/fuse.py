"""Folds batch normalisation into convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import nn

from streamer.models.nanodet.backbones.repvgg import RepVggBlock
from streamer.models.nanodet.layers import folded


def fuse_batchnorm(network: nn.Module) -> None:
    """Folds every BatchNorm2d into its convolution, in place; evaluation-mode outputs stay the same.

    RepVGG's branches become one convolution. Other convolutions keep their weight's name and get a `bias`, so a file
    exported from a fused network can be loaded into another fused network. Idempotent.
    """
    for module in list(network.modules()):
        if isinstance(module, RepVggBlock):
            module.reparameterize()
    for conv_name, norm_name in list(conv_norm_pairs(network)):
        parent, _, child = norm_name.rpartition(".")
        layer, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        assert isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        _fold(layer, norm)
        setattr(network.get_submodule(parent), child, nn.Identity())


def conv_norm_pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the full names of each convolution and of the BatchNorm2d that follows it."""
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        for conv_name, norm_name in _conv_norm_names(module):
            layer, norm = getattr(module, conv_name), getattr(module, norm_name)
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                yield prefix + conv_name, prefix + norm_name


def _conv_norm_names(module: nn.Module) -> Iterable[tuple[str, str]]:
    """Returns the names of children that follow each other: in a Sequential all neighbours, else what it declares."""
    if isinstance(module, nn.Sequential):
        return pairwise([name for name, _ in module.named_children()])
    return getattr(module, "conv_norm_names", ())


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    weight, bias = folded(conv, norm)
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
