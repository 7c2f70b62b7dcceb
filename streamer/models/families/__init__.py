"""The families of detectors that a model can be of: a module each, with its decoding and its descriptions' defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.models.families.base import Family, Values
from streamer.models.families.detr import D_FINE, DEIM_V2
from streamer.models.families.gfl import NANODET, PICODET
from streamer.models.families.rtmdet import RTMDET
from streamer.models.families.yolox import YOLOX

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec

FAMILIES: dict[str, Family] = {
    "nanodet": NANODET,
    "nanodet-plus": NANODET,
    "picodet": PICODET,
    "yolox": YOLOX,
    "rtmdet": RTMDET,
    "d-fine": D_FINE,
    "deimv2": DEIM_V2,
}
"""By the name that a description says."""


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
