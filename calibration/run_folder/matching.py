"""Which detections are right, matched with the labels of one picture as pycocotools does at IoU 0.5."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.agreement import SAME_PLACE
from calibration.labels import Sample
from calibration.matching import hits_of, share_inside
from streamer.frames.detections import Detections

RIGHT, WRONG, IGNORED = 1, 0, -1
MOST_OF_A_CLASS = 100
"""Detections of one class in one picture that count, as in COCO's metrics."""


def outcomes(sample: Sample, size_wh: tuple[int, int], detections: Detections) -> npt.NDArray[np.int8]:
    """Returns for each detection `RIGHT`, `WRONG` or `IGNORED`, (N,).

    A detection is right that overlaps an object of its class that no better one has taken; of the others those are
    ignored that lie half or more in a crowd of their class, and those of a class beyond the best 100.

    Args:
        sample: the picture's labels.
        size_wh: its width and height in pixels.
        detections: in its pixels, best score first.
    """
    result = np.full(len(detections), WRONG, np.int8)
    truth = sample.boxes_xyxy(size_wh)
    crowds = np.zeros(len(truth), bool) if sample.is_crowd is None else sample.is_crowd
    for class_id in np.unique(detections.class_ids):
        mine = np.flatnonzero(detections.class_ids == class_id)
        mine = mine[np.argsort(-detections.scores[mine], kind="stable")]
        result[mine[MOST_OF_A_CLASS:]] = IGNORED
        mine = mine[:MOST_OF_A_CLASS]
        boxes = detections.boxes_xyxy[mine]
        is_right = hits_of(boxes, truth[sample.objects_of(int(class_id))], np.array([SAME_PLACE]))[:, 0]
        result[mine[is_right]] = RIGHT
        in_crowd = share_inside(boxes, truth[crowds & (sample.class_ids == class_id)]) >= SAME_PLACE
        result[mine[~is_right & in_crowd]] = IGNORED
    return result
