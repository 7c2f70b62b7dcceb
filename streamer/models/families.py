"""Families of detectors: the decoding of their boxes, the forms of their files, and the defaults of descriptions.

A row of the one output form is `Family.objectness` values, then the class scores, all after a sigmoid, then the box.
"""

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
"""Decodes the box channels of M rows with their anchor points (M, 3), which are x, y and stride in input pixels, to
boxes (M, 4), xyxy in input pixels. Without anchor points these are (M, 0)."""
_LARGEST_EXPONENT = 20


class Outputs(NamedTuple):
    """One form of a family's files.

    Attributes:
        per_stride: whether there are outputs for each stride, or for all rows.
        kind: ``heads``: raw boxes; ``boxes``: decoded; ``distances``: bins already integrated.
    """

    per_stride: bool
    kind: Literal["heads", "boxes", "distances"]


def clip_to_input(boxes: Values, spec: ModelSpec) -> Values:
    """Clips boxes (M, 4) to the input: area outside would count in an overlap."""
    width, height = spec.input_size_wh
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32, copy=False)


def _corners(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Takes boxes that are xyxy in input pixels already."""
    return clip_to_input(values, spec)


def _from_centres(centres: Values, sizes: Values) -> Values:
    half = sizes / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def _from_distances(distances: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes left, top, right and bottom from anchor points, in input pixels, clipped as upstream does."""
    centres = points[:, :2]
    return clip_to_input(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1), spec)


def _from_bins(logits: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes (M, 4 (reg_max + 1)) logits: softmax, expectation, times the stride.

    Generalized Focal Loss (arXiv:2006.04388, section 3.2); upstream's `distance2bbox`.
    """
    logits = logits.reshape(-1, 4, spec.reg_max + 1)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    bins = np.arange(spec.reg_max + 1, dtype=np.float32)
    return _from_distances((weights @ bins) / weights.sum(axis=2) * points[:, 2:3], points, spec)


def _from_yolox(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes offset x, y from the anchor point and logarithm of width, height, in strides (arXiv:2107.08430)."""
    centres = values[:, :2] * points[:, 2:3] + points[:, :2]
    return _from_centres(centres, np.exp(np.minimum(values[:, 2:], _LARGEST_EXPONENT)) * points[:, 2:3])


def _centred(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Takes centre and size in input pixels, as of ``--decode_in_inference``."""
    return _from_centres(values[:, :2], values[:, 2:])


def _from_parts_of_input(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes centre x, y, width, height, each 0 to 1."""
    return _from_centres(values[:, :2], values[:, 2:]) * np.array(2 * spec.input_size_wh, np.float32)


@dataclass(frozen=True)
class Family:
    """One family of detectors.

    Attributes:
        word: its name in messages.
        boxes: decodes the boxes of the raw heads.
        outputs: forms of its files, the likeliest first.
        decoded: decodes the boxes of a file that ends in boxes, one for each anchor point.
        decoding_op: the operator that only a file with decoded boxes has, where shapes don't tell.
        defaults: fields of `ModelSpec` that a description may omit.
        objectness: 1 where a row has a score of its own that multiplies each class score; else 0.
        anchors: whether rows are of anchor points, rather than of queries.
        suppresses: whether NMS is needed.
        best_class: whether a row counts for its best class only.
        bins: whether a box side is a distribution over 0 ... reg_max strides.
    """

    word: str
    boxes: BoxDecoder
    outputs: tuple[Outputs, ...]
    decoded: BoxDecoder = _corners
    decoding_op: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    objectness: int = 0
    anchors: bool = True
    suppresses: bool = True
    best_class: bool = False
    bins: bool = False


def _defaults(side: int, activation: str, **more: Any) -> dict[str, Any]:
    """Returns defaults of a description: square stretched RGB input, ImageNet's mean, strides 8 to 32, no bins."""
    return {
        "input_size_wh": [side, side],
        "keep_ratio": False,
        "mean_bgr": [103.53, 116.28, 123.675],
        "std_bgr": [57.375, 57.12, 58.395],
        "channel_order": "RGB",
        "strides": [8, 16, 32],
        "reg_max": 0,
        "anchor_offset": 0.0,
        "activation": activation,
        **more,
    }


def _detr(word: str, side: int) -> Family:
    """A DETR: each query has a box; training makes NMS needless (arXiv:2005.12872, section 3.1)."""
    defaults = _defaults(side, "ReLU", mean_bgr=[0.0, 0.0, 0.0], std_bgr=[255.0, 255.0, 255.0], strides=[])
    outputs = (Outputs(False, "heads"),)
    return Family(word, _from_parts_of_input, outputs, defaults=defaults, anchors=False, suppresses=False)


_HEADS = (Outputs(False, "heads"), Outputs(True, "heads"))
_PADDED = {"keep_ratio": True, "padding": "top-left", "pad_value": 114, "channel_order": "BGR"}
_NANODET = Family("NanoDet", _from_bins, (*_HEADS, Outputs(False, "distances"), Outputs(True, "distances")), bins=True)

FAMILIES: dict[str, Family] = {
    "nanodet": _NANODET,
    "nanodet-plus": _NANODET,
    "picodet": Family(
        "PicoDet",
        _from_bins,
        (*_HEADS, Outputs(False, "boxes")),
        bins=True,
        defaults=_defaults(320, "HardSwish", strides=[8, 16, 32, 64], reg_max=7, anchor_offset=0.5),
    ),
    "yolox": Family(
        "YOLOX",
        _from_yolox,
        (Outputs(False, "heads"), Outputs(False, "boxes"), Outputs(True, "heads")),
        decoded=_centred,
        decoding_op="Exp",
        objectness=1,
        best_class=True,
        defaults=_defaults(416, "SiLU", **_PADDED, mean_bgr=[0.0, 0.0, 0.0], std_bgr=[1.0, 1.0, 1.0]),
    ),
    "rtmdet": Family(  # arXiv:2212.07784
        "RTMDet",
        _from_distances,
        (Outputs(True, "heads"), Outputs(False, "boxes")),
        defaults=_defaults(640, "SiLU", **_PADDED),
    ),
    "d-fine": _detr("D-FINE", 640),
    "deimv2": _detr("DEIMv2", 320),
}
"""By the name in a description."""


def scores_of(rows: Values, spec: ModelSpec) -> Values:
    """Returns each row's score of each class, (N, classes), from a network's output (N, channels)."""
    if spec.output == "detections":
        scores = np.zeros((len(rows), spec.num_classes), np.float32)
        class_ids = rows[:, 5].astype(np.int64)
        known = np.flatnonzero((class_ids >= 0) & (class_ids < spec.num_classes))
        scores[known, class_ids[known]] = rows[known, 4]
        return scores
    objectness = FAMILIES[spec.family].objectness
    scores = rows[:, objectness : spec.score_channels]
    return scores * rows[:, :1] if objectness else scores


def boxes_of(rows: Values, points: Values, spec: ModelSpec) -> Values:
    """Returns boxes (M, 4), xyxy in input pixels, of rows (M, channels) and their anchor points."""
    if spec.output == "detections":
        return rows[:, :4]
    family = FAMILIES[spec.family]
    decode = family.decoded if spec.output == "boxes" else family.boxes
    return decode(rows[:, spec.score_channels :], points, spec)
