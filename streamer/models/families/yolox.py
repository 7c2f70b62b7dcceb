"""YOLOX: a box is an offset from its anchor point and the logarithm of its size, both in strides (arXiv:2107.08430)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.models.families.base import Family, Outputs, Values

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec

_LARGEST_EXPONENT = 20


def boxes(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes (M, 4) of offset x, y and logarithm of width, height."""
    centres = values[:, :2] * points[:, 2:3] + points[:, :2]
    sizes = np.exp(np.minimum(values[:, 2:], _LARGEST_EXPONENT)) * points[:, 2:3]
    return centred(np.concatenate([centres, sizes], axis=1), points, spec)


def centred(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Takes (M, 4) of centre and size in input pixels: the file was exported with ``--decode_in_inference``."""
    half = values[:, 2:] / 2
    return np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)


YOLOX = Family(
    "YOLOX",
    boxes,
    (Outputs(False, "heads"), Outputs(False, "boxes"), Outputs(True, "heads")),
    decoded=centred,
    decoding_op="Exp",
    objectness=1,
    best_class=True,
    defaults={
        "input_size_wh": [416, 416],
        "keep_ratio": True,
        "padding": "top-left",
        "pad_value": 114,
        "mean_bgr": [0.0, 0.0, 0.0],
        "std_bgr": [1.0, 1.0, 1.0],
        "strides": [8, 16, 32],
        "reg_max": 0,
        "anchor_offset": 0.0,
        "activation": "SiLU",
    },
)
