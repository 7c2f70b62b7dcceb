"""Finds the batch that fits in a GPU's memory, where a larger one doesn't."""

from __future__ import annotations

import gc

import torch

from calibration.training.losses import detection_loss
from calibration.training.network import TrainingNetwork
from calibration.training.truth import Truth
from streamer.models.spec import ModelSpec

_OBJECTS = 32
"""Objects in each picture."""


def largest_fitting_batch(spec: ModelSpec, batch: int, device: torch.device, precision: str) -> int | None:
    """Returns the largest of a half, a quarter ... of a batch that a step of training has memory for.

    Args:
        spec: of the network.
        batch: pictures that don't fit.
        device: whose memory it is.
        precision: ``bf16`` or ``f32``.

    Returns:
        The pictures, or None where a single one doesn't fit.
    """
    while batch > 1:
        batch //= 2
        if _fits(spec, batch, device, precision):
            return batch
    return None


def _fits(spec: ModelSpec, batch: int, device: torch.device, precision: str) -> bool:
    """Computes loss and gradients of random pictures once."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    width, height = spec.input_size_wh
    try:
        network = TrainingNetwork(spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(batch, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
        box = torch.tensor([[0.0, 0.0, width / 2, height / 2]]).repeat(_OBJECTS, 1)
        labels = torch.zeros(_OBJECTS, dtype=torch.int64)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            predictions = network(images)
        truth = Truth.pad([box] * batch, [labels] * batch).to(device)
        torch.autograd.backward(detection_loss(predictions, truth, spec).total)
    except torch.OutOfMemoryError:
        return False
    return True
