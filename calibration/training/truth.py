"""The labelled objects of a batch, padded to one shape so that nothing loops over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of B pictures, G rows each, in any order.

    Attributes:
        boxes: (B, G, 4) float32, x1, y1, x2, y2 in pixels of the network's input.
        labels: (B, G) int64, class ids; what a region to ignore has counts nowhere.
        is_valid: (B, G) bool, False in rows that only pad.
        is_ignored: (B, G) bool, regions where finding nothing or something costs nothing; never objects themselves.
    """

    boxes: Tensor
    labels: Tensor
    is_valid: Tensor
    is_ignored: Tensor

    @property
    def is_object(self) -> Tensor:
        """(B, G) bool: rows that points are assigned to."""
        return self.is_valid & ~self.is_ignored

    def to(self, device: torch.device | str) -> Truth:
        """Returns the same on another device; from pinned memory to a GPU the copy doesn't block."""
        non_blocking = torch.device(device).type != "cpu"
        tensors = (self.boxes, self.labels, self.is_valid, self.is_ignored)
        return Truth(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def pin_memory(self) -> Truth:
        """Returns a copy from which a copy to a GPU doesn't block."""
        tensors = (self.boxes, self.labels, self.is_valid, self.is_ignored)
        return Truth(*(tensor.pin_memory() for tensor in tensors))

    @classmethod
    def pad(
        cls,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        is_ignored: Sequence[Tensor] | None = None,
        *,
        multiple: int = 8,
    ) -> Truth:
        """Pads the objects of each picture to one number of rows, at least 1 and a multiple of `multiple`.

        Args:
            boxes: for each picture (n, 4), x1, y1, x2, y2 in pixels.
            labels: for each picture (n,).
            is_ignored: for each picture (n,) bool; None is nowhere.
            multiple: few different shapes let a compiled loss be used again.
        """
        most = max((len(each) for each in boxes), default=0)
        rows = max(-(-most // multiple), 1) * multiple
        truth = cls(
            torch.zeros(len(boxes), rows, 4),
            torch.zeros(len(boxes), rows, dtype=torch.int64),
            torch.zeros(len(boxes), rows, dtype=torch.bool),
            torch.zeros(len(boxes), rows, dtype=torch.bool),
        )
        for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            count = len(box)
            truth.boxes[index, :count] = box
            truth.labels[index, :count] = label
            truth.is_valid[index, :count] = True
            if is_ignored is not None:
                truth.is_ignored[index, :count] = is_ignored[index]
        return truth
