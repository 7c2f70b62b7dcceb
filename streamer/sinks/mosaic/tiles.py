"""Several sources on one picture: the layout of the tiles, and how they are painted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np

from streamer.frames.canvas import U8, BgrCanvas, Box, Canvas, YuvCanvas
from streamer.frames.frame import Frame
from streamer.frames.palette import WHITE
from streamer.frames.scaling import fitted
from streamer.frames.text import line_mask
from streamer.frames.viewport import Viewport
from streamer.frames.yuv import COLORSPACES, FULL, LIMITED, Yuv420
from streamer.frames.yuv_matrix import Matrix

TILE_WH = (640, 360)  # if no picture size is known
_GAP_PX = 2
_MIN_WIDTH_PX = 320  # of a tile on a canvas of its own size, so that names are readable
_BACKGROUND, _WAITING, _PLATE = (16, 16, 16), (64, 64, 64), (24, 24, 24)
_EMPHASIS = 1.25
_TEXT_OF_TILE, _MIN_TEXT_PX = 1 / 22, 15


@dataclass(eq=False)
class Tile:
    """The place of one source among others.

    Attributes:
        name: written into it.
        frame: the picture to show, None if there is none yet.
        is_over: whether the source has ended.
        is_removed: whether it is to disappear.
        is_changed: whether it must be painted again.
        viewport: where its picture is scaled to, None while that isn't known.
    """

    name: str
    frame: Frame | None = None
    is_over: bool = False
    is_removed: bool = False
    is_changed: bool = True
    viewport: Viewport | None = None

    def show(self, frame: Frame) -> None:
        """Replaces the picture."""
        self.frame, self.is_changed = frame, True

    def end(self) -> None:
        """Keeps the last picture; without one the tile says so."""
        self.is_changed = self.is_changed or self.frame is None
        self.is_over = True


class Mosaic:
    """Tiles on a canvas: each source's picture in its own ratio, with its name."""

    def __init__(self, canvas: Canvas) -> None:
        """Takes what to paint on."""
        self._canvas = canvas
        self._painted: list[Tile] | None = None

    def paint(self, tiles: Sequence[Tile]) -> None:
        """Paints the tiles that have changed; all of them if they aren't the same tiles as last time."""
        is_new = self._painted != list(tiles)
        if is_new:
            self._painted = list(tiles)
            self._canvas.fill(0, 0, *self._canvas.size_wh, _BACKGROUND)
        for tile, box in zip(tiles, boxes(len(tiles), self._canvas.size_wh, self._canvas.step), strict=True):
            if (tile.is_changed or is_new) and min(box.size_wh) > 0:
                tile.is_changed = False
                self._paint(tile, box)

    def _paint(self, tile: Tile, box: Box) -> None:
        width, height = box.size_wh
        text_px = _text_px(box.size_wh)
        picture = box
        tile.viewport = viewport_of(tile.name, box.size_wh)
        if tile.frame is None:
            self._canvas.fill(*box, _WAITING)
            words = line_mask("no picture" if tile.is_over else "waiting", text_px, width)[:height, :width]
            self._write(words, box.left + (width - words.shape[1]) // 2, box.top + (height - words.shape[0]) // 2)
        else:
            picture = self._centred(fitted(tile.frame.shown_wh, box.size_wh, enlarge=True), box)
            if picture != box:
                self._canvas.fill(*box, _BACKGROUND)
            self._canvas.put(picture, tile.frame)
        room_w = box.right - picture.left
        name = line_mask(tile.name, text_px, room_w)[-height:, :room_w]
        self._write(name, picture.left, max(box.top, picture.bottom - name.shape[0]))

    def _write(self, mask: U8, left: int, top: int) -> None:
        step = self._canvas.step
        self._canvas.paste(self._canvas.plate(mask, _PLATE, WHITE), left // step * step, top // step * step)

    def _centred(self, size_wh: tuple[int, int], box: Box) -> Box:
        step = self._canvas.step
        width, height = (max(step, round(length / step) * step) for length in size_wh)
        left = box.left + (box.size_wh[0] - width) // 2 // step * step
        top = box.top + (box.size_wh[1] - height) // 2 // step * step
        return Box(left, top, left + width, top + height)


def viewport_of(name: str, size_wh: tuple[int, int]) -> Viewport:
    """Returns where the picture of a tile of that name and size is scaled to."""
    name_h, name_w = line_mask(name, _text_px(size_wh), size_wh[0]).shape
    return Viewport(size_wh, (min(name_w, size_wh[0]), min(name_h, size_wh[1])), _EMPHASIS)


def grid(count: int) -> tuple[int, int]:
    """Returns columns and rows for a number of tiles >= 1: nearly square, at least as many columns as rows."""
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def boxes(count: int, size_wh: tuple[int, int], step: int = 1) -> list[Box]:
    """Returns the rectangles of `count` tiles, row by row with a small gap; empty ones where there is no room.

    Edges are at multiples of `step`, 1 or 2, and so is the canvas's size.
    """
    if not count:
        return []
    columns, rows = grid(count)
    across, down = _spans(size_wh[0], columns, step), _spans(size_wh[1], rows, step)
    places = [(across[number % columns], down[number // columns]) for number in range(count)]
    return [Box(left, top, right, bottom) for (left, right), (top, bottom) in places]


def canvas_wh(count: int, picture_wh: tuple[int, int], max_wh: tuple[int, int]) -> tuple[int, int]:
    """Returns the even size of a canvas for `count` >= 1 tiles with a picture's aspect ratio, at most `max_wh`.

    Tiles have the picture's size if they fit.
    """
    if picture_wh[0] < _MIN_WIDTH_PX:
        picture_wh = fitted(picture_wh, (_MIN_WIDTH_PX, max_wh[1]), enlarge=True)
    columns, rows = grid(count)
    width, height = columns * (picture_wh[0] + _GAP_PX) - _GAP_PX, rows * (picture_wh[1] + _GAP_PX) - _GAP_PX
    if width > max_wh[0] or height > max_wh[1]:
        tile_w, tile_h = fitted(picture_wh, (max_wh[0] // columns, max_wh[1] // rows))
        width, height = columns * tile_w, rows * tile_h
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def _text_px(size_wh: tuple[int, int]) -> int:
    return max(_MIN_TEXT_PX, round(fitted(TILE_WH, size_wh, enlarge=True)[1] * _TEXT_OF_TILE))


def _spans(length: int, parts: int, step: int) -> list[tuple[int, int]]:
    edges = [number * (length + _GAP_PX) // parts // step * step for number in range(parts + 1)]
    return [(begin, max(begin, min(end - _GAP_PX, length))) for begin, end in itertools.pairwise(edges)]


def bgr_canvas(size_wh: tuple[int, int]) -> BgrCanvas:
    """Returns a black canvas for a screen."""
    return BgrCanvas(np.zeros((size_wh[1], size_wh[0], 3), np.uint8))


def yuv_canvas(size_wh: tuple[int, int], like: Yuv420 | None = None) -> YuvCanvas:
    """Returns a canvas of even size for a video encoder, in the matrix and range of `like`, else limited BT.601."""
    matrix, full_range = (like.matrix, like.full_range) if like is not None else (Matrix.BT601, False)
    picture = av.VideoFrame(*size_wh, "yuv420p")
    picture.colorspace, picture.color_range = COLORSPACES[matrix], FULL if full_range else LIMITED
    return YuvCanvas(Yuv420(picture, writable=True))
