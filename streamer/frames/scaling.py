"""Scaling of frames and planes."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from streamer.frames.frame import Frame

Image = npt.NDArray[np.uint8]


def fitted(size_wh: tuple[int, int], limit_wh: tuple[int, int], *, enlarge: bool = False) -> tuple[int, int]:
    """Returns the largest size of the same aspect ratio within `limit_wh`, at least 1x1.

    It is larger than `size_wh` only with `enlarge`.
    """
    width, height = size_wh
    scale = min(limit_wh[0] / width, limit_wh[1] / height)
    if not enlarge:
        scale = min(1.0, scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(frame: Frame, size_wh: tuple[int, int]) -> Image:
    """Returns a frame's picture at another size, (h, w, 3) uint8 BGR, read-only where it is the frame's own."""
    if size_wh == frame.size_wh:
        return frame.image
    pixels = frame.host_pixels
    if isinstance(pixels, np.ndarray):
        way = cv2.INTER_AREA if size_wh < frame.size_wh else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, size_wh, interpolation=way), np.uint8)
    return pixels.bgr_resized(size_wh)


def fill_plane(target: Image, plane: Image) -> None:
    """Fills `target`, (h, w) or (h, w, 3) uint8, with `plane` at that size.

    Reductions to less than half first average blocks of 2x2, 4x4, ..., then interpolate: as smooth as averaging the
    exact area, at a tenth of the cost.
    """
    height, width = target.shape[:2]
    factor = 1
    while plane.shape[1] >= 2 * factor * width and plane.shape[0] >= 2 * factor * height:
        factor *= 2
    if factor > 1:
        size_wh = plane.shape[1] // factor, plane.shape[0] // factor
        plane = np.asarray(cv2.resize(plane, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    if plane.shape[:2] == target.shape[:2]:
        target[...] = plane
    else:
        cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
