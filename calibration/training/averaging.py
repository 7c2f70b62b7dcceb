"""The exponential moving average of a network's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from calibration.training.recipe import Averaging


class AveragedWeights:
    """The average over parameters and buffers, as upstream's, updated after each step; in float32.

    The weight of new values is ``decay * exp(-(1 + step) / warmup) + (1 - decay)``: near 1 at first, 1 - decay later.

    Attributes:
        values: by the network's own names.
    """

    def __init__(self, network: nn.Module, settings: Averaging) -> None:
        self._settings = settings
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Takes in the weights after a step, counted from 0."""
        decay, warmup = self._settings.decay, self._settings.warmup
        share = decay * math.exp(-(1 + step) / warmup) + (1 - decay)
        averages, news = [], []
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                averages.append(self.values[name])
                news.append(value.detach())
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averages, news, share)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Takes over an average that was stored."""
        for name, value in self.values.items():
            value.copy_(values[name])
