"""Batch normalisation that exported files have folded into convolutions, made fit for training again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from streamer.models.nanodet import conv_norm_pairs

_TOLERANCE = 1e-4


def unfold(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a fused network's weights under the names of one that isn't: each convolution's bias is the
    normalisation's, whose statistics leave values as they are.

    In training mode such a network computes something else, until `restore_batchnorm`.

    Args:
        network: not fused.
        weights: by name; normalisations that they have are kept.
    """
    unfolded = dict(weights)
    for conv_name, norm_name in conv_norm_pairs(network):
        bias = weights.get(f"{conv_name}.bias")
        norm = network.get_submodule(norm_name)
        assert isinstance(norm, nn.BatchNorm2d)
        if bias is None or f"{norm_name}.weight" in weights:
            continue
        del unfolded[f"{conv_name}.bias"]
        unfolded[f"{norm_name}.weight"] = torch.ones_like(bias)
        unfolded[f"{norm_name}.bias"] = bias
        unfolded[f"{norm_name}.running_mean"] = torch.zeros_like(bias)
        unfolded[f"{norm_name}.running_var"] = torch.full_like(bias, 1 - norm.eps)
    return unfolded


def is_folded(network: nn.Module) -> bool:
    """Whether normalisations only add a bias, as in weights that come from an exported file."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return any(bool(norm.bias.any()) for norm in norms) and all(map(_only_adds, norms))


@torch.no_grad()
def restore_batchnorm(network: nn.Module, images: Tensor | Iterable[Tensor]) -> None:
    """Gives each normalisation the statistics of its inputs, and the weight and bias that keep its function.

    Evaluation mode computes the same as before. Training mode computes nearly the same, the more so the better a batch
    represents `images`.

    Args:
        network: in any mode, which it keeps.
        images: pictures as the network takes them, (B, 3, H, W), or several such batches; about a hundred are enough.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    seen = [_Moments() for _ in norms]
    modes = [(module, module.training) for module in network.modules()]
    hooks = [
        norm.register_forward_pre_hook(partial(_observe, moments)) for norm, moments in zip(norms, seen, strict=True)
    ]
    network.eval()
    try:
        for batch in [images] if isinstance(images, Tensor) else images:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    for norm, moments in zip(norms, seen, strict=True):
        if moments.count:
            _replace_statistics(norm, moments)


class _Moments:
    """Mean and variance of each channel over all values seen, in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        variance, mean = (each.double() for each in torch.var_mean(features.float(), dim=(0, 2, 3), correction=0))
        count = features.numel() // features.shape[1]
        delta, total = mean - self.mean, self.count + count
        self.squares = self.squares + variance * count + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total


def _observe(moments: _Moments, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    moments.add(inputs[0])


def _replace_statistics(norm: nn.BatchNorm2d, moments: _Moments) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    factor = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    offset = norm.bias.double() - mean.double() * factor
    new_mean = torch.as_tensor(moments.mean)
    new_variance = torch.as_tensor(moments.squares) / moments.count
    norm.weight.copy_(factor * (new_variance + norm.eps).sqrt())
    norm.bias.copy_(offset + new_mean * factor)
    mean.copy_(new_mean)
    variance.copy_(new_variance)


def _only_adds(norm: nn.BatchNorm2d) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    is_unscaled = ((variance + norm.eps - 1).abs() < _TOLERANCE).all() & ((norm.weight - 1).abs() < _TOLERANCE).all()
    return bool(is_unscaled & ~mean.any())
