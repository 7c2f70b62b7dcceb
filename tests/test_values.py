"""Frames and detections: what may be one, and that nobody changes them."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_frame_refuses_other_pictures(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="BGR image"):
        Frame(pixels, "test", 0, 0.0, 0.0)


def test_frame_is_frozen() -> None:
    frame = Frame(np.zeros((4, 6, 3), np.uint8), "test", 0, 0.0, 0.0)
    assert frame.size_wh == (6, 4)
    with pytest.raises(AttributeError):
        frame.index = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0, 0] = 1


def test_detections_empty() -> None:
    assert len(Detections.empty()) == 0
    assert Detections.empty().boxes_xyxy.shape == (0, 4)


def test_detections_are_frozen_but_leave_the_callers_arrays_alone() -> None:
    boxes = np.zeros((1, 4), np.float32)
    found = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="read-only"):
        found.boxes_xyxy[0, 0] = 1
    boxes[0, 0] = 1


@pytest.mark.parametrize(
    ("boxes", "scores", "classes"), [((1, 4), (2,), (2,)), ((2, 5), (2,), (2,)), ((2, 4), (2,), (1,))]
)
def test_detections_must_agree(boxes: tuple[int, ...], scores: tuple[int, ...], classes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="wanted boxes"):
        Detections(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), np.zeros(classes, np.int64))
