"""One picture from a source, with its times."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from streamer.frames.yuv import Yuv420


class DevicePixels(abc.ABC):
    """A picture in a device's memory, such as a GPU's, copied to the host on demand.

    Attributes:
        size_wh: width and height in pixels.
        gpu: number of the GPU whose memory it is in.
    """

    size_wh: tuple[int, int]
    gpu: int

    @abc.abstractmethod
    def to_host(self) -> Yuv420:
        """Copies the picture to the host.

        Raises:
            EngineError: the copy fails.
        """


HostPixels: TypeAlias = "npt.NDArray[np.uint8] | Yuv420"
Pixels: TypeAlias = "npt.NDArray[np.uint8] | Yuv420 | DevicePixels"


@dataclass(frozen=True, eq=False)
class Frame:
    """One immutable picture; safe to read from several threads.

    Attributes:
        pixels: (H, W, 3) uint8 BGR, or the decoder's planes, on the host or a device; not to be modified.
        source: name of the source it came from.
        index: 0-based number of the frame within its source, gaps included where frames were dropped.
        pts_s: presentation time in seconds from the source's start.
        captured_at_s: `time.perf_counter()` when the source had the frame ready.
        name: the file's name for a source made of image files, else None.
        pixel_aspect: width of a displayed pixel over its height.

    Raises:
        ValueError: if a BGR array isn't (H, W, 3) uint8 with H and W at least 1, or `pts_s` isn't a finite number.
    """

    pixels: Pixels
    source: str
    index: int
    pts_s: float
    captured_at_s: float
    name: str | None = None
    pixel_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if not math.isfinite(self.pts_s):
            raise ValueError(f"wanted a finite pts_s, got {self.pts_s}")
        pixels = self.pixels
        if not isinstance(pixels, np.ndarray):
            return
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
            raise ValueError(f"wanted a BGR image (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels.shape[1], self.pixels.shape[0]
        return self.pixels.size_wh

    @property
    def gpu(self) -> int | None:
        """Number of the GPU whose memory the picture is in, None where it is on the host."""
        return self.pixels.gpu if isinstance(self.pixels, DevicePixels) else None

    @property
    def shown_wh(self) -> tuple[int, int]:
        """Width and height with square pixels; neither is less than in `size_wh`."""
        width, height = self.size_wh
        aspect = self.pixel_aspect
        return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))

    @cached_property
    def host_pixels(self) -> HostPixels:
        """`pixels` on the host, copied from a device on first use."""
        return self.pixels.to_host() if isinstance(self.pixels, DevicePixels) else self.pixels

    @cached_property
    def image(self) -> npt.NDArray[np.uint8]:
        """The picture as (H, W, 3) uint8 BGR, read-only; converted from the decoder's planes on first use."""
        pixels = self.host_pixels
        image = pixels if isinstance(pixels, np.ndarray) else pixels.to_bgr()
        image = image.view()
        image.flags.writeable = False
        return image
