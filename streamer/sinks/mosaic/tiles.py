"""Several pictures side by side: how tiles are laid out, and how they are painted on BGR or on planes."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.frames.draw import write_plate
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv
from streamer.sinks.scaling import Image, fill_plane, fitted, resized, yuv_from_bgr

TILE_WH = (640, 360)  # where nothing is known of the pictures
_GAP_PX = 2
_LEAST_WIDTH_PX = 320  # of a tile on a canvas of its own size, so that its name can be read
_BACKGROUND, _WAITING = 16, 64
_TEXT_OF_TILE, _LEAST_TEXT_PX = 1 / 22, 15
_PAGE = 80  # a plate dims it to 24

# ITU-T H.273 matrix coefficients and FFmpeg's ranges.
_COLORSPACES = {Matrix.BT601: 6, Matrix.BT709: 1, Matrix.BT2020: 9}
_LIMITED, _FULL = 1, 2


class Box(NamedTuple):
    """A rectangle in pixels; `right` and `bottom` are the first outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, never below zero."""
        return max(0, self.right - self.left), max(0, self.bottom - self.top)


@dataclass(eq=False)
class Tile:
    """One source's place among others.

    Attributes:
        name: written into it.
        frame: the picture to show; None as long as there is none.
        is_over: whether no more pictures come.
        is_changed: whether there is something that isn't painted yet.
    """

    name: str
    frame: Frame | None = None
    is_over: bool = False
    is_changed: bool = True


class Canvas(abc.ABC):
    """A picture that tiles are painted on; what is given to it lies inside.

    Attributes:
        size_wh: width and height in pixels.
        step: every left, top, width and height given to it is a multiple of this.
    """

    size_wh: tuple[int, int]
    step: int

    @abc.abstractmethod
    def fill(self, box: Box, grey: int) -> None:
        """Fills a rectangle with a grey, 0..255."""

    @abc.abstractmethod
    def put(self, box: Box, frame: Frame) -> None:
        """Fills a rectangle with a frame's picture, scaled to it."""

    @abc.abstractmethod
    def paste(self, left: int, top: int, patch: Image) -> None:
        """Puts a small picture, (h, w, 3) uint8 BGR, as it is."""


class BgrCanvas(Canvas):
    """A canvas for a screen.

    Attributes:
        image: (H, W, 3) uint8 BGR.
    """

    step = 1

    def __init__(self, size_wh: tuple[int, int]) -> None:
        self.size_wh = size_wh
        self.image: Image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)

    def fill(self, box: Box, grey: int) -> None:
        """See `Canvas.fill`."""
        self.image[box.top : box.bottom, box.left : box.right] = grey

    def put(self, box: Box, frame: Frame) -> None:
        """See `Canvas.put`."""
        self.image[box.top : box.bottom, box.left : box.right] = resized(frame, box.size_wh)

    def paste(self, left: int, top: int, patch: Image) -> None:
        """See `Canvas.paste`."""
        self.image[top : top + patch.shape[0], left : left + patch.shape[1]] = patch


class YuvCanvas(Canvas):
    """A canvas for a video encoder: planes 4:2:0 in one matrix and range, tagged so.

    Planes of the same colours are scaled straight into it; other pictures are converted at their small size.
    """

    step = 2

    def __init__(self, size_wh: tuple[int, int], *, like: Yuv420 | None = None) -> None:
        """Makes one of even size.

        Args:
            size_wh: width and height.
            like: whose matrix and range it has; None is limited-range BT.601.
        """
        self.size_wh = size_wh
        self._colours = (like.matrix, like.full_range) if like is not None else (Matrix.BT601, False)
        matrix, full_range = self._colours
        picture = av.VideoFrame(*size_wh, "yuv420p")
        picture.colorspace, picture.color_range = _COLORSPACES[matrix], _FULL if full_range else _LIMITED
        self._picture = Yuv420(picture, writable=True)
        self._from_bgr = yuv_from_bgr(matrix, full_range)

    def picture(self) -> Yuv420:
        """Returns a copy of what is painted."""
        return self._picture.copy()

    def fill(self, box: Box, grey: int) -> None:
        """See `Canvas.fill`."""
        for plane, value in zip(self._planes(box), self._from_bgr @ (grey, grey, grey, 1), strict=True):
            plane[...] = round(float(value))

    def put(self, box: Box, frame: Frame) -> None:
        """See `Canvas.put`."""
        pixels = frame.host_pixels
        if isinstance(pixels, np.ndarray):
            self._convert(box, (pixels,), self._from_bgr)
            return
        planes = (pixels.y, pixels.u, pixels.v)
        if (pixels.matrix, pixels.full_range) == self._colours:
            for target, plane in zip(self._planes(box), planes, strict=True):
                fill_plane(target, plane)
        else:
            to_bgr = np.vstack([bgr_from_yuv(pixels.matrix, pixels.full_range), [0, 0, 0, 1]])
            self._convert(box, planes, self._from_bgr @ to_bgr)

    def paste(self, left: int, top: int, patch: Image) -> None:
        """See `Canvas.paste`."""
        height, width = patch.shape[:2]
        self._convert(Box(left, top, left + width, top + height), (patch,), self._from_bgr)

    def _convert(self, box: Box, planes: Sequence[Image], colours: npt.NDArray[np.float64]) -> None:
        """Fills a rectangle with a picture of three channels, in one plane or three; `colours` (3, 4) maps them."""
        targets = self._planes(box)
        picture = np.asarray(cv2.transform(_scaled(planes, box.size_wh), colours.astype(np.float32)), np.uint8)
        quarter = cv2.resize(picture, (box.size_wh[0] // 2, box.size_wh[1] // 2), interpolation=cv2.INTER_AREA)
        for channel, (target, source) in enumerate(zip(targets, (picture, quarter, quarter), strict=True)):
            cv2.extractChannel(source, channel, target)

    def _planes(self, box: Box) -> tuple[Image, Image, Image]:
        ours = self._picture
        half = slice(box.top // 2, box.bottom // 2), slice(box.left // 2, box.right // 2)
        return ours.y[box.top : box.bottom, box.left : box.right], ours.u[half], ours.v[half]


class Mosaic:
    """Tiles on a canvas: each source's picture in its own ratio, with its name."""

    def __init__(self, canvas: Canvas) -> None:
        """Paints nothing yet.

        Args:
            canvas: what to paint on.
        """
        self._canvas = canvas
        self._painted: list[Tile] | None = None

    def paint(self, tiles: Sequence[Tile]) -> None:
        """Paints the tiles that have changed; all of them where they aren't those of the last time."""
        is_new = self._painted != list(tiles)
        if is_new:
            self._painted = list(tiles)
            self._canvas.fill(Box(0, 0, *self._canvas.size_wh), _BACKGROUND)
        for tile, box in zip(tiles, boxes(len(tiles), self._canvas.size_wh, self._canvas.step), strict=True):
            if (tile.is_changed or is_new) and min(box.size_wh) > 0:
                tile.is_changed = False
                self._paint(tile, box)

    def _paint(self, tile: Tile, box: Box) -> None:
        width, height = box.size_wh
        text_px = max(_LEAST_TEXT_PX, round(fitted(TILE_WH, box.size_wh, enlarge=True)[1] * _TEXT_OF_TILE))
        picture = box
        if tile.frame is None:
            self._canvas.fill(box, _WAITING)
            words = _plate("no picture" if tile.is_over else "waiting", text_px, width)[:height]
            self._paste(words, box.left + (width - words.shape[1]) // 2, box.top + (height - words.shape[0]) // 2)
        else:
            picture = self._centred(fitted(tile.frame.shown_wh, box.size_wh, enlarge=True), box)
            if picture != box:
                self._canvas.fill(box, _BACKGROUND)
            self._canvas.put(picture, tile.frame)
        name = _plate(tile.name, text_px, box.right - picture.left)[-height:]
        self._paste(name, picture.left, max(box.top, picture.bottom - name.shape[0]))

    def _paste(self, patch: Image, left: int, top: int) -> None:
        step = self._canvas.step
        self._canvas.paste(left // step * step, top // step * step, patch)

    def _centred(self, size_wh: tuple[int, int], box: Box) -> Box:
        step = self._canvas.step
        width, height = (max(step, round(length / step) * step) for length in size_wh)
        left = box.left + (box.size_wh[0] - width) // 2 // step * step
        top = box.top + (box.size_wh[1] - height) // 2 // step * step
        return Box(left, top, left + width, top + height)


def grid(count: int) -> tuple[int, int]:
    """Returns columns and rows for so many tiles, at least one: as many rows as columns, or fewer."""
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def boxes(count: int, size_wh: tuple[int, int], step: int = 1) -> list[Box]:
    """Returns where so many tiles are on a canvas: row by row, with a small gap between; empty where there is no room.

    Args:
        count: how many.
        size_wh: the canvas's width and height, multiples of `step`.
        step: every edge is at a multiple of this, 1 or 2.
    """
    if not count:
        return []
    columns, rows = grid(count)
    across, down = _spans(size_wh[0], columns, step), _spans(size_wh[1], rows, step)
    places = [(across[number % columns], down[number // columns]) for number in range(count)]
    return [Box(left, top, right, bottom) for (left, right), (top, bottom) in places]


def canvas_wh(count: int, picture_wh: tuple[int, int], most_wh: tuple[int, int]) -> tuple[int, int]:
    """Returns the even size of a canvas whose tiles have the ratio of a picture, and its size where there is room.

    Args:
        count: how many tiles, at least one.
        picture_wh: the picture's width and height.
        most_wh: what the canvas may have at most, even.
    """
    if picture_wh[0] < _LEAST_WIDTH_PX:
        picture_wh = fitted(picture_wh, (_LEAST_WIDTH_PX, most_wh[1]), enlarge=True)
    columns, rows = grid(count)
    width, height = columns * (picture_wh[0] + _GAP_PX) - _GAP_PX, rows * (picture_wh[1] + _GAP_PX) - _GAP_PX
    if width > most_wh[0] or height > most_wh[1]:
        tile_w, tile_h = fitted(picture_wh, (most_wh[0] // columns, most_wh[1] // rows))
        width, height = columns * tile_w, rows * tile_h
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def _spans(length: int, parts: int, step: int) -> list[tuple[int, int]]:
    edges = [number * (length + _GAP_PX) // parts // step * step for number in range(parts + 1)]
    return [(begin, max(begin, min(end - _GAP_PX, length))) for begin, end in itertools.pairwise(edges)]


@lru_cache(maxsize=256)
def _plate(text: str, text_px: int, most_px: int) -> Image:
    """Returns a line of text, white on a dark plate, (h, w, 3) uint8 BGR; h and w are even unless `most_px` cuts it."""
    page = np.full((3 * text_px, most_px, 3), _PAGE, np.uint8)
    write_plate(page, text, text_px)
    covered = page[..., 0] != _PAGE  # its first column and its last row hold no text
    plate = page[-int(covered[:, 0].sum()) :, : int(covered[-1].sum())]
    plate.flags.writeable = False
    return plate


def _scaled(planes: Sequence[Image], size_wh: tuple[int, int]) -> Image:
    """Returns a picture at another size, (h, w, 3) uint8; its channels come in one plane or in three."""
    scaled = []
    for plane in planes:
        target = np.empty((size_wh[1], size_wh[0], *plane.shape[2:]), np.uint8)
        fill_plane(target, plane)
        scaled.append(target)
    return scaled[0] if len(scaled) == 1 else np.asarray(cv2.merge(scaled), np.uint8)
