"""Boxes, labels and the live overlay, drawn on BGR pixels or straight on the planes of a YUV 4:2:0 picture.

All coordinates are snapped to even pixels: every edge then falls between chroma samples, so it looks the same on
both canvases and loses nothing when the picture is encoded as 4:2:0. Text is rendered once per different label and
pasted afterwards.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv

_U8 = npt.NDArray[np.uint8]
_Plate = tuple[_U8, ...]
Colour = tuple[int, int, int]

_PALETTE_RGB = (
    "ff4d4d 2ec4ff 7ee03c ffb000 c77dff 00d9a3 ff7ac6 f5e663 5b8cff ff8552 9ef0e0 b5179e "
    "c9f299 e0aaff 1fa67a d4a373 ffd6a5 4361ee d90429 a3b18a"
)
_PALETTE_BGR: tuple[Colour, ...] = tuple(
    (int(rgb[4:], 16), int(rgb[2:4], 16), int(rgb[:2], 16)) for rgb in _PALETTE_RGB.split()
)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
_LUMA_BGR = (0.114, 0.587, 0.299)
_INK_SWITCH_LUMA = 140.0

_TEXT_WEIGHT = 500
_ASCENT_EM, _LINE_EM = 0.96, 1.25
_DIM = 0.3
_PLATES_KEPT = 512
_LONGEST_LABEL = 64
_TEXT_LOCK = threading.Lock()  # OpenCV doesn't promise that a font may be used by several threads at once


def class_colour(class_id: int) -> Colour:
    """Returns the class's colour as (blue, green, red), each 0..255: the same in every run, repeating every 20."""
    return _PALETTE_BGR[class_id % len(_PALETTE_BGR)]


def ink_on(fill: Colour) -> Colour:
    """Returns black or white, whichever reads better on `fill` (both BGR), by its BT.601 luma."""
    luma = sum(weight * part for weight, part in zip(_LUMA_BGR, fill, strict=True))
    return _BLACK if luma > _INK_SWITCH_LUMA else _WHITE


def write_plate(image: _U8, text: str, text_px: int, *, centred: bool = False) -> None:
    """Writes a line of text into the lower left corner of a picture, or its centre, on a dimmed plate.

    Args:
        image: (H, W, 3) uint8 BGR, written to.
        text: the line; its end becomes an ellipsis where the picture is too narrow.
        text_px: the text's size in pixels.
        centred: whether it goes to the centre.
    """
    height, width = image.shape[:2]
    mask = _line_mask(text, text_px, width)
    x, y = ((width - mask.shape[1]) // 2, (height - mask.shape[0]) // 2) if centred else (0, height - mask.shape[0])
    _dim_and_write(image[max(0, y) :, max(0, x) :], mask)


class Annotator:
    """Draws detections and overlay lines on frames. Several threads may share one.

    Args:
        labels: the model's class names, by class id. Any script of the Basic Multilingual Plane that OpenCV's own
            fonts hold is drawn (Latin, Greek, Cyrillic, Arabic, Hebrew, Chinese, Japanese, Korean); the rest as '?'.
            Of a label longer than 64 characters the end becomes an ellipsis.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(
            label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…" for label in labels
        )
        self._plates: dict[Hashable, _Plate] = {}

    def annotate(self, frame: Frame, detections: Detections, overlay_lines: Sequence[str] = ()) -> Frame:
        """Returns a frame like `frame` with the detections and the overlay drawn on a copy of its pixels.

        Boxes are clipped to the picture, the best score lies on top, and a label that would leave the picture is
        moved inside. Of boxes that are reused from an earlier frame only the corners are drawn, and no score is given.
        With nothing to draw, `frame` itself is returned.

        Args:
            frame: the picture; it isn't written to.
            detections: boxes in pixels of `frame`.
            overlay_lines: lines of text for the top left corner, shown on a dimmed plate.
        """
        if not len(detections) and not overlay_lines:
            return frame
        canvas: _Canvas
        pixels = frame.host_pixels
        canvas = _YuvCanvas(pixels) if isinstance(pixels, Yuv420) else _BgrCanvas(frame.image)
        style = _Style.of(*frame.size_wh, frame.pixel_aspect)
        shown = self._clipped(detections, frame.size_wh)
        for box_xyxy, class_id, _ in shown:
            colour = class_colour(class_id)
            _outline(canvas, box_xyxy, style.line_wh, colour, corners_only=detections.is_reused)
        for box_xyxy, class_id, text in shown:
            self._paste_label(canvas, style, box_xyxy, class_id, text)
        if overlay_lines:
            self._paste_overlay(canvas, style, tuple(overlay_lines))
        return dataclasses.replace(frame, pixels=canvas.pixels)

    def _clipped(
        self, detections: Detections, size_wh: tuple[int, int]
    ) -> list[tuple[tuple[int, int, int, int], int, str]]:
        """Returns (box, class id, label) of what is visible, worst score first; the boxes snapped outwards to even."""
        width, height = size_wh
        corners = np.clip(detections.boxes_xyxy, 0, (width, height, width, height))
        shown = []
        rows = zip(corners.tolist(), detections.class_ids.tolist(), detections.scores.tolist(), strict=True)
        for (left, top, right, bottom), class_id, score in rows:
            if right > left and bottom > top:
                box = (_even_down(left), _even_down(top), min(_even_up(right), width), min(_even_up(bottom), height))
                label = self._labels[class_id]
                shown.append((box, class_id, label if detections.is_reused else f"{label} {score:.2f}"))
        return shown[::-1]

    def _paste_label(
        self, canvas: _Canvas, style: _Style, box_xyxy: tuple[int, int, int, int], class_id: int, text: str
    ) -> None:
        fill = class_colour(class_id)
        plate = self._kept(
            (canvas.kind, style, class_id, text),
            lambda: canvas.plate(style.text_mask((text,), style.pad_px), fill, ink_on(fill)),
        )
        width, _ = canvas.size_wh
        plate_h, plate_w = plate[0].shape[:2]
        left, top = box_xyxy[:2]
        x = max(0, _even_down(min(left, width - plate_w)))
        canvas.paste(plate, x, top - plate_h if top >= plate_h else top)

    def _paste_overlay(self, canvas: _Canvas, style: _Style, lines: tuple[str, ...]) -> None:
        (mask,) = self._kept((style, lines), lambda: (style.text_mask(lines, 2 * style.pad_px),))
        canvas.dim_and_write(mask, style.margin_px)

    def _kept(self, key: Hashable, make: Callable[[], _Plate]) -> _Plate:
        plate = self._plates.get(key)
        if plate is None:
            if len(self._plates) >= _PLATES_KEPT:
                self._plates.clear()
            plate = self._plates[key] = make()
        return plate


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that suit a picture: all even but the text's, so that edges fall between chroma samples.

    `line_wh` is how wide an upright line is and how high a level one, which differ where pixels aren't square.
    """

    line_wh: tuple[int, int]
    text_px: int
    pad_px: int
    margin_px: int
    pixel_aspect: Fraction

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, width: int, height: int, pixel_aspect: Fraction) -> _Style:
        side = math.sqrt(width * height)
        wide = math.sqrt(pixel_aspect)
        text_px = max(11, round(side / 60))
        return cls(
            line_wh=(max(2, 2 * round(side / 960 / wide)), max(2, 2 * round(side / 960 * wide))),
            text_px=text_px,
            pad_px=max(2, 2 * round(text_px / 10)),
            margin_px=max(2, 2 * round(side / 240)),
            pixel_aspect=pixel_aspect,
        )

    def text_mask(self, lines: Sequence[str], pad_px: int) -> _U8:
        """Returns the lines' coverage as `_text_mask`, in the picture's pixels."""
        mask = _text_mask(lines, self.text_px, pad_px)
        if self.pixel_aspect == 1:
            return mask
        wide = math.sqrt(self.pixel_aspect)
        size_wh = _even_up(mask.shape[1] / wide), _even_up(mask.shape[0] * wide)
        return np.asarray(cv2.resize(mask, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


class _Canvas(abc.ABC):
    """A writable copy of a picture. Coordinates given to it are even, but for the picture's own right and bottom."""

    pixels: _U8 | Yuv420
    kind: Hashable
    size_wh: tuple[int, int]

    @abc.abstractmethod
    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Fills a rectangle that lies inside the picture; `right` and `bottom` are the first pixels outside."""

    @abc.abstractmethod
    def plate(self, mask: _U8, fill: Colour, ink: Colour) -> _Plate:
        """Returns text in the colour `ink` on `fill`, ready to paste; `mask` is (h, w) uint8, h and w even."""

    @abc.abstractmethod
    def paste(self, plate: _Plate, x: int, y: int) -> None:
        """Puts a plate's top left corner at (x, y), both >= 0; what sticks out to the right or below is cut."""

    @abc.abstractmethod
    def dim_and_write(self, mask: _U8, margin_px: int) -> None:
        """Dims the top left corner and writes white text on it; `mask` is (h, w) uint8, h and w even."""


class _BgrCanvas(_Canvas):
    def __init__(self, image: _U8) -> None:
        self.pixels: _U8 = image.copy()
        self.kind = "bgr"
        self.size_wh = (image.shape[1], image.shape[0])

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        cv2.rectangle(self.pixels, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)

    def plate(self, mask: _U8, fill: Colour, ink: Colour) -> _Plate:
        return (np.stack([_blend(mask, f, i) for f, i in zip(fill, ink, strict=True)], axis=-1),)

    def paste(self, plate: _Plate, x: int, y: int) -> None:
        _put(self.pixels, plate[0], x, y)

    def dim_and_write(self, mask: _U8, margin_px: int) -> None:
        _dim_and_write(self.pixels[margin_px:, margin_px:], mask)


class _YuvCanvas(_Canvas):
    def __init__(self, picture: Yuv420) -> None:
        self.pixels: Yuv420 = picture.copy()
        self.kind = (picture.matrix, picture.full_range)
        self.size_wh = picture.size_wh

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        y, u, v = self._yuv(colour)
        self.pixels.y[top:bottom, left:right] = y
        half = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
        self.pixels.u[half] = u
        self.pixels.v[half] = v

    def plate(self, mask: _U8, fill: Colour, ink: Colour) -> _Plate:
        half = cv2.resize(mask, (mask.shape[1] // 2, mask.shape[0] // 2), interpolation=cv2.INTER_AREA)
        pairs = zip((mask, half, half), self._yuv(fill), self._yuv(ink), strict=True)
        return tuple(_blend(np.asarray(part, np.uint8), f, i) for part, f, i in pairs)

    def paste(self, plate: _Plate, x: int, y: int) -> None:
        _put(self.pixels.y, plate[0], x, y)
        _put(self.pixels.u, plate[1], x // 2, y // 2)
        _put(self.pixels.v, plate[2], x // 2, y // 2)

    def dim_and_write(self, mask: _U8, margin_px: int) -> None:
        black, grey, _ = self._yuv(_BLACK)
        white = self._yuv(_WHITE)[0]
        height, width = mask.shape
        area = self.pixels.y[margin_px:, margin_px:][:height, :width]
        if not area.size:
            return
        ink = cv2.convertScaleAbs(mask[: area.shape[0], : area.shape[1]], alpha=white / 255)
        area[...] = cv2.max(cv2.convertScaleAbs(area, alpha=_DIM, beta=black * (1 - _DIM)), ink)
        for plane in (self.pixels.u, self.pixels.v):
            area = plane[margin_px // 2 :, margin_px // 2 :][: height // 2, : width // 2]
            area[...] = cv2.convertScaleAbs(area, alpha=_DIM, beta=grey * (1 - _DIM))

    def _yuv(self, colour: Colour) -> Colour:
        return _yuv_of(colour, self.pixels.matrix, self.pixels.full_range)


@lru_cache(maxsize=256)
def _yuv_of(colour_bgr: Colour, matrix: Matrix, full_range: bool) -> Colour:
    to_bgr = bgr_from_yuv(matrix, full_range).astype(np.float64)
    yuv = np.linalg.solve(to_bgr[:, :3], np.array(colour_bgr) - to_bgr[:, 3])
    y, u, v = np.clip(np.rint(yuv), 0, 255).astype(int).tolist()
    return y, u, v


def _outline(
    canvas: _Canvas,
    box_xyxy: tuple[int, int, int, int],
    line_wh: tuple[int, int],
    colour: Colour,
    *,
    corners_only: bool,
) -> None:
    """Draws the four sides of a box, or of each side a quarter at both of its ends."""
    left, top, right, bottom = box_xyxy
    inner_left, inner_top = min(left + line_wh[0], right), min(top + line_wh[1], bottom)
    inner_right, inner_bottom = max(_even_down(right) - line_wh[0], left), max(_even_down(bottom) - line_wh[1], top)
    across = _even_up((right - left) / 4) if corners_only else right - left
    down = _even_up((bottom - top) / 4) if corners_only else bottom - top
    for begin, end in {(left, min(left + across, right)), (max(_even_down(right - across), left), right)}:
        canvas.fill(begin, top, end, inner_top, colour)
        canvas.fill(begin, inner_bottom, end, bottom, colour)
    for begin, end in {(top, min(top + down, bottom)), (max(_even_down(bottom - down), top), bottom)}:
        canvas.fill(left, begin, inner_left, end, colour)
        canvas.fill(inner_right, begin, right, end, colour)


def _dim_and_write(area: _U8, mask: _U8) -> None:
    """Dims the top left of a BGR area and writes white text on it; what sticks out is cut."""
    area = area[: mask.shape[0], : mask.shape[1]]
    ink = mask[: area.shape[0], : area.shape[1]]
    if area.size:
        area[...] = cv2.max(cv2.convertScaleAbs(area, alpha=_DIM), cv2.merge([ink] * 3))


@lru_cache(maxsize=256)
def _line_mask(text: str, text_px: int, most_px: int) -> _U8:
    """Returns the coverage of a line, no wider than `most_px` where its end can be cut; see `_text_mask`."""
    pad_px = max(2, 2 * round(text_px / 5))
    mask = _text_mask((text,), text_px, pad_px)
    while mask.shape[1] > most_px and text:
        text = text[:-1]
        mask = _text_mask((text + "…",), text_px, pad_px)
    return mask


def _text_mask(lines: Sequence[str], text_px: int, pad_px: int) -> _U8:
    """Returns the lines' coverage, (h, w) uint8 with 0 for none; h and w are even and `pad_px` surrounds the text."""
    with _TEXT_LOCK:
        return _rendered(lines, text_px, pad_px)


def _rendered(lines: Sequence[str], text_px: int, pad_px: int) -> _U8:
    face = _face()
    boxes = [cv2.getTextSize((1, 1), line, (0, 0), face, text_px, _TEXT_WEIGHT) for line in lines]
    line_px = _LINE_EM * text_px
    width = _even_up(max(x + w for x, _, w, _ in boxes) + 2 * pad_px)
    mask = np.zeros((_even_up(len(lines) * line_px + 2 * (pad_px // 2)), width), np.uint8)
    for number, line in enumerate(lines):
        baseline = round(pad_px // 2 + number * line_px + _ASCENT_EM * text_px)
        cv2.putText(mask, line, (pad_px, baseline), (255,), face, text_px, _TEXT_WEIGHT)
    return mask


@lru_cache(maxsize=1)
def _face() -> cv2.FontFace:
    return cv2.FontFace("sans")


def _blend(mask: _U8, fill: int, ink: int) -> _U8:
    return np.rint(fill + (ink - fill) * (mask / 255.0)).astype(np.uint8)


def _put(plane: _U8, patch: _U8, x: int, y: int) -> None:
    area = plane[y : y + patch.shape[0], x : x + patch.shape[1]]
    area[...] = patch[: area.shape[0], : area.shape[1]]


def _even_down(value: float) -> int:
    return int(value // 2) * 2


def _even_up(value: float) -> int:
    return -int(-value // 2) * 2
