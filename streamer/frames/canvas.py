"""Canvases for boxes, text and tiles: BGR pixels, or the planes of a YUV 4:2:0 picture."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from streamer.frames.frame import Frame
from streamer.frames.palette import BLACK, WHITE, Colour
from streamer.frames.scaling import fill_plane, resized
from streamer.frames.yuv import Yuv420
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv, yuv_from_bgr

U8: TypeAlias = npt.NDArray[np.uint8]
Plate: TypeAlias = tuple[U8, ...]

_DIM = 0.3


class Box(NamedTuple):
    """A rectangle in pixels; `right` and `bottom` are the first pixels outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, at least 0."""
        return max(0, self.right - self.left), max(0, self.bottom - self.top)


class Canvas(abc.ABC):
    """A writable picture. Rectangles lie inside it; their edges are even, or the picture's own right and bottom.

    Attributes:
        pixels: the picture: (H, W, 3) uint8 BGR, or planes.
        size_wh: width and height in pixels.
        kind: equal for canvases with compatible plates.
        step: tile edges are multiples of this.
    """

    pixels: U8 | Yuv420
    size_wh: tuple[int, int]
    kind: Hashable
    step: int

    @abc.abstractmethod
    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Fills a rectangle."""

    @abc.abstractmethod
    def put(self, box: Box, frame: Frame) -> None:
        """Fills a rectangle with a frame's picture, scaled to it."""

    @abc.abstractmethod
    def plate(self, mask: U8, fill: Colour, ink: Colour) -> Plate:
        """Returns text in the colour `ink` on `fill`, ready to paste; `mask` is (h, w) uint8, h and w even."""

    @abc.abstractmethod
    def paste(self, plate: Plate, x: int, y: int) -> None:
        """Puts a plate's top left corner at (x, y), both >= 0 and even; cuts off what is outside."""

    @abc.abstractmethod
    def dim_and_write(self, mask: U8, x: int, y: int) -> None:
        """Dims a rectangle and writes white text on it; as `paste`, with `mask` (h, w) uint8, h and w even."""


class BgrCanvas(Canvas):
    """A canvas of BGR pixels."""

    kind = "bgr"
    step = 1

    def __init__(self, image: U8) -> None:
        """Paints on `image`, (H, W, 3) uint8 BGR."""
        self.pixels: U8 = image
        self.size_wh = (image.shape[1], image.shape[0])

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        cv2.rectangle(self.pixels, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)

    def put(self, box: Box, frame: Frame) -> None:
        self.pixels[box.top : box.bottom, box.left : box.right] = resized(frame, box.size_wh)

    def plate(self, mask: U8, fill: Colour, ink: Colour) -> Plate:
        return (np.stack([_blend(mask, f, i) for f, i in zip(fill, ink, strict=True)], axis=-1),)

    def paste(self, plate: Plate, x: int, y: int) -> None:
        _put(self.pixels, plate[0], x, y)

    def dim_and_write(self, mask: U8, x: int, y: int) -> None:
        area = self.pixels[y : y + mask.shape[0], x : x + mask.shape[1]]
        ink = mask[: area.shape[0], : area.shape[1]]
        if area.size:
            area[...] = cv2.max(cv2.convertScaleAbs(area, alpha=_DIM), cv2.merge([ink] * 3))


class YuvCanvas(Canvas):
    """A canvas of planes.

    A frame with the same matrix and range is scaled plane by plane; others are converted after scaling.
    """

    step = 2

    def __init__(self, picture: Yuv420) -> None:
        """Paints on `picture`, which must be writable."""
        self.pixels: Yuv420 = picture
        self.kind: tuple[Matrix, bool] = (picture.matrix, picture.full_range)
        self.size_wh = picture.size_wh

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        for plane, value in zip(self._planes(left, top, right, bottom), self._yuv(colour), strict=True):
            plane[...] = value

    def put(self, box: Box, frame: Frame) -> None:
        pixels = frame.host_pixels
        if isinstance(pixels, np.ndarray):
            self._convert(box, (pixels,), yuv_from_bgr(*self.kind))
            return
        planes = (pixels.y, pixels.u, pixels.v)
        if (pixels.matrix, pixels.full_range) == self.kind:
            for target, plane in zip(self._planes(*box), planes, strict=True):
                fill_plane(target, plane)
        else:
            to_bgr = np.vstack([bgr_from_yuv(pixels.matrix, pixels.full_range), [0, 0, 0, 1]])
            self._convert(box, planes, yuv_from_bgr(*self.kind) @ to_bgr)

    def plate(self, mask: U8, fill: Colour, ink: Colour) -> Plate:
        half = cv2.resize(mask, (mask.shape[1] // 2, mask.shape[0] // 2), interpolation=cv2.INTER_AREA)
        pairs = zip((mask, half, half), self._yuv(fill), self._yuv(ink), strict=True)
        return tuple(_blend(np.asarray(part, np.uint8), f, i) for part, f, i in pairs)

    def paste(self, plate: Plate, x: int, y: int) -> None:
        _put(self.pixels.y, plate[0], x, y)
        _put(self.pixels.u, plate[1], x // 2, y // 2)
        _put(self.pixels.v, plate[2], x // 2, y // 2)

    def dim_and_write(self, mask: U8, x: int, y: int) -> None:
        black, grey, _ = self._yuv(BLACK)
        white = self._yuv(WHITE)[0]
        height, width = mask.shape
        area = self.pixels.y[y : y + height, x : x + width]
        if not area.size:
            return
        ink = cv2.convertScaleAbs(mask[: area.shape[0], : area.shape[1]], alpha=white / 255)
        area[...] = cv2.max(cv2.convertScaleAbs(area, alpha=_DIM, beta=black * (1 - _DIM)), ink)
        for plane in (self.pixels.u, self.pixels.v):
            area = plane[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2]
            area[...] = cv2.convertScaleAbs(area, alpha=_DIM, beta=grey * (1 - _DIM))

    def _convert(self, box: Box, planes: Sequence[U8], colours: npt.NDArray[np.float64]) -> None:
        """Fills a rectangle with a picture of three channels, in one plane or three; `colours` (3, 4) maps them."""
        width, height = box.size_wh
        scaled = []
        for plane in planes:
            scaled.append(np.empty((height, width, *plane.shape[2:]), np.uint8))
            fill_plane(scaled[-1], plane)
        channels = scaled[0] if len(scaled) == 1 else np.asarray(cv2.merge(scaled), np.uint8)
        picture = np.asarray(cv2.transform(channels, colours.astype(np.float32)), np.uint8)
        quarter = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        for channel, (target, source) in enumerate(zip(self._planes(*box), (picture, quarter, quarter), strict=True)):
            cv2.extractChannel(source, channel, target)

    def _planes(self, left: int, top: int, right: int, bottom: int) -> tuple[U8, U8, U8]:
        half = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
        return self.pixels.y[top:bottom, left:right], self.pixels.u[half], self.pixels.v[half]

    def _yuv(self, colour: Colour) -> Colour:
        return _yuv_of(colour, self.pixels.matrix, self.pixels.full_range)


@lru_cache(maxsize=256)
def _yuv_of(colour: Colour, matrix: Matrix, full_range: bool) -> Colour:
    y, u, v = np.clip(np.rint(yuv_from_bgr(matrix, full_range) @ (*colour, 1)), 0, 255).astype(int).tolist()
    return y, u, v


def _blend(mask: U8, fill: int, ink: int) -> U8:
    return np.rint(fill + (ink - fill) * (mask / 255.0)).astype(np.uint8)


def _put(plane: U8, patch: U8, x: int, y: int) -> None:
    area = plane[y : y + patch.shape[0], x : x + patch.shape[1]]
    area[...] = patch[: area.shape[0], : area.shape[1]]
