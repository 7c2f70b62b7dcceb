"""Boxes, labels and panels of text, drawn on BGR pixels or directly on the planes of a YUV 4:2:0 picture.

All coordinates are even: edges then fall between chroma samples, so both canvases look the same and encoding as 4:2:0
loses nothing. Text is rendered once per label.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from streamer.frames.canvas import U8, BgrCanvas, Box, Canvas, Plate, YuvCanvas
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.label_layout import Corner, free_corner, is_hiding, label_place
from streamer.frames.palette import Colour, class_colour, ink_on
from streamer.frames.text import even_down, even_up, text_mask
from streamer.frames.viewport import Viewport
from streamer.frames.yuv import Yuv420

_MAX_PLATES = 512
_MAX_LABEL = 64
_LEAST_LABELS_HIGH = 4  # of a picture that is labelled


class Annotator:
    """Draws detections and panels of text on frames. Several threads may share one.

    Args:
        labels: class names by class id. OpenCV's own fonts have Latin, Greek, Cyrillic, Arabic, Hebrew, Chinese,
            Japanese and Korean; other characters become '?'. Labels are cut to 64 characters.
        show_scores: whether a label ends in its score.
        apart: whether a label is left out where every place at its box is covered; else it lies where it covers least.
    """

    def __init__(self, labels: Sequence[str], *, show_scores: bool = True, apart: bool = False) -> None:
        self._show_scores = show_scores
        self._apart = apart
        self._labels = tuple(label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…" for label in labels)
        self._plates: dict[Hashable, Plate] = {}

    @property
    def plate_bytes(self) -> list[int]:
        """Sizes of the cached labels and panels, in bytes."""
        return [sum(plane.nbytes for plane in plate) for plate in self._plates.values()]

    def annotate(
        self,
        frame: Frame,
        detections: Detections,
        overlay_lines: Sequence[str] = (),
        *,
        corner: Corner = Corner.TOP_LEFT,
        stamp: str | None = None,
        viewport: Viewport | None = None,
    ) -> Frame:
        """Returns a frame like `frame` with the detections, the overlay and the stamp drawn on a copy of its pixels.

        Boxes are clipped to the picture, and the best score is on top. A label lies above its box, or inside or below
        where it would cover another label or a panel, and always in the picture; on a picture less than four labels
        high there are none. Boxes that are reused from an earlier frame are drawn as corners, without a score. With
        nothing to draw, `frame` itself is returned.

        Args:
            frame: the picture; it isn't changed.
            detections: boxes in pixels of `frame`.
            overlay_lines: lines of text on a dimmed plate; left out where it would hide too much of the picture.
            corner: where the overlay lies; see `free_corner`.
            stamp: a line of text like these for the top left corner.
            viewport: where the frame will be shown; text and lines are drawn larger where it is smaller than the frame.
        """
        if not len(detections) and not overlay_lines and stamp is None:
            return frame
        pixels = frame.host_pixels
        canvas: Canvas = YuvCanvas(pixels.copy()) if isinstance(pixels, Yuv420) else BgrCanvas(pixels.copy())
        style = _Style.for_frame(frame, viewport)
        shown = self._clipped(detections, frame.size_wh)
        for box_xyxy, class_id, _ in shown:
            colour = class_colour(class_id)
            _outline(canvas, box_xyxy, style.line_wh, colour, corners_only=detections.is_reused)
        panels = {corner: tuple(overlay_lines)} if overlay_lines else {}
        if stamp is not None:
            panels[Corner.TOP_LEFT] = (stamp,)
        covered = self._write_panels(canvas, style, panels)
        if viewport is not None and min(covered_wh := viewport.covered(frame)) > 0:
            covered.append(Box(0, frame.size_wh[1] - covered_wh[1], covered_wh[0], frame.size_wh[1]))
        self._write_labels(canvas, style, shown, covered)
        return dataclasses.replace(frame, pixels=canvas.pixels)

    def free_corner(
        self,
        frame: Frame,
        detections: Detections,
        overlay_lines: Sequence[str],
        corners: Sequence[Corner],
        viewport: Viewport | None = None,
    ) -> Corner:
        """Returns the best corner for the overlay, as `label_layout.free_corner`; the first is where it is now."""
        style = _Style.for_frame(frame, viewport)
        height, width = self._panel(style, tuple(overlay_lines)).shape
        return free_corner(corners, (width, height), style.margin_px, frame.size_wh, detections.boxes_xyxy)

    def _clipped(self, detections: Detections, size_wh: tuple[int, int]) -> list[_Shown]:
        """Returns visible boxes, lowest score first; they are rounded outwards to even."""
        width, height = size_wh
        corners = np.clip(detections.boxes_xyxy, 0, (width, height, width, height))
        shown = []
        scores, ids = detections.scores.tolist(), detections.ids_or_none()
        rows = zip(corners.tolist(), detections.class_ids.tolist(), scores, ids, strict=True)
        for (left, top, right, bottom), class_id, score, track_id in rows:
            if right > left and bottom > top:
                box = (even_down(left), even_down(top), min(even_up(right), width), min(even_up(bottom), height))
                label = self._labels[class_id] if track_id is None else f"{self._labels[class_id]} #{track_id}"
                has_score = self._show_scores and not detections.is_reused
                shown.append((box, class_id, f"{label} {score:.2f}" if has_score else label))
        return shown[::-1]

    def _write_labels(self, canvas: Canvas, style: _Style, shown: Sequence[_Shown], panels: Sequence[Box]) -> None:
        """Pastes labels that cover neither each other nor a panel, where that can be avoided.

        They are placed in an order that doesn't follow the scores, as those change from frame to frame, and the labels
        of neighbouring boxes would change places.
        """
        best_first = range(len(shown) - 1, -1, -1)
        order = best_first if self._apart else sorted(best_first, key=lambda at: (shown[at][1], shown[at][0]))
        placed: list[tuple[int, Plate, Box]] = []
        taken: list[Box] = []
        for at in order:
            box_xyxy, class_id, text = shown[at]
            plate = self._label(canvas, style, class_id, text)
            plate_h, plate_w = plate[0].shape[:2]
            if plate_h * _LEAST_LABELS_HIGH > canvas.size_wh[1]:
                continue
            place, is_free = label_place(box_xyxy, (plate_w, plate_h), canvas.size_wh, taken, panels)
            if is_free or not self._apart:
                placed.append((at, plate, place))
                taken.append(place)
        for _, plate, place in sorted(placed, key=lambda each: each[0]):
            canvas.paste(plate, place.left, place.top)

    def _label(self, canvas: Canvas, style: _Style, class_id: int, text: str) -> Plate:
        fill = class_colour(class_id)
        return self._cached(
            (canvas.kind, style, class_id, text),
            lambda: canvas.plate(style.mask((text,), style.pad_px), fill, ink_on(fill)),
        )

    def _write_panels(self, canvas: Canvas, style: _Style, panels: Mapping[Corner, tuple[str, ...]]) -> list[Box]:
        """Writes the panels that hide little enough; returns their places."""
        places = []
        for corner, lines in panels.items():
            mask = self._panel(style, lines)
            height, width = mask.shape
            if not is_hiding((width, height), canvas.size_wh):
                places.append(corner.place((width, height), style.margin_px, canvas.size_wh))
                canvas.dim_and_write(mask, places[-1].left, places[-1].top)
        return places

    def _panel(self, style: _Style, lines: tuple[str, ...]) -> U8:
        return self._cached((style, lines), lambda: (style.mask(lines, 2 * style.pad_px),))[0]

    def _cached(self, key: Hashable, make: Callable[[], Plate]) -> Plate:
        plate = self._plates.get(key)
        if plate is None:
            if len(self._plates) >= _MAX_PLATES:
                self._plates.clear()
            plate = self._plates[key] = make()
        return plate


_Shown = tuple[tuple[int, int, int, int], int, str]  # box_xyxy, class id, label


def draw(
    image: npt.NDArray[np.uint8] | Frame,
    detections: Detections,
    *,
    labels: Sequence[str] | None = None,
    show_scores: bool = True,
    rgb: bool = False,
) -> npt.NDArray[np.uint8]:
    """Returns a copy of a picture with boxes and labels drawn on it, (H, W, 3) uint8.

    Example:
        >>> import numpy as np
        >>> from streamer import Detections, draw
        >>> picture = np.zeros((120, 160, 3), np.uint8)
        >>> one = Detections(np.array([[20, 30, 90, 100]]), np.array([0.9]), np.array([0]), labels=("person",))
        >>> draw(picture, one)[30, 60].tolist()  # blue, green, red
        [77, 77, 255]

    Args:
        image: (H, W, 3) uint8 BGR, or a frame. It isn't changed.
        detections: boxes in pixels of the picture.
        labels: class names by class id; None takes those of `detections`, else the ids.
        show_scores: whether a label ends in its score.
        rgb: whether `image`, and the result, is RGB in place of BGR. A frame's result is then RGB as well.

    Raises:
        ValueError: if `image` isn't (H, W, 3) uint8, or a class id has no label.
    """
    frame = image if isinstance(image, Frame) else Frame(image[..., ::-1] if rgb else image, "image", 0, 0.0, 0.0)
    names = tuple(labels) if labels is not None else detections.labels
    if not names:
        names = tuple(map(str, range(int(detections.class_ids.max(initial=0)) + 1)))
    if len(detections) and not 0 <= detections.class_ids.min() <= detections.class_ids.max() < len(names):
        raise ValueError(f"wanted class ids from 0 to {len(names) - 1}, the labels', got {detections.class_ids}")
    drawn = _annotator(names, show_scores).annotate(frame, detections)
    picture = drawn.image[..., ::-1] if rgb else drawn.image
    return np.array(picture) if drawn is frame or rgb else picture.copy()


@lru_cache(maxsize=8)
def _annotator(labels: tuple[str, ...], show_scores: bool) -> Annotator:
    return Annotator(labels, show_scores=show_scores)


@dataclass(frozen=True, eq=False)
class _Style:
    """Sizes in pixels for a picture of one size: all even except the text's, so that edges fall between chroma samples.

    Made by `of`, once for a size, so that it is a key that is compared fast.

    `line_wh` is the width of vertical and the height of horizontal lines; they differ where pixels aren't square.
    """

    line_wh: tuple[int, int]
    text_px: int
    pad_px: int
    margin_px: int
    pixel_aspect: Fraction

    @classmethod
    def for_frame(cls, frame: Frame, viewport: Viewport | None) -> _Style:
        return cls.of(*frame.size_wh, frame.pixel_aspect, viewport.magnification(frame) if viewport else 1.0)

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, width: int, height: int, pixel_aspect: Fraction, magnification: float) -> _Style:
        side = math.sqrt(width * height) / magnification  # of the picture that is seen
        wide = math.sqrt(pixel_aspect)
        text_px = round(max(11, round(side / 60)) * magnification)
        line_px = max(2.0, side / 480) * magnification
        return cls(
            line_wh=(max(2, 2 * round(line_px / 2 / wide)), max(2, 2 * round(line_px / 2 * wide))),
            text_px=text_px,
            pad_px=max(2, 2 * round(text_px / 10)),
            margin_px=max(2, 2 * round(side / 240 * magnification)),
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
