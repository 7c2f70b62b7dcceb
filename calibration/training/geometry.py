"""Where a picture lies in the network's input, and its boxes with it.

Every view only scales, mirrors and shifts, so an upright rectangle stays one. A picture goes from its decoded pixels to
the input in one bilinear step, as the runtime's letterbox does: where it shrinks much it is aliased just as there.
Coordinates are continuous: pixel i covers i to i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from calibration.labels import Sample
from calibration.training.augmentation import Augmentation, Draws
from streamer.frames.frame import Frame
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Objects:
    """Labelled objects and ignored regions of one picture.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2: float64 relative to the picture, or float32 in pixels of the network's input.
        labels: (N,) int64, class ids; `EVERY_CLASS` for a region to ignore of all.
        is_ignored: (N,) bool.
    """

    boxes: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]
    is_ignored: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, sample: Sample) -> Objects:
        """Returns a picture's objects, relative to it; its crowds are ignored regions."""
        return cls(np.clip(sample.boxes_xyxy((1, 1)), 0, 1), sample.class_ids, ~sample.is_object)

    @classmethod
    def joined(cls, parts: list[Objects]) -> Objects:
        """Returns the objects of several parts of one input."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.is_ignored for part in parts]),
        )


@dataclass(frozen=True)
class Canvas:
    """The network's input as pictures are placed on it.

    Attributes:
        size_wh: width and height in pixels.
        keep_ratio: whether a picture is padded rather than stretched.
        padding: where a padded picture lies.
        pad_bgr: colour of the padding.
    """

    size_wh: tuple[int, int]
    keep_ratio: bool
    padding: Literal["centre", "top-left"]
    pad_bgr: tuple[int, int, int]

    @classmethod
    def for_model(cls, spec: ModelSpec, settings: Augmentation) -> Canvas:
        """Returns a model's input, with what the settings change of it."""
        keep_ratio = spec.keep_ratio if settings.keep_ratio is None else settings.keep_ratio
        return cls(spec.input_size_wh, keep_ratio, spec.padding, settings.pad_bgr or (spec.pad_value,) * 3)

    @property
    def whole(self) -> tuple[int, int, int, int]:
        """Returns the region of the whole input."""
        return (0, 0, *self.size_wh)

    def letterbox(self, source_wh: tuple[int, int]) -> Letterbox:
        """Returns the runtime's transform of a picture of some size."""
        return Letterbox.fit(source_wh, self.size_wh, self.keep_ratio, self.padding)


@dataclass(frozen=True)
class View:
    """A picture's place: x in the input is ``x in the picture * factor + shift``.

    Attributes:
        factor_xy: scale along each axis; a negative one mirrors.
        shift_xy: in input pixels.
        region: x1, y1, x2, y2 in input pixels, where the picture may show.
        letterbox: set where the view is exactly the runtime's.
    """

    factor_xy: tuple[float, float]
    shift_xy: tuple[float, float]
    region: tuple[int, int, int, int]
    letterbox: Letterbox | None = None


def draw_view(draws: Draws, source_wh: tuple[int, int], canvas: Canvas, settings: Augmentation) -> View:
    """Returns a random view of one picture on the whole canvas: scaled, stretched, shifted, mirrored about centres."""
    letterbox = canvas.letterbox(source_wh)
    scale = draws.uniform(*settings.scale) if draws.happens(settings.warp) else 1.0
    stretch = [1.0, 1.0]
    if draws.happens(settings.warp):
        stretch = [draws.uniform(*settings.stretch) for _ in range(2)]
    moved = [0.0, 0.0]
    if draws.happens(settings.warp):
        moved = [draws.uniform(-settings.translate, settings.translate) for _ in range(2)]
    is_flipped = draws.happens(settings.flip)
    if scale == 1 and stretch == [1, 1] and moved == [0, 0] and not is_flipped:
        factors = [resized / source for resized, source in zip(letterbox.resized_wh, source_wh, strict=True)]
        return View((factors[0], factors[1]), letterbox.offset_xy, canvas.whole, letterbox)
    factor, shift = [0.0, 0.0], [0.0, 0.0]
    for axis in range(2):
        resized = letterbox.resized_wh[axis]
        factor[axis] = resized / source_wh[axis] * scale * stretch[axis] * (-1 if is_flipped and axis == 0 else 1)
        centre = letterbox.offset_xy[axis] + resized * (0.5 + moved[axis])
        shift[axis] = centre - factor[axis] * source_wh[axis] / 2
    return View((factor[0], factor[1]), (shift[0], shift[1]), canvas.whole)


def draw_crop(
    draws: Draws, source_wh: tuple[int, int], objects: Objects, canvas: Canvas, settings: Augmentation
) -> View:
    """Returns an enlarged view of a picture's part with the centre of a random object in it.

    Padding shows only where the enlarged picture is smaller than the canvas.
    """
    letterbox = canvas.letterbox(source_wh)
    zoom = draws.uniform(*settings.crop_zoom)
    candidates = objects.boxes[~objects.is_ignored]
    which, *point = (draws.uniform(0, 1) for _ in range(3))
    if len(candidates):
        box = candidates[min(int(which * len(candidates)), len(candidates) - 1)]
        point = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    is_flipped = draws.happens(settings.flip)
    factor, shift = [0.0, 0.0], [0.0, 0.0]
    for axis in range(2):
        size = canvas.size_wh[axis]
        extent = letterbox.resized_wh[axis] * zoom * draws.uniform(*settings.stretch)
        sign = -1 if is_flipped and axis == 0 else 1
        along = 1 - point[axis] if sign < 0 else point[axis]
        start = draws.uniform(0.15, 0.85) * size - along * extent
        start = min(max(start, size - extent), 0.0) if extent >= size else (size - extent) / 2
        factor[axis] = sign * extent / source_wh[axis]
        shift[axis] = start if sign > 0 else start + extent
    return View((factor[0], factor[1]), (shift[0], shift[1]), canvas.whole)


def draw_tile(
    draws: Draws,
    source_wh: tuple[int, int],
    region: tuple[int, int, int, int],
    inner_xy: tuple[bool, bool],
    canvas: Canvas,
    settings: Augmentation,
) -> View:
    """Returns a random view of one of a mosaic's pictures.

    Args:
        draws: random numbers.
        source_wh: width and height of the picture.
        region: of the canvas, x1, y1, x2, y2, which the picture fills, or lies in at its inner corner.
        inner_xy: along each axis, whether the inner corner is at the region's end.
        canvas: the network's input.
        settings: of augmentation.
    """
    letterbox = canvas.letterbox(source_wh)
    scale = draws.uniform(*settings.mosaic_scale)
    is_flipped = draws.happens(settings.flip)
    factor, shift = [0.0, 0.0], [0.0, 0.0]
    for axis in range(2):
        first, last = region[axis], region[axis + 2]
        extent = letterbox.resized_wh[axis] * scale * draws.uniform(*settings.stretch)
        where = draws.uniform(last - extent, first)
        start = where if extent >= last - first else last - extent if inner_xy[axis] else first
        sign = -1 if is_flipped and axis == 0 else 1
        factor[axis] = sign * extent / source_wh[axis]
        shift[axis] = start if sign > 0 else start + extent
    return View((factor[0], factor[1]), (shift[0], shift[1]), region)


def warp(pixels: Image, view: View, canvas: Canvas, out: Image) -> None:
    """Writes a picture into the view's region of `out`, padding included.

    Args:
        pixels: (H, W, 3) uint8 BGR.
        view: its place.
        canvas: the network's input.
        out: (input h, input w, 3) uint8 BGR.
    """
    if view.letterbox is not None:
        _apply_letterbox(pixels, view.letterbox, canvas, out)
        return
    x1, y1, x2, y2 = view.region
    if x1 == x2 or y1 == y2:
        return
    (fx, fy), (tx, ty) = view.factor_xy, view.shift_xy
    # A pixel of `out` at column u shows the picture at column (u + 0.5 - shift) / factor - 0.5.
    inverse = np.array([[1 / fx, 0, (x1 + 0.5 - tx) / fx - 0.5], [0, 1 / fy, (y1 + 0.5 - ty) / fy - 0.5]])
    cv2.warpAffine(
        pixels,
        inverse,
        (x2 - x1, y2 - y1),
        dst=out[y1:y2, x1:x2],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=canvas.pad_bgr,
    )


def _apply_letterbox(pixels: Image, letterbox: Letterbox, canvas: Canvas, out: Image) -> None:
    letterbox.apply(Frame(pixels, "training", 0, 0.0, 0.0), out)
    if any(canvas.pad_bgr):
        (x, y), (w, h) = letterbox.offset_xy, letterbox.resized_wh
        for border in (out[:y], out[y + h :], out[y : y + h, :x], out[y : y + h, x + w :]):
            border[:] = canvas.pad_bgr


def place(objects: Objects, source_wh: tuple[int, int], view: View, settings: Augmentation) -> Objects:
    """Returns a picture's objects in input pixels, clipped to the view's region.

    A box of which less than `min_visible` is left, or less than `min_side_px` wide or high, becomes an ignored region:
    what shows of it is neither a fair example nor background. One under 1 px is left out.
    """
    (fx, fy), (tx, ty), (width, height) = view.factor_xy, view.shift_xy, source_wh
    x1, x2 = (objects.boxes[:, column] * (fx * width) + tx for column in ((2, 0) if fx < 0 else (0, 2)))
    y1, y2 = (objects.boxes[:, column] * (fy * height) + ty for column in (1, 3))
    full_area = (x2 - x1) * (y2 - y1)
    left, top, right, bottom = view.region
    x1, x2 = (np.minimum(np.maximum(x, left), right) for x in (x1, x2))
    y1, y2 = (np.minimum(np.maximum(y, top), bottom) for y in (y1, y2))
    least = np.minimum(x2 - x1, y2 - y1)
    visible_area = (x2 - x1) * (y2 - y1)
    ignored = objects.is_ignored | (visible_area < settings.min_visible * full_area) | (least < settings.min_side_px)
    kept = least >= 1
    boxes = np.stack((x1, y1, x2, y2), axis=1).astype(np.float32)
    return Objects(boxes[kept], objects.labels[kept], ignored[kept])
