"""Anchor points on the training device."""

from __future__ import annotations

import torch
from torch import Tensor

from streamer.models.spec import ModelSpec


def level_sizes_hw(spec: ModelSpec, size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns each output level's (rows, columns) for an input of (height, width) pixels."""
    height, width = size_hw
    return [(-(-height // stride), -(-width // stride)) for stride in spec.strides]


def level_counts(spec: ModelSpec, size_hw: tuple[int, int]) -> tuple[int, ...]:
    """Returns the number of anchor points of each output level for an input of (height, width) pixels."""
    return tuple(rows * columns for rows, columns in level_sizes_hw(spec, size_hw))


def anchor_points(spec: ModelSpec, size_hw: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Returns what `ModelSpec.anchor_points` does, for an input of (height, width) pixels.

    Returns:
        (N, 3) float32 x, y, stride.
    """
    levels = []
    for stride, (rows, columns) in zip(spec.strides, level_sizes_hw(spec, size_hw), strict=True):
        y = (torch.arange(rows, dtype=torch.float32, device=device) + spec.anchor_offset) * stride
        x = (torch.arange(columns, dtype=torch.float32, device=device) + spec.anchor_offset) * stride
        grid = torch.stack((x.repeat(rows), y.repeat_interleave(columns)), dim=1)
        levels.append(torch.nn.functional.pad(grid, (0, 1), value=float(stride)))
    return torch.cat(levels)
