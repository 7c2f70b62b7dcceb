"""Converts decoded pictures to a frame's pixels, upright, as BGR or planes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import cv2
import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData, Type

from streamer.frames.frame import HostPixels
from streamer.frames.yuv import Yuv420, copy_tags

# (transpose, then flip as cv2.flip counts it: 1 left-right, 0 upside down, -1 both, None not at all)
Orientation = tuple[bool, int | None]
UPRIGHT: Orientation = (False, None)
_QUARTERS: tuple[Orientation, ...] = (UPRIGHT, (True, 0), (False, -1), (True, 1))  # anticlockwise
_FLIPS = {(False, False): None, (True, False): 1, (False, True): 0, (True, True): -1}


def pixels_of(picture: av.VideoFrame, orientation: Orientation) -> HostPixels:
    """Returns a decoded picture's pixels, rotated or flipped for display.

    8-bit 4:2:0 pictures aren't copied; other YUV becomes 8-bit 4:2:0 with its colour tags (HDR is not tone-mapped); all
    others become (H, W, 3) uint8 BGR without alpha. `Frame.pixel_aspect` handles the sample aspect ratio.

    Args:
        picture: the picture.
        orientation: `orientation_of` the video's first picture.
    """
    if not _is_yuv(picture.format):
        image = np.asarray(picture.reformat(format="bgr24", threads=1).to_ndarray(), np.uint8)
        return image if orientation == UPRIGHT else _oriented(image, orientation)
    if picture.format.name not in ("yuv420p", "yuvj420p"):
        picture = picture.reformat(format="yuv420p", threads=1)
    planes = Yuv420(picture)
    return planes if orientation == UPRIGHT else _oriented_planes(planes, orientation)


def _is_yuv(format: av.VideoFormat) -> bool:
    few = len(format.components) < 3  # grey, or grey and alpha
    return not (format.is_rgb or format.has_palette or format.is_bayer or few or format.name.startswith("xyz"))


def orientation_of(picture: av.VideoFrame) -> Orientation:
    """Returns how to turn a stored picture for display, to the nearest quarter turn.

    Call it for a video's first picture only: reading side data creates a reference cycle in PyAV, so only the garbage
    collector frees the picture.

    The display matrix is [a b u; c d v; x y w] in 16.16 fixed point (ISO/IEC 14496-12, 6.2.2): a stored point (p, q)
    is shown at (a p + c q + x, b p + d q + y).
    """
    try:
        side_data = cast("Mapping[Type, SideData]", picture.side_data)  # PyAV's own annotation is wrong
        if Type.DISPLAYMATRIX not in side_data:
            return UPRIGHT
    except ValueError:  # PyAV 18 doesn't know the type of EXIF data, which FFmpeg attaches since 8
        return _QUARTERS[round(picture.rotation / 90) % 4]
    a, b, _, c, d = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, _FLIPS[c < 0, b < 0]
    return False, _FLIPS[a < 0, d < 0]


def matrix_of(orientation: Orientation) -> list[int]:
    """Returns the nine numbers of a display matrix that turns stored pictures as `orientation` says."""
    transpose, flip = orientation
    across, down = -1 if flip in (1, -1) else 1, -1 if flip in (0, -1) else 1
    a, b, c, d = (0, down, across, 0) if transpose else (across, 0, 0, down)
    return [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]


def _oriented(image: npt.NDArray[np.uint8], orientation: Orientation) -> npt.NDArray[np.uint8]:
    transpose, flip = orientation
    if transpose:
        image = np.asarray(cv2.transpose(image), np.uint8)
    return image if flip is None else np.asarray(cv2.flip(image, flip), np.uint8)


def _oriented_planes(planes: Yuv420, orientation: Orientation) -> Yuv420:
    width, height = planes.size_wh
    size_wh = (height, width) if orientation[0] else (width, height)
    target = av.VideoFrame(*size_wh, planes.av_frame.format.name)
    copy_tags(target, planes.av_frame)
    oriented = Yuv420(target, writable=True)
    for source, plane in ((planes.y, oriented.y), (planes.u, oriented.u), (planes.v, oriented.v)):
        np.copyto(plane, _oriented(source, orientation))
    return Yuv420(target)
