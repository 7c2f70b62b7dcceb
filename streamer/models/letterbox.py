"""The transform from a source frame's pixels to the network's input and back, computed once a frame size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import numpy.typing as npt

from streamer.frames.frame import Frame

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec


@dataclass(frozen=True)
class Letterbox:
    """Scales a picture into the network's input: padded with one colour, or stretched.

    Attributes:
        source_wh: width and height of the source frame in pixels.
        input_wh: width and height of the network's input in pixels.
        resized_wh: size of the picture inside the input.
        offset_xy: left and top padding in input pixels.
        pad_value: of the padding, 0 to 255.
    """

    source_wh: tuple[int, int]
    input_wh: tuple[int, int]
    resized_wh: tuple[int, int]
    offset_xy: tuple[int, int]
    pad_value: int = 0

    @staticmethod
    @lru_cache(maxsize=256)
    def fit(
        source_wh: tuple[int, int],
        input_wh: tuple[int, int],
        keep_ratio: bool,
        padding: Literal["centre", "top-left"] = "centre",
        shown_wh: tuple[int, int] | None = None,
        pad_value: int = 0,
    ) -> Letterbox:
        """Returns the transform for frames of one size.

        Args:
            source_wh: width and height of the frames in pixels.
            input_wh: width and height of the network's input.
            keep_ratio: whether to pad rather than stretch.
            padding: where the picture lies when padded.
            shown_wh: its size with square pixels, as `Frame.shown_wh`; None is `source_wh`.
            pad_value: of the padding, 0 to 255.

        Raises:
            ValueError: if a size isn't positive.
        """
        if min(*source_wh, *input_wh) < 1:
            raise ValueError(f"wanted positive sizes, got source {source_wh} and input {input_wh}")
        if not keep_ratio:
            return Letterbox(source_wh, input_wh, input_wh, (0, 0), pad_value)
        width, height = shown_wh or source_wh
        scale = min(input_wh[0] / width, input_wh[1] / height)
        resized = (max(1, round(width * scale)), max(1, round(height * scale)))
        offset = ((input_wh[0] - resized[0]) // 2, (input_wh[1] - resized[1]) // 2)
        return Letterbox(source_wh, input_wh, resized, offset if padding == "centre" else (0, 0), pad_value)

    @staticmethod
    def for_model(frame: Frame, spec: ModelSpec) -> Letterbox:
        """Returns the transform for frames like `frame` into a model's input."""
        return Letterbox.fit(
            frame.size_wh, spec.input_size_wh, spec.keep_ratio, spec.padding, frame.shown_wh, spec.pad_value
        )

    def apply(self, frame: Frame, out: npt.NDArray[np.uint8]) -> None:
        """Writes the frame into `out`, (input h, input w, 3) uint8 BGR, padding included.

        Raises:
            ValueError: if `out` or the frame has another size than this transform was made for.
        """
        if frame.size_wh != self.source_wh or out.shape != (self.input_wh[1], self.input_wh[0], 3):
            raise ValueError(
                f"wanted a frame of {self.source_wh} and an input of {self.input_wh}, "
                f"got {frame.size_wh} and {out.shape}"
            )
        (x, y), (w, h) = self.offset_xy, self.resized_wh
        out[:y] = self.pad_value
        out[y + h :] = self.pad_value
        out[y : y + h, :x] = self.pad_value
        out[y : y + h, x + w :] = self.pad_value
        pixels = frame.host_pixels
        if isinstance(pixels, np.ndarray):
            resized = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR)
        else:
            resized = pixels.bgr_resized((w, h))
        out[y : y + h, x : x + w] = resized

    def to_source(self, boxes_xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps boxes (N, 4) from input pixels to source pixels, clipped to the source frame; returns a new array."""
        source, resized, offset = np.array([self.source_wh, self.resized_wh, self.offset_xy], np.float32)
        corners = (boxes_xyxy.reshape(-1, 2) - offset) * (source / resized)
        return np.clip(corners, 0, source).reshape(-1, 4)
