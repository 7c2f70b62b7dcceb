"""How a frame's pixels go to the GPU: which rows of which planes, laid out where, described to the kernels how.

A network input is far smaller than a video frame, and bilinear interpolation reads two source rows for each of its
rows. Where that is less than the plane holds, only those rows are sent: for 1080p into 416x234, 43% of a BGR frame.
Nothing here needs a GPU.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamer.frames.frame import Frame
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv
from streamer.models.letterbox import Letterbox

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
"""`struct Picture` of kernels/picture.cuh, 128 bytes."""


class PixelFormat(enum.IntEnum):
    """How pixels are kept, as kernels/picture.cuh numbers it."""

    BGR = 0
    PLANAR = 1
    NV12 = 2


class Planes(Protocol):
    """Planar YUV 4:2:0, such as `streamer.frames.yuv.Yuv420`."""

    y: npt.NDArray[np.uint8]
    u: npt.NDArray[np.uint8]
    v: npt.NDArray[np.uint8]
    matrix: Any
    full_range: bool


def planes_of(pixels: npt.NDArray[np.uint8] | Planes) -> tuple[npt.NDArray[np.uint8], ...]:
    """Returns a picture's planes as (rows, bytes) arrays: one of BGR triplets, or Y, U and V."""
    if isinstance(pixels, np.ndarray):
        return (np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1),)
    return pixels.y, pixels.u, pixels.v


def touched_rows(source: int, resized: int) -> npt.NDArray[np.intp]:
    """Returns the two source rows that each of `resized` rows is interpolated from, (2 * resized,).

    The arithmetic is that of `rows` in kernels/letterbox.cu, which is OpenCV's.
    """
    scale = 1.0 / (resized / source)
    first = np.floor(((np.arange(resized) + 0.5) * scale - 0.5).astype(np.float32)).astype(np.intp)
    return np.stack([first, first + 1], axis=1).ravel().clip(0, source - 1)


@dataclass(frozen=True, eq=False)
class PlaneLayout:
    """One plane in a staging buffer: `rows` of it (all where None), `pitch` bytes each, from `offset` on."""

    offset: int
    pitch: int
    height: int
    rows: npt.NDArray[np.intp] | None


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a picture of one size and format lies in a staging buffer, and how it comes into the network's input.

    Attributes:
        format: of the pixels.
        letterbox: the transform.
        planes: in the order of `planes_of`.
        nbytes: of all planes together.
    """

    format: PixelFormat
    letterbox: Letterbox
    planes: tuple[PlaneLayout, ...]
    nbytes: int

    @staticmethod
    @lru_cache(maxsize=256)
    def make(pixel_format: PixelFormat, letterbox: Letterbox, packable: bool) -> Layout:
        """Returns the layout of pictures of one format and size.

        Args:
            pixel_format: BGR or PLANAR.
            letterbox: the transform.
            packable: whether to leave out rows that aren't needed.
        """
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
        return Layout(pixel_format, letterbox, tuple(planes), end)

    @staticmethod
    def of(frame: Frame, letterbox: Letterbox, *, packable: bool = True) -> Layout:
        """Returns the layout for a frame; planes with gaps between their rows are sent whole."""
        pixels = frame.host_pixels
        planar = not isinstance(pixels, np.ndarray)
        if packable:
            packable = all(plane.flags.c_contiguous for plane in planes_of(pixels))
        return Layout.make(PixelFormat.PLANAR if planar else PixelFormat.BGR, letterbox, packable)

    def fill(self, frame: Frame, staging: npt.NDArray[np.uint8]) -> None:
        """Copies what is needed of the frame's pixels into `staging`, (nbytes,) uint8 or longer."""
        for layout, plane in zip(self.planes, planes_of(frame.host_pixels), strict=True):
            end = layout.offset + layout.height * layout.pitch
            target = staging[layout.offset : end].reshape(layout.height, layout.pitch)
            if layout.rows is None:
                np.copyto(target, plane)
            else:
                np.take(plane, layout.rows, axis=0, out=target, mode="clip")

    def describe(self, address: int, colours: tuple[Matrix, bool] | None) -> npt.NDArray[np.void]:
        """Returns the picture's description for the kernels, one `PICTURE_DTYPE`.

        Args:
            address: where the staging buffer's bytes lie on the GPU.
            colours: YUV matrix and whether luma spans 0..255; None for BGR.
        """
        picture = np.zeros((), PICTURE_DTYPE)
        for index, plane in enumerate(self.planes):
            picture["planes"][index] = address + plane.offset
            picture["pitches"][index] = plane.pitch
            picture["packed"][index] = plane.rows is not None
        picture["format"] = self.format
        describe_transform(picture, self.letterbox, colours)
        return picture


def describe_transform(
    picture: npt.NDArray[np.void], letterbox: Letterbox, colours: tuple[Matrix, bool] | None
) -> None:
    """Writes the transform and the colour conversion into a picture's description."""
    picture["source_wh"] = letterbox.source_wh
    picture["resized_wh"] = letterbox.resized_wh
    picture["offset_xy"] = letterbox.offset_xy
    if colours is not None:
        picture["bgr_from_yuv"] = bgr_from_yuv(*colours).ravel()


def colours_of(frame: Frame) -> tuple[Any, bool] | None:
    """Returns a frame's YUV matrix and range, None for BGR."""
    pixels = frame.host_pixels
    return None if isinstance(pixels, np.ndarray) else (pixels.matrix, pixels.full_range)
