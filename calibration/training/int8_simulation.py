"""The accuracy that a network would have in INT8, without exporting it: rounding is simulated in PyTorch.

Placed as in the exported file: one int8 pair before each convolution, a range for the whole tensor, and weights in int8
with a range for each output channel. The exported file is better by what `quantize` chooses for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from streamer.models.nanodet import NanoDet, fuse_batchnorm

_LEVELS = 255
_WEIGHT_LIMIT = 127


def simulate_int8(network: NanoDet, images: Iterable[Tensor]) -> None:
    """Folds batch normalisation and rounds all convolutions' inputs and weights from now on, in place.

    Args:
        network: in evaluation mode; not to be trained any more.
        images: batches (B, 3, H, W) float32 to take the ranges from.
    """
    fuse_batchnorm(network)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    ranges = {layer: _Range() for layer in convolutions}
    hooks = [layer.register_forward_pre_hook(ranges[layer].observe) for layer in convolutions]
    with torch.inference_mode():
        for batch in images:
            network(batch)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for layer in convolutions:
            layer.weight.copy_(_rounded_weights(layer.weight))
            if ranges[layer].seen:
                layer.register_forward_pre_hook(ranges[layer].quantise)


class _Range:
    """The range of one convolution's input."""

    def __init__(self) -> None:
        self.seen = False
        self._low = self._high = 0.0

    def observe(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Widens the range."""
        low, high = torch.aminmax(inputs[0])
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))
        self.seen = True

    def quantise(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rounds an input to one of 256 levels; 0 is one of them."""
        scale = max((self._high - self._low) / _LEVELS, 1e-12)
        zero = max(0, min(_LEVELS, round(-self._low / scale)))
        return (torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, _LEVELS),)


def _rounded_weights(weight: Tensor) -> Tensor:
    """Rounds (O, I, h, w) to 255 levels for each output channel."""
    scales = (weight.abs().amax((1, 2, 3)) / _WEIGHT_LIMIT).clamp(min=1e-12)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -_WEIGHT_LIMIT, _WEIGHT_LIMIT)
