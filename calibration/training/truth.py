"""The labelled objects of a batch as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Truth:
    """Objects of B pictures, padded to G rows a picture so that nothing loops over pictures.

    Attributes:
        boxes: (B, G, 4) float32 x1, y1, x2, y2 in pixels of the network's input; 0 in rows that aren't valid.
        labels: (B, G) int64 class ids; 0 in rows that aren't valid.
        is_valid: (B, G) bool, rows that hold an object or an ignored region.
        is_ignored: (B, G) bool, valid rows whose area must give no background loss.
    """

    boxes: Tensor
    labels: Tensor
    is_valid: Tensor
    is_ignored: Tensor

    def to(self, device: torch.device | str) -> Truth:
        """Returns the same on a device; from pinned memory the copy doesn't block."""
        return Truth(
            *(each.to(device, non_blocking=True) for each in (self.boxes, self.labels, self.is_valid, self.is_ignored))
        )
