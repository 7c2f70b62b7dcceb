"""What an assigner decides: which anchor point learns which object, and which learn nothing."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from calibration.training.boxes import contains
from calibration.training.truth import Truth


class Assignment(NamedTuple):
    """Of B pictures with N anchor points each.

    Attributes:
        row: (B, N) int64, the object's row in the truth; 0 where there is none.
        is_positive: (B, N) bool, whether a point has an object.
        quality: (B, N) float32, the overlap that the object's class score learns, or None where it is that of the
            predicted box.
    """

    row: Tensor
    is_positive: Tensor
    quality: Tensor | None


def counts_in_loss(assignment: Assignment, points: Tensor, truth: Truth) -> Tensor:
    """Returns (B, N) bool: False at points without an object whose centre lies in an ignored region."""
    in_ignored = (contains(truth.boxes[:, :, None], points) & truth.is_ignored[:, :, None]).any(1)
    return assignment.is_positive | ~in_ignored
