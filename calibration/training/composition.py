"""Makes one training picture: a view, a mosaic or a blend of two, with its boxes and the change of its colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calibration.training.augmentation import Augmentation, Draws
from calibration.training.geometry import Canvas, Image, Objects, draw_crop, draw_tile, draw_view, place, warp

_DRAWS = 128  # more than any picture uses

Picture = tuple[Image, Objects]
"""Pixels, (H, W, 3) uint8 BGR, and the objects relative to them."""

Choose = Callable[[float], Picture]
"""Returns a picture of the set by a number from 0 to 1."""


@dataclass(frozen=True)
class ColourDraw:
    """Change of one picture's colours, made by `calibration.training.photometry` in this order.

    Attributes:
        brightness: added, as a share of white.
        contrast: factor of all values.
        saturation: factor of the saturation in HSV.
        hue: rotation about the grey axis, as a share of the full circle.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def compose(
    picture: Picture, choose: Choose, seed: Sequence[int], canvas: Canvas, settings: Augmentation, out: Image
) -> tuple[Objects, ColourDraw]:
    """Writes a training picture into `out`; the same arguments give the same result, in any thread.

    Args:
        picture: the only one, or the first of several.
        choose: returns the others of a mosaic or a blend.
        seed: of the random numbers.
        canvas: the network's input.
        settings: of augmentation.
        out: (input h, input w, 3) uint8 BGR.

    Returns:
        The objects in input pixels, and how to change the colours.
    """
    draws = Draws(np.random.default_rng(seed).random(_DRAWS).tolist())
    is_mosaic, is_mixed = draws.happens(settings.mosaic), draws.happens(settings.mixup)
    if is_mosaic:
        objects = _mosaic(picture, choose, draws, canvas, settings, out)
    else:
        objects = _single(picture, draws, canvas, settings, out)
    if is_mixed:
        second = np.empty_like(out)
        other = _single(choose(draws.uniform(0, 1)), draws, canvas, settings, second)
        cv2.addWeighted(out, 0.5, second, 0.5, 0, dst=out)
        objects = Objects.joined([objects, other])
    _degrade(draws, settings, out)
    return objects, draw_colour(draws, settings)


def _single(picture: Picture, draws: Draws, canvas: Canvas, settings: Augmentation, out: Image) -> Objects:
    pixels, objects = picture
    source_wh = (pixels.shape[1], pixels.shape[0])
    if draws.happens(settings.crop):
        view = draw_crop(draws, source_wh, objects, canvas, settings)
    else:
        view = draw_view(draws, source_wh, canvas, settings)
    warp(pixels, view, canvas, out)
    return place(objects, source_wh, view, settings)


def _mosaic(
    picture: Picture, choose: Choose, draws: Draws, canvas: Canvas, settings: Augmentation, out: Image
) -> Objects:
    width, height = canvas.size_wh
    x, y = round(draws.uniform(0.3, 0.7) * width), round(draws.uniform(0.3, 0.7) * height)
    regions = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    parts = []
    for quarter, region in enumerate(regions):
        pixels, objects = picture if quarter == 0 else choose(draws.uniform(0, 1))
        source_wh = (pixels.shape[1], pixels.shape[0])
        view = draw_tile(draws, source_wh, region, (quarter % 2 == 0, quarter < 2), canvas, settings)
        warp(pixels, view, canvas, out)
        parts.append(place(objects, source_wh, view, settings))
    return Objects.joined(parts)


def _degrade(draws: Draws, settings: Augmentation, out: Image) -> None:
    """Blurs a picture, adds noise and JPEG artefacts, each with its own probability."""
    is_blurred, is_noisy, is_compressed = map(draws.happens, (settings.blur, settings.noise, settings.jpeg))
    sigma, noise, quality = draws.uniform(0.5, 1.5), draws.uniform(2, 10), round(draws.uniform(30, 85))
    noise_seed = int(draws.uniform(0, 1 << 30))
    if is_blurred:
        cv2.GaussianBlur(out, (5, 5), sigma, dst=out)
    if is_noisy:
        added = np.empty(out.shape, np.int16)
        cv2.setRNGSeed(noise_seed)  # of this thread alone
        cv2.randn(added, np.zeros(3), np.full(3, noise))
        cv2.add(out, added, dst=out, dtype=cv2.CV_8U)
    if is_compressed:
        _, content = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
        assert decoded is not None
        out[:] = decoded


def draw_colour(draws: Draws, settings: Augmentation) -> ColourDraw:
    """Returns how one picture's colours change."""
    changed = [draws.happens(settings.colour) for _ in range(4)]
    brightness = draws.uniform(-settings.brightness, settings.brightness)
    contrast, saturation = draws.uniform(*settings.contrast), draws.uniform(*settings.saturation)
    hue = draws.uniform(-settings.hue, settings.hue)
    return ColourDraw(
        brightness if changed[0] else 0.0,
        contrast if changed[1] else 1.0,
        saturation if changed[2] else 1.0,
        hue if changed[3] else 0.0,
    )
