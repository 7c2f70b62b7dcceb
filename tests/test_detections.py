"""The objects of one frame."""

from __future__ import annotations

import numpy as np

from streamer.frames.detections import Detections


def test_those_that_are_kept_stay_in_order() -> None:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = Detections(boxes, np.array([0.9, 0.5, 0.3], np.float32), np.array([2, 0, 1]), is_reused=True)
    kept = found.where(found.scores > 0.4)
    np.testing.assert_array_equal(kept.boxes_xyxy, boxes[:2])
    np.testing.assert_array_equal(kept.scores, found.scores[:2])
    np.testing.assert_array_equal(kept.class_ids, [2, 0])
    assert kept.is_reused and len(found) == 3
    assert len(found.where(np.zeros(3, bool))) == 0
