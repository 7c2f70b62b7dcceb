"""Which detections are right, matched with the labels of one picture as pycocotools does at IoU 0.5."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.agreement import SAME_PLACE
from calibration.labels import Sample
from calibration.matching import match_class
from streamer.frames.detections import Detections

RIGHT, WRONG, IGNORED = 1, 0, -1


def outcomes(sample: Sample, size_wh: tuple[int, int], detections: Detections) -> npt.NDArray[np.int8]:
    """Returns for each detection `RIGHT`, `WRONG` or `IGNORED`, (N,).

    A detection is right that overlaps an object of its class that no better one has taken; of the others those are
    ignored that lie half or more in a region to ignore of their class, and those of a class beyond the best 100.

    Args:
        sample: the picture's labels.
        size_wh: its width and height in pixels.
        detections: in its pixels, best score first.
    """
    result = np.full(len(detections), IGNORED, np.int8)
    for class_id in np.unique(detections.class_ids).tolist():
        mine, hits, ignored = match_class(sample, size_wh, detections, class_id, np.array([SAME_PLACE]))
        result[mine] = np.where(hits[:, 0], RIGHT, np.where(ignored[:, 0], IGNORED, WRONG))
    return result
