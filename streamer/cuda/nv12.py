"""A decoded picture that stays on the GPU."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.picture import PICTURE_DTYPE, PixelFormat, describe_transform
from streamer.cuda.staging import Loan
from streamer.letterbox import Letterbox
from streamer.yuv_matrix import Matrix, bgr_from_yuv


class Nv12:
    """One picture in NV12 on a GPU: Y, then interleaved U and V of half the size, rows without gaps.

    Its memory is borrowed from a pool, and goes back with the last reference.

    Attributes:
        size_wh: width and height in pixels, both even.
        matrix: which YUV matrix the planes were made with.
        full_range: True when luma spans 0..255, False when 16..235.
    """

    def __init__(self, loan: Loan[DeviceBuffer], size_wh: tuple[int, int], matrix: Matrix, full_range: bool) -> None:
        self.size_wh = size_wh
        self.matrix = matrix
        self.full_range = full_range
        self._loan = loan

    def describe(self, letterbox: Letterbox) -> npt.NDArray[np.void]:
        """Returns the picture's description for the kernels, one `PICTURE_DTYPE`."""
        width, height = self.size_wh
        address = self._loan.buffer.address
        picture = np.zeros((), PICTURE_DTYPE)
        picture["planes"][:2] = address, address + width * height
        picture["pitches"][:2] = width
        picture["format"] = PixelFormat.NV12
        describe_transform(picture, letterbox, (self.matrix, self.full_range))
        return picture

    def to_bgr(self) -> npt.NDArray[np.uint8]:
        """Copies the picture to the host; returns (H, W, 3) uint8 BGR.

        Raises:
            EngineError: if the copy fails.
        """
        width, height = self.size_wh
        planes = np.empty((height * 3 // 2, width), np.uint8)
        self._loan.buffer.read(planes)
        chroma = cv2.resize(planes[height:].reshape(height // 2, width // 2, 2), (width, height))
        yuv = np.dstack([planes[:height], chroma])
        return np.asarray(cv2.transform(yuv, bgr_from_yuv(self.matrix, self.full_range)), np.uint8)
