"""Raw outputs of each family, made up; what its own reference code makes of them is in ``data/families.json``."""

from __future__ import annotations

from typing import Literal

import numpy as np

Output = Literal["auto", "heads", "boxes", "detections"]
CLASSES = 3
CASES: dict[str, tuple[str, Output, tuple[int, int], tuple[int, int], float, float]] = {
    "picodet": ("picodet", "heads", (96, 64), (200, 160), 0.5, 0.5),
    "yolox": ("yolox", "heads", (96, 64), (192, 128), 0.4, 0.45),
    "yolox-decoded": ("yolox", "boxes", (96, 64), (192, 128), 0.4, 0.45),
    "rtmdet": ("rtmdet", "heads", (96, 64), (192, 128), 0.5, 0.65),
    "d-fine": ("d-fine", "heads", (96, 64), (300, 100), 0.5, 0.6),
}
"""Family, form, input and frame (width, height), threshold and overlap of each case."""


def raw_output(case: str) -> np.ndarray:
    """Returns a case's output in the program's one form, (N, channels) float32: scores after sigmoid, then boxes."""
    family, output, (width, height), *_ = CASES[case]
    random = np.random.default_rng(7)
    strides = {"picodet": (8, 16, 32, 64), "d-fine": ()}.get(family, (8, 16, 32))
    rows = sum(-(-width // stride) * -(-height // stride) for stride in strides) or 30
    scores = random.random((rows, CLASSES + (family == "yolox")))
    if family == "yolox":
        scores = scores**0.5
    if family == "picodet":
        boxes = random.normal(0, 2, (rows, 32))
    elif family == "d-fine":
        boxes = random.random((rows, 4)) * [1, 1, 0.5, 0.5]
    elif family == "rtmdet":
        boxes = random.random((rows, 4)) * 40
    elif output == "boxes":
        boxes = random.random((rows, 4)) * [width, height, 40, 40]
    else:
        boxes = random.normal(0, 0.7, (rows, 4))
    return np.concatenate([scores**4 if family != "yolox" else scores, boxes], axis=1).astype(np.float32)
