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
        """Takes a network on the device that it stays on: its tensors are looked up here, once."""
        self._settings = settings
        own = {name: value.detach() for name, value in network.state_dict().items()}
        self.values = {name: value.clone() for name, value in own.items()}
        self._averaged, self._copied = (
            ([self.values[name] for name in names], [own[name] for name in names])
            for names in (
                [name for name, value in own.items() if value.is_floating_point()],
                [name for name, value in own.items() if not value.is_floating_point()],
            )
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the network's weights after a step, counted from 0."""
        decay, warmup = self._settings.decay, self._settings.warmup
        share = decay * math.exp(-(1 + step) / warmup) + (1 - decay)
        torch._foreach_lerp_(*self._averaged, share)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Takes over an average that was stored."""
        for name, value in self.values.items():
            value.copy_(values[name])
