"""RTMDet: a box is the distances of its sides from its anchor point, in input pixels (arXiv:2212.07784)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.models.families.base import Family, Outputs, Values, clipped

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec


def boxes(distances: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes (M, 4) of left, top, right, bottom; the boxes are clipped to the input, as upstream does."""
    centres = points[:, :2]
    return clipped(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1), spec)


RTMDET = Family(
    "RTMDet",
    boxes,
    (Outputs(True, "heads"), Outputs(False, "boxes")),
    defaults={
        "input_size_wh": [640, 640],
        "keep_ratio": True,
        "padding": "top-left",
        "pad_value": 114,
        "mean_bgr": [103.53, 116.28, 123.675],
        "std_bgr": [57.375, 57.12, 58.395],
        "strides": [8, 16, 32],
        "reg_max": 0,
        "anchor_offset": 0.0,
        "activation": "SiLU",
    },
)
