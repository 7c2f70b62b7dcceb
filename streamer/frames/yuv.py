"""Planar YUV 4:2:0 pictures, as video decoders output and encoders take them.

Between decoder and encoder no conversion to BGR is needed: the detector's input is made from the planes, and boxes are
drawn on them.
"""

from __future__ import annotations

import threading
from typing import Any

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv

_Plane = npt.NDArray[np.uint8]
_FORMATS = ("yuv420p", "yuvj420p")

# ITU-T H.273 matrix coefficients as FFmpeg's AVColorSpace; 2 (unspecified) is BT.601, as FFmpeg's scaler takes it.
COLORSPACES = {Matrix.BT601: 6, Matrix.BT709: 1, Matrix.BT2020: 9}
_MATRIX_OF_COLORSPACE = {1: Matrix.BT709, 9: Matrix.BT2020, 10: Matrix.BT2020}
LIMITED, FULL = 1, 2
"""FFmpeg's AVColorRange: luma of 16 to 235, or 0 to 255."""


class Yuv420:
    """One picture as three planes, read-only unless from :meth:`copy`.

    Attributes:
        av_frame: the PyAV frame that owns the memory (pixel format yuv420p or yuvj420p).
        y: (H, W) uint8 luma.
        u: (ceil(H/2), ceil(W/2)) uint8 blue difference.
        v: the same shape, red difference.
        matrix: which YUV matrix the planes were made with.
        full_range: True when luma spans 0..255, False when 16..235.
    """

    __slots__ = ("_converting", "av_frame", "full_range", "matrix", "u", "v", "y")

    def __init__(self, av_frame: av.VideoFrame, *, writable: bool = False) -> None:
        """Wraps `av_frame` without copying.

        Raises:
            ValueError: if its pixel format isn't planar 8-bit YUV 4:2:0.
        """
        if av_frame.format.name not in _FORMATS:
            raise ValueError(f"wanted pixel format {' or '.join(_FORMATS)}, got {av_frame.format.name}")
        self.av_frame = av_frame
        self._converting = threading.Lock()
        self.matrix = _MATRIX_OF_COLORSPACE.get(int(av_frame.colorspace), Matrix.BT601)
        self.full_range = av_frame.format.name == "yuvj420p" or int(av_frame.color_range) == FULL
        self.y, self.u, self.v = (_view(plane, writable) for plane in av_frame.planes)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.av_frame.width, self.av_frame.height

    def to_bgr(self) -> npt.NDArray[np.uint8]:
        """Returns a new (H, W, 3) uint8 BGR array of the picture."""
        with self._converting:  # PyAV modifies the frame's colour tags during conversion
            converted = self.av_frame.reformat(
                format="bgr24",
                src_colorspace=_SWS_COLORSPACE[self.matrix],
                src_color_range=FULL if self.full_range else LIMITED,
                threads=1,
            )
        return np.asarray(converted.to_ndarray(), np.uint8)

    def copy(self) -> Yuv420:
        """Returns a writable copy with the same colour tags, time stamp and time base."""
        theirs = self.av_frame
        ours = av.VideoFrame(theirs.width, theirs.height, theirs.format.name)
        copy_tags(ours, theirs)
        copied = Yuv420(ours, writable=True)
        for source, target in ((self.y, copied.y), (self.u, copied.u), (self.v, copied.v)):
            np.copyto(target, source)
        return copied

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles copies of the planes and tags."""
        frame = self.av_frame
        tags = (frame.pts, frame.time_base, frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        return _from_parts, (frame.format.name, tuple(np.ascontiguousarray(p) for p in (self.y, self.u, self.v)), tags)

    def bgr_resized(self, size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Returns the picture as BGR at another size, (h, w, 3) uint8.

        Resizes each plane bilinearly before converting: both are linear, so the result equals converting first, up to
        rounding and clipping, at a fraction of the cost.
        """
        planes = [cv2.resize(plane, size_wh, interpolation=cv2.INTER_LINEAR) for plane in (self.y, self.u, self.v)]
        return np.asarray(cv2.transform(cv2.merge(planes), bgr_from_yuv(self.matrix, self.full_range)), np.uint8)


# FFmpeg's SWS_CS_... numbers.
_SWS_COLORSPACE = {Matrix.BT601: 5, Matrix.BT709: 1, Matrix.BT2020: 9}


def copy_tags(frame: av.VideoFrame, of: av.VideoFrame) -> None:
    """Copies time stamp, time base and colour tags to `frame`."""
    frame.pts = of.pts
    if of.time_base is not None:
        frame.time_base = of.time_base
    frame.colorspace, frame.color_range = of.colorspace, of.color_range
    frame.color_primaries, frame.color_trc = of.color_primaries, of.color_trc


def _from_parts(format_name: str, planes: tuple[_Plane, _Plane, _Plane], tags: tuple[Any, ...]) -> Yuv420:
    """Unpickles a `Yuv420`."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, format_name)
    pts, time_base, frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = tags
    frame.pts = pts
    if time_base is not None:
        frame.time_base = time_base
    made = Yuv420(frame, writable=True)
    for source, target in zip(planes, (made.y, made.u, made.v), strict=True):
        np.copyto(target, source)
    return Yuv420(frame)


def _view(plane: av.video.plane.VideoPlane, writable: bool) -> _Plane:
    view = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    view.flags.writeable = writable
    return view
