"""The optimiser of a recipe."""

from __future__ import annotations

import torch
from torch import nn

from calibration.training.recipe import Recipe

_MOMENTUM = 0.9


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns SGD or AdamW over the parameters that are trained.

    Unless the recipe decays all, weight decay leaves vectors alone: the weights of normalisations and all biases.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if recipe.decays_all or parameter.ndim > 1]
    kept = [parameter for parameter in trained if not recipe.decays_all and parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    is_on_gpu = all(parameter.is_cuda for parameter in trained)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.scaled_lr, momentum=_MOMENTUM, fused=is_on_gpu)
    return torch.optim.AdamW(groups, lr=recipe.scaled_lr, fused=is_on_gpu)
