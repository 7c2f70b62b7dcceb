"""Frames to draw on, and what is drawn."""

from __future__ import annotations

from fractions import Fraction

import cv2  # noqa: F401 - OpenCV before PyAV
import av
import numpy as np
import numpy.typing as npt

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420

LABELS = ["person", "bicycle", "car", "Fußgänger", "行人"]
GREY = 90
Box = tuple[float, float, float, float]
Size = tuple[int, int]


def frame_of(size_wh: tuple[int, int], kind: str, colorspace: int = 1, color_range: int = 1) -> Frame:
    """Returns a grey frame, as BGR or as planes."""
    width, height = size_wh
    if kind == "bgr":
        return Frame(np.full((height, width, 3), GREY, np.uint8), "grey", 3, 0.1, 0.2, "grey.png")
    picture = av.VideoFrame(width, height, "yuv420p")
    picture.time_base = Fraction(1, 30)
    picture.colorspace, picture.color_range = colorspace, color_range
    planes = Yuv420(picture, writable=True)
    planes.y[...], planes.u[...], planes.v[...] = GREY, 128, 128
    return Frame(Yuv420(picture), "grey", 3, 0.1, 0.2, "grey.png")


def found(*rows: tuple[Box, int], score: float = 0.87) -> Detections:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(rows), score), np.array([c for _, c in rows], np.int64))


def changed(before: Frame, after: Frame) -> npt.NDArray[np.bool_]:
    """Returns (H, W) bool: where the picture looks different."""
    difference = before.image.astype(int) - after.image.astype(int)
    return np.asarray(np.abs(difference).max(axis=2) > 8)


def outline(
    size_wh: tuple[int, int], box: tuple[int, int, int, int], line_wh: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Returns (H, W) bool: the four sides of a box, drawn inwards."""
    left, top, right, bottom = box
    mask = np.zeros((size_wh[1], size_wh[0]), bool)
    mask[top:bottom, left:right] = True
    mask[top + line_wh[1] : bottom - line_wh[1], left + line_wh[0] : right - line_wh[0]] = False
    return mask
