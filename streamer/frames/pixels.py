"""From a decoded picture to a frame's pixels: one of two forms, the right way up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import cv2
import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData, Type

from streamer.frames.frame import HostPixels
from streamer.frames.yuv import Yuv420, take_tags

# (transpose, then flip as cv2.flip counts it: 1 left-right, 0 upside down, -1 both, None not at all)
Orientation = tuple[bool, int | None]
UPRIGHT: Orientation = (False, None)
_QUARTERS: tuple[Orientation, ...] = (UPRIGHT, (True, 0), (False, -1), (True, 1))  # anticlockwise
_FLIPS = {(False, False): None, (True, False): 1, (False, True): 0, (True, True): -1}


def pixels_of(picture: av.VideoFrame, turn: Orientation) -> HostPixels:
    """Returns a decoded picture's pixels, turned for display as `orientation_of` said of the video's first picture.

    8-bit 4:2:0 pictures pass through as they are; other YUV ones become 4:2:0 and keep their colour tags (higher bit
    depths are cut to 8 bits, HDR is not tone-mapped); all others become (H, W, 3) uint8 BGR, without transparency.
    The sample aspect ratio is left to `Frame.pixel_aspect`.
    """
    if not _is_yuv(picture.format):
        image = np.asarray(picture.reformat(format="bgr24", threads=1).to_ndarray(), np.uint8)
        return image if turn == UPRIGHT else _turned(image, turn)
    if picture.format.name not in ("yuv420p", "yuvj420p"):
        picture = picture.reformat(format="yuv420p", threads=1)
    planes = Yuv420(picture)
    return planes if turn == UPRIGHT else _turned_planes(planes, turn)


def _is_yuv(format: av.VideoFormat) -> bool:
    few = len(format.components) < 3  # grey, or grey and transparency
    return not (format.is_rgb or format.has_palette or format.is_bayer or few or format.name.startswith("xyz"))


def orientation_of(picture: av.VideoFrame) -> Orientation:
    """Returns how to turn a stored picture for display, to the nearest quarter.

    Ask it of a video's first picture only: PyAV ties a picture whose side data was looked at into a cycle of
    references, so that its memory is freed by the garbage collector alone.

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


def _turned(image: npt.NDArray[np.uint8], turn: Orientation) -> npt.NDArray[np.uint8]:
    transpose, flip = turn
    if transpose:
        image = np.asarray(cv2.transpose(image), np.uint8)
    return image if flip is None else np.asarray(cv2.flip(image, flip), np.uint8)


def _turned_planes(planes: Yuv420, turn: Orientation) -> Yuv420:
    width, height = planes.size_wh
    size_wh = (height, width) if turn[0] else (width, height)
    target = av.VideoFrame(*size_wh, planes.av_frame.format.name)
    take_tags(target, planes.av_frame)
    turned = Yuv420(target, writable=True)
    for source, plane in ((planes.y, turned.y), (planes.u, turned.u), (planes.v, turned.v)):
        np.copyto(plane, _turned(source, turn))
    return Yuv420(target)
