"""D-FINE and DEIMv2, of the DETR kind: a box for each of some queries, as centre and size in parts of the input.

There is nothing to suppress: training gives each object one query (arXiv:2005.12872, section 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.models.families.base import Family, Outputs, Values

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec


def boxes(values: Values, points: Values, spec: ModelSpec) -> Values:
    """Decodes (M, 4) of centre x, y, width, height, each 0 to 1."""
    half = values[:, 2:] / 2
    found = np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)
    return found * np.array(2 * spec.input_size_wh, np.float32)


def _family(word: str, side: int) -> Family:
    defaults: dict[str, Any] = {
        "input_size_wh": [side, side],
        "keep_ratio": False,
        "mean_bgr": [0.0, 0.0, 0.0],
        "std_bgr": [255.0, 255.0, 255.0],
        "channel_order": "RGB",
        "strides": [],
        "reg_max": 0,
        "anchor_offset": 0.0,
        "activation": "ReLU",
    }
    return Family(word, boxes, (Outputs(False, "heads"),), defaults=defaults, anchors=False, suppresses=False)


D_FINE = _family("D-FINE", 640)
DEIM_V2 = _family("DEIMv2", 320)
