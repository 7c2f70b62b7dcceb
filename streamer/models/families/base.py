"""What a family of detectors is: what its descriptions need not say, and where the box of an output's row lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec

Values = npt.NDArray[np.float32]
BoxDecoder = Callable[[Values, Values, "ModelSpec"], Values]
"""From the box channels of M rows and their anchor points (M, 3), which are x, y and stride in input pixels, to boxes
(M, 4), xyxy in input pixels. Without anchor points, (M, 0)."""


class Outputs(NamedTuple):
    """One way in which files of a family say rows.

    Attributes:
        per_stride: whether there are outputs for each stride, or for all rows.
        kind: what boxes are: ``heads``, raw; ``boxes``, decoded; ``distances``, of bins that are integrated already.
    """

    per_stride: bool
    kind: Literal["heads", "boxes", "distances"]


def corners(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Takes boxes that are xyxy in input pixels already."""
    return clipped(values, spec)


def clipped(boxes: Values, spec: ModelSpec) -> Values:
    """Returns boxes (M, 4) within the input: what is beyond would count in an overlap."""
    width, height = spec.input_size_wh
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Family:
    """One family of detectors.

    A row of a model's output, once that has its one form, is `objectness` values, then the classes' scores, all after
    a sigmoid, then the channels of its box.

    Attributes:
        word: its name in a message.
        boxes: decodes the boxes of the raw heads.
        outputs: ways in which its files say rows, the likeliest first.
        decoded: decodes those of a file that ends in boxes, one for each anchor point.
        decoding_op: the operator that only a file with decoded boxes has, where shapes don't tell.
        defaults: fields of `ModelSpec` that a description of this family may leave out.
        objectness: 1 where a row has a score of its own, which that of each class is multiplied with; else 0.
        anchors: whether there is a row for each anchor point, rather than for each of some queries.
        suppresses: whether overlapping boxes are dropped (NMS).
        best_class: whether a row counts for its best class alone.
        bins: whether a side of a box is a distribution over 0 ... reg_max strides.
    """

    word: str
    boxes: BoxDecoder
    outputs: tuple[Outputs, ...]
    decoded: BoxDecoder = corners
    decoding_op: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    objectness: int = 0
    anchors: bool = True
    suppresses: bool = True
    best_class: bool = False
    bins: bool = False
