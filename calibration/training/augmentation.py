"""Settings of augmentation, with upstream's recipe and two of this project's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.common.errors import ConfigError
from streamer.models.spec import ModelSpec

_PROBABILITIES = ("flip", "warp", "crop", "mosaic", "mixup", "colour", "blur", "noise", "jpeg")
_RANGES = ("scale", "stretch", "crop_zoom", "mosaic_scale", "contrast", "saturation")
Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """How a training picture differs from what the runtime would make of its file; the defaults change nothing.

    Attributes:
        flip: probability of exchanging left and right.
        scale: size of the picture relative to its letterbox, drawn evenly; below 1 shows padding around it, above 1
            cuts its edges off.
        stretch: further factors, one drawn for the width and one for the height.
        translate: largest shift along each axis, as a share of the letterboxed picture's size.
        warp: probability of each of `scale`, `stretch` and `translate`.
        crop: probability of showing, instead of all these, an enlarged part that holds at least one object (after the
            crop of SSD, Liu et al. 2016).
        crop_zoom: enlargement of that part.
        mosaic: probability of composing four pictures (Bochkovskiy et al. 2020) around a point.
        mosaic_scale: size of each of the four relative to its letterbox.
        mixup: probability of blending a second picture in, half and half (Zhang et al. 2018).
        keep_ratio: whether pictures are padded rather than stretched to the input's shape; None is as the runtime.
        pad_bgr: colour of the padding, 0 to 255; None is as the runtime.
        brightness: largest change, as a share of white.
        contrast: factor of all values, after the brightness.
        saturation: factor of the saturation in HSV.
        hue: largest rotation of the hue, as a share of the full circle.
        colour: probability of each of `brightness`, `contrast`, `saturation` and `hue`.
        blur: probability of a Gaussian blur.
        noise: probability of Gaussian noise.
        jpeg: probability of JPEG artefacts.
        min_visible: share of a box's area that must stay visible; of a lesser one the rest is an ignored region.
        min_side_px: least width and height of a box in input pixels; a smaller one is an ignored region. Boxes under
            1 px are left out.
    """

    flip: float = 0.0
    scale: Range = (1.0, 1.0)
    stretch: Range = (1.0, 1.0)
    translate: float = 0.0
    warp: float = 1.0
    crop: float = 0.0
    crop_zoom: Range = (1.0, 1.0)
    mosaic: float = 0.0
    mosaic_scale: Range = (0.5, 1.0)
    mixup: float = 0.0
    keep_ratio: bool | None = None
    pad_bgr: tuple[int, int, int] | None = None
    brightness: float = 0.0
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: float = 0.0
    colour: float = 0.5
    blur: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0
    min_visible: float = 0.1
    min_side_px: float = 2.0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        for name in _PROBABILITIES:
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability, 0 to 1")
        for name in _RANGES:
            low, high = getattr(self, name)
            self._check(name, 0 < low <= high <= 10, "two ascending factors between 0 and 10")
        self._check("crop_zoom", self.crop_zoom[0] >= 1, "factors of 1 at least")
        self._check("translate", 0 <= self.translate <= 1, "a share, 0 to 1")
        self._check("brightness", 0 <= self.brightness <= 1, "a share, 0 to 1")
        self._check("hue", 0 <= self.hue <= 0.5, "a share of the circle, 0 to 0.5")
        self._check("min_visible", 0 <= self.min_visible < 1, "a share, 0 to 1")
        self._check("min_side_px", 1 <= self.min_side_px < math.inf, "pixels, 1 at least")
        if self.pad_bgr is not None:
            self._check("pad_bgr", len(self.pad_bgr) == 3 and set(self.pad_bgr) <= set(range(256)), "three of 0 to 255")

    def _check(self, name: str, is_right: bool, wanted: str) -> None:
        if not is_right:
            raise ConfigError(f"augmentation: {name} is {wanted}, got {getattr(self, name)}")

    @property
    def largest_zoom(self) -> float:
        """Returns how much larger than its letterbox a picture can get."""
        crop = self.crop_zoom[1] if self.crop else 1.0
        mosaic = self.mosaic_scale[1] if self.mosaic else 1.0
        return max(self.scale[1], crop, mosaic) * self.stretch[1]

    @classmethod
    def none(cls) -> Augmentation:
        """Returns settings that give exactly the runtime's letterbox."""
        return cls()

    @classmethod
    def upstream(cls, spec: ModelSpec) -> Augmentation:
        """Returns the recipe of the original trainer for a network.

        A network that keeps the ratio is trained as by its ``LegacyPipeline``, which the published m and g come from:
        a centred letterbox with black padding, each warp with probability 1/2. (Its newer ``Pipeline`` would pad such
        a batch at the right and bottom, with the mean colour, which the runtime never shows.) The others, Plus, are
        trained as by ``Pipeline``: stretched to the input, always warped.
        """
        scale = (0.6, 1.4)
        if spec.name.startswith("nanodet-m-0.5x"):
            scale = (0.5, 1.5)
        elif spec.name.startswith("nanodet-m") and spec.input_size_wh == (416, 416):
            scale = (0.5, 1.4)
        return cls(
            flip=0.5,
            scale=scale,
            stretch=(1.0, 1.0) if spec.keep_ratio else (0.8, 1.2),
            translate=0.2,
            warp=0.5 if spec.keep_ratio else 1.0,
            brightness=0.2,
            contrast=(0.6, 1.4),
            saturation=(0.5, 1.2),
            min_visible=0.0,
            min_side_px=1.0,
        )

    @classmethod
    def light(cls) -> Augmentation:
        """Returns what suits short fine-tuning, and the last part of a longer training."""
        return cls(
            flip=0.5,
            scale=(0.75, 1.3),
            stretch=(0.9, 1.1),
            translate=0.1,
            warp=0.7,
            brightness=0.12,
            contrast=(0.75, 1.3),
            saturation=(0.6, 1.4),
            hue=0.02,
        )

    @classmethod
    def strong(cls) -> Augmentation:
        """Returns what suits long training; to be followed by `light` for the last part of it."""
        return cls(
            flip=0.5,
            scale=(0.5, 1.6),
            stretch=(0.85, 1.18),
            translate=0.2,
            warp=0.9,
            crop=0.2,
            crop_zoom=(1.2, 2.5),
            mosaic=0.5,
            mosaic_scale=(0.5, 1.0),
            mixup=0.1,
            brightness=0.2,
            contrast=(0.6, 1.4),
            saturation=(0.5, 1.5),
            hue=0.03,
            blur=0.03,
            noise=0.03,
            jpeg=0.05,
        )


@dataclass
class Draws:
    """Random numbers of one picture, from values between 0 and 1 that were drawn at once."""

    values: Sequence[float]
    used: int = 0

    def uniform(self, low: float, high: float) -> float:
        """Returns a number between two others."""
        value = self.values[self.used]
        self.used += 1
        return low + (high - low) * value

    def happens(self, probability: float) -> bool:
        """Returns True with a probability; always uses up one value."""
        return self.uniform(0, 1) < probability
