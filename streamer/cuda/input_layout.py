"""Which of a frame's pixels go to the GPU, where they lie in a buffer, and their description for the kernels.

Bilinear interpolation reads two source rows for each row of the network's input. Where that is less than a plane holds,
only those rows are copied: 43 % of a 1080p BGR frame into 416x234. Nothing here needs a GPU.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamer.frames.frame import Frame, HostPixels
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv
from streamer.models.letterbox import Letterbox

Colours = tuple[Matrix, bool]
"""YUV matrix, and whether luma spans 0..255."""

_ALIGNMENT = 256

PICTURE_DTYPE = np.dtype(
    [
        ("planes", np.uint64, 3),
        ("pitches", np.int32, 3),
        ("format", np.int32),
        ("source_wh", np.int32, 2),
        ("resized_wh", np.int32, 2),
        ("offset_xy", np.int32, 2),
        ("packed", np.int32, 3),
        ("reserved", np.int32),
        ("bgr_from_yuv", np.float32, 12),
    ]
)
"""`struct Picture` of source/picture.cuh, 128 bytes."""


class PixelFormat(enum.IntEnum):
    """Pixel formats, numbered as in source/picture.cuh."""

    BGR = 0
    PLANAR = 1
    NV12 = 2


def planes_of(pixels: HostPixels) -> tuple[npt.NDArray[np.uint8], ...]:
    """Returns a picture's planes as (rows, bytes) arrays: one of BGR triplets, or Y, U and V."""
    if isinstance(pixels, np.ndarray):
        return (np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1),)
    return pixels.y, pixels.u, pixels.v


def touched_rows(source: int, resized: int) -> npt.NDArray[np.intp]:
    """Returns the two source rows that each of `resized` rows is interpolated from, (2 * resized,).

    The arithmetic equals that of `rows` in source/letterbox.cu, which is OpenCV's.
    """
    scale = 1.0 / (resized / source)
    first = np.floor(((np.arange(resized) + 0.5) * scale - 0.5).astype(np.float32)).astype(np.intp)
    return np.stack([first, first + 1], axis=1).ravel().clip(0, source - 1)


@dataclass(frozen=True, eq=False)
class PlaneLayout:
    """One plane in a buffer: `height` rows of `pitch` bytes from `offset` on; `rows` are the source's, None for all."""

    offset: int
    pitch: int
    height: int
    rows: npt.NDArray[np.intp] | None


@dataclass(frozen=True, eq=False)
class FrameLayout:
    """How frames of one size and format lie in a buffer of `nbytes`, and their transform into the network's input."""

    format: PixelFormat
    letterbox: Letterbox
    planes: tuple[PlaneLayout, ...]
    nbytes: int

    @staticmethod
    @lru_cache(maxsize=256)
    def make(pixel_format: PixelFormat, letterbox: Letterbox, packable: bool) -> FrameLayout:
        """Returns the layout of BGR or planar frames; `packable` leaves out rows that the transform doesn't read."""
        width, height = letterbox.source_wh
        sizes = [(3 * width, height)]
        if pixel_format is PixelFormat.PLANAR:
            chroma = ((width + 1) // 2, (height + 1) // 2)
            sizes = [(width, height), chroma, chroma]
        planes: list[PlaneLayout] = []
        end = 0
        resized = letterbox.resized_wh[1]
        for pitch, rows in sizes:
            packed = packable and 2 * resized < rows
            kept = 2 * resized if packed else rows
            planes.append(PlaneLayout(end, pitch, kept, touched_rows(rows, resized) if packed else None))
            end += -(-pitch * kept // _ALIGNMENT) * _ALIGNMENT
        return FrameLayout(pixel_format, letterbox, tuple(planes), end)

    @staticmethod
    def of(frame: Frame, letterbox: Letterbox, *, packable: bool = True) -> FrameLayout:
        """Returns a frame's layout; planes with gaps between their rows are copied whole."""
        pixels = frame.host_pixels
        if packable:
            packable = all(plane.flags.c_contiguous for plane in planes_of(pixels))
        pixel_format = PixelFormat.BGR if isinstance(pixels, np.ndarray) else PixelFormat.PLANAR
        return FrameLayout.make(pixel_format, letterbox, packable)

    def fill(self, frame: Frame, buffer: npt.NDArray[np.uint8]) -> None:
        """Copies the frame's pixels into `buffer`, at least `nbytes` uint8."""
        for layout, plane in zip(self.planes, planes_of(frame.host_pixels), strict=True):
            end = layout.offset + layout.height * layout.pitch
            target = buffer[layout.offset : end].reshape(layout.height, layout.pitch)
            if layout.rows is None:
                np.copyto(target, plane)
            else:
                np.take(plane, layout.rows, axis=0, out=target, mode="clip")

    def describe(self, address: int, colours: Colours | None) -> npt.NDArray[np.void]:
        """Returns one `PICTURE_DTYPE` for a frame whose bytes begin at `address` on the GPU; no colours for BGR."""
        picture = np.zeros((), PICTURE_DTYPE)
        for index, plane in enumerate(self.planes):
            picture["planes"][index] = address + plane.offset
            picture["pitches"][index] = plane.pitch
            picture["packed"][index] = plane.rows is not None
        picture["format"] = self.format
        describe_transform(picture, self.letterbox, colours)
        return picture


def describe_transform(picture: npt.NDArray[np.void], letterbox: Letterbox, colours: Colours | None) -> None:
    """Writes the transform and the colour conversion into a `PICTURE_DTYPE`."""
    picture["source_wh"] = letterbox.source_wh
    picture["resized_wh"] = letterbox.resized_wh
    picture["offset_xy"] = letterbox.offset_xy
    if colours is not None:
        picture["bgr_from_yuv"] = bgr_from_yuv(*colours).ravel()


def colours_of(frame: Frame) -> Colours | None:
    """Returns a frame's YUV matrix and range, None for BGR."""
    pixels = frame.host_pixels
    return None if isinstance(pixels, np.ndarray) else (pixels.matrix, pixels.full_range)
