"""NanoDet, NanoDet-Plus and PicoDet: a side of a box is the expectation of a distribution.

Generalized Focal Loss (arXiv:2006.04388, section 3.2): softmax over reg_max + 1 bins, expectation, times the stride.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.models.families.base import Family, Outputs, Values, clipped

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec


def boxes(logits: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes (M, 4 (reg_max + 1)) logits; the boxes are clipped to the input, as upstream's `distance2bbox` does."""
    logits = logits.reshape(-1, 4, spec.reg_max + 1)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    bins = np.arange(spec.reg_max + 1, dtype=np.float32)
    distances = (weights @ bins) / weights.sum(axis=2) * points[:, 2:3]
    centres = points[:, :2]
    found = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    return clipped(found, spec)


_HEADS = (Outputs(False, "heads"), Outputs(True, "heads"))
NANODET = Family("NanoDet", boxes, (*_HEADS, Outputs(False, "distances"), Outputs(True, "distances")), bins=True)
PICODET = Family(
    "PicoDet",
    boxes,
    (*_HEADS, Outputs(False, "boxes")),
    bins=True,
    defaults={
        "input_size_wh": [320, 320],
        "keep_ratio": False,
        "mean_bgr": [103.53, 116.28, 123.675],
        "std_bgr": [57.375, 57.12, 58.395],
        "channel_order": "RGB",
        "strides": [8, 16, 32, 64],
        "reg_max": 7,
        "anchor_offset": 0.5,
        "activation": "HardSwish",
    },
)
