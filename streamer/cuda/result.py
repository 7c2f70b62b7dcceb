"""What the decoding kernels write for each picture, and detections from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamer.frames.detections import Detections
from streamer.models.postprocess import MAX_DETECTIONS

ROOM = 4096
"""(point, class) pairs above the threshold that the kernels have room for in one picture."""

RESULT_DTYPE = np.dtype(
    [
        ("found", np.int32),
        ("kept", np.int32),
        ("reserved", np.int32, 2),
        ("boxes", np.float32, (MAX_DETECTIONS, 4)),
        ("scores", np.float32, MAX_DETECTIONS),
        ("class_ids", np.int32, MAX_DETECTIONS),
    ]
)
"""`struct Result` of kernels/decode.cu."""


def to_detections(results: npt.NDArray[np.void], index: int) -> Detections | None:
    """Copies picture `index`'s detections out of the results; None where there was no room for all candidates."""
    result = results[index]
    if result["found"] > ROOM:
        return None
    kept = int(result["kept"])
    return Detections(
        result["boxes"][:kept].copy(), result["scores"][:kept].copy(), result["class_ids"][:kept].astype(np.int64)
    )
