"""Boxes, labels and the live overlay, drawn on BGR pixels or directly on the planes of a YUV 4:2:0 picture.

All coordinates are even: edges then fall between chroma samples, so both canvases look the same and encoding as 4:2:0
loses nothing. Text is rendered once per label.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np

from streamer.frames.canvas import BLACK, U8, WHITE, BgrCanvas, Box, Canvas, Colour, Plate, YuvCanvas
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.text import even_down, even_up, text_mask
from streamer.frames.yuv import Yuv420

_PALETTE_RGB = (
    "ff4d4d 2ec4ff 7ee03c ffb000 c77dff 00d9a3 ff7ac6 f5e663 5b8cff ff8552 9ef0e0 b5179e "
    "c9f299 e0aaff 1fa67a d4a373 ffd6a5 4361ee d90429 a3b18a"
)
_PALETTE_BGR: tuple[Colour, ...] = tuple(
    (int(rgb[4:], 16), int(rgb[2:4], 16), int(rgb[:2], 16)) for rgb in _PALETTE_RGB.split()
)
_LUMA_BGR = (0.114, 0.587, 0.299)
_INK_SWITCH_LUMA = 140.0

_MAX_PLATES = 512
_MAX_LABEL = 64


def class_colour(class_id: int) -> Colour:
    """Returns a class's colour as (blue, green, red), each 0..255; colours repeat after 20 classes."""
    return _PALETTE_BGR[class_id % len(_PALETTE_BGR)]


def ink_on(fill: Colour) -> Colour:
    """Returns black or white, whichever reads better on `fill` (both BGR), by its BT.601 luma."""
    luma = sum(weight * part for weight, part in zip(_LUMA_BGR, fill, strict=True))
    return BLACK if luma > _INK_SWITCH_LUMA else WHITE


class Annotator:
    """Draws detections and overlay lines on frames. Several threads may share one.

    Args:
        labels: class names by class id. OpenCV's own fonts have Latin, Greek, Cyrillic, Arabic, Hebrew, Chinese,
            Japanese and Korean; other characters become '?'. Labels are cut to 64 characters.
        show_scores: whether a label ends in its score.
        apart: whether labels are kept from covering each other: one may lie inside or below its box, and is left out
            where no place is free.
    """

    def __init__(self, labels: Sequence[str], *, show_scores: bool = True, apart: bool = False) -> None:
        self._show_scores = show_scores
        self._apart = apart
        self._labels = tuple(label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…" for label in labels)
        self._plates: dict[Hashable, Plate] = {}

    @property
    def plate_bytes(self) -> list[int]:
        """Sizes of the cached labels and overlays, in bytes."""
        return [sum(plane.nbytes for plane in plate) for plate in self._plates.values()]

    def annotate(self, frame: Frame, detections: Detections, overlay_lines: Sequence[str] = ()) -> Frame:
        """Returns a frame like `frame` with the detections and the overlay drawn on a copy of its pixels.

        Boxes are clipped to the picture, the best score is on top, and labels are moved inside the picture. Boxes that
        are reused from an earlier frame are drawn as corners, without a score. With nothing to draw, `frame` itself is
        returned.

        Args:
            frame: the picture; it isn't changed.
            detections: boxes in pixels of `frame`.
            overlay_lines: lines of text for the top left corner, on a dimmed plate.
        """
        if not len(detections) and not overlay_lines:
            return frame
        pixels = frame.host_pixels
        canvas: Canvas = YuvCanvas(pixels.copy()) if isinstance(pixels, Yuv420) else BgrCanvas(pixels.copy())
        style = _Style.of(*frame.size_wh, frame.pixel_aspect)
        shown = self._clipped(detections, frame.size_wh)
        for box_xyxy, class_id, _ in shown:
            colour = class_colour(class_id)
            _outline(canvas, box_xyxy, style.line_wh, colour, corners_only=detections.is_reused)
        if self._apart:
            self._paste_apart(canvas, style, shown)
        else:
            for box_xyxy, class_id, text in shown:
                self._paste_label(canvas, style, box_xyxy, class_id, text)
        if overlay_lines:
            self._paste_overlay(canvas, style, tuple(overlay_lines))
        return dataclasses.replace(frame, pixels=canvas.pixels)

    def _clipped(
        self, detections: Detections, size_wh: tuple[int, int]
    ) -> list[tuple[tuple[int, int, int, int], int, str]]:
        """Returns (box, class id, label) of visible boxes, lowest score first; boxes are rounded outwards to even."""
        width, height = size_wh
        corners = np.clip(detections.boxes_xyxy, 0, (width, height, width, height))
        shown = []
        rows = zip(corners.tolist(), detections.class_ids.tolist(), detections.scores.tolist(), strict=True)
        for (left, top, right, bottom), class_id, score in rows:
            if right > left and bottom > top:
                box = (even_down(left), even_down(top), min(even_up(right), width), min(even_up(bottom), height))
                label = self._labels[class_id]
                has_score = self._show_scores and not detections.is_reused
                shown.append((box, class_id, f"{label} {score:.2f}" if has_score else label))
        return shown[::-1]

    def _paste_label(
        self, canvas: Canvas, style: _Style, box_xyxy: tuple[int, int, int, int], class_id: int, text: str
    ) -> None:
        plate = self._label(canvas, style, class_id, text)
        width, _ = canvas.size_wh
        plate_h, plate_w = plate[0].shape[:2]
        left, top = box_xyxy[:2]
        x = max(0, even_down(min(left, width - plate_w)))
        canvas.paste(plate, x, top - plate_h if top >= plate_h else top)

    def _paste_apart(
        self, canvas: Canvas, style: _Style, shown: Sequence[tuple[tuple[int, int, int, int], int, str]]
    ) -> None:
        """Pastes labels, best score first, each in the first free place above, inside or below its box."""
        width, height = canvas.size_wh
        taken: list[Box] = []
        for (left, top, _, bottom), class_id, text in reversed(shown):
            plate = self._label(canvas, style, class_id, text)
            plate_h, plate_w = plate[0].shape[:2]
            x = max(0, even_down(min(left, width - plate_w)))
            for y in (top - plate_h, top, even_up(bottom), even_down(bottom) - plate_h):
                place = Box(x, y, x + plate_w, y + plate_h)
                if y >= 0 and place.bottom <= height and not any(_overlap(place, other) for other in taken):
                    canvas.paste(plate, x, y)
                    taken.append(place)
                    break

    def _label(self, canvas: Canvas, style: _Style, class_id: int, text: str) -> Plate:
        fill = class_colour(class_id)
        return self._cached(
            (canvas.kind, style, class_id, text),
            lambda: canvas.plate(style.mask((text,), style.pad_px), fill, ink_on(fill)),
        )

    def _paste_overlay(self, canvas: Canvas, style: _Style, lines: tuple[str, ...]) -> None:
        (mask,) = self._cached((style, lines), lambda: (style.mask(lines, 2 * style.pad_px),))
        canvas.dim_and_write(mask, style.margin_px)

    def _cached(self, key: Hashable, make: Callable[[], Plate]) -> Plate:
        plate = self._plates.get(key)
        if plate is None:
            if len(self._plates) >= _MAX_PLATES:
                self._plates.clear()
            plate = self._plates[key] = make()
        return plate


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels for a picture of one size: all even except the text's, so that edges fall between chroma samples.

    `line_wh` is the width of vertical and the height of horizontal lines; they differ where pixels aren't square.
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

    def mask(self, lines: Sequence[str], pad_px: int) -> U8:
        """Returns `text.text_mask` of the lines, in pixels of the picture."""
        mask = text_mask(lines, self.text_px, pad_px)
        if self.pixel_aspect == 1:
            return mask
        wide = math.sqrt(self.pixel_aspect)
        size_wh = even_up(mask.shape[1] / wide), even_up(mask.shape[0] * wide)
        return np.asarray(cv2.resize(mask, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _overlap(a: Box, b: Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom


def _outline(
    canvas: Canvas,
    box_xyxy: tuple[int, int, int, int],
    line_wh: tuple[int, int],
    colour: Colour,
    *,
    corners_only: bool,
) -> None:
    """Draws the four sides of a box, or only a quarter of each side at both ends."""
    left, top, right, bottom = box_xyxy
    inner_left, inner_top = min(left + line_wh[0], right), min(top + line_wh[1], bottom)
    inner_right, inner_bottom = max(even_down(right) - line_wh[0], left), max(even_down(bottom) - line_wh[1], top)
    across = even_up((right - left) / 4) if corners_only else right - left
    down = even_up((bottom - top) / 4) if corners_only else bottom - top
    for begin, end in {(left, min(left + across, right)), (max(even_down(right - across), left), right)}:
        canvas.fill(begin, top, end, inner_top, colour)
        canvas.fill(begin, inner_bottom, end, bottom, colour)
    for begin, end in {(top, min(top + down, bottom)), (max(even_down(bottom - down), top), bottom)}:
        canvas.fill(left, begin, inner_left, end, colour)
        canvas.fill(inner_right, begin, right, end, colour)
