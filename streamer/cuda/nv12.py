"""A decoded picture that stays on the GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.cuda.input_layout import PICTURE_DTYPE, PixelFormat, describe_transform
from streamer.cuda.ipc import ImportedSurface
from streamer.cuda.memory import Surface
from streamer.cuda.staging import BufferLease
from streamer.frames.frame import DevicePixels
from streamer.frames.yuv import Yuv420, take_tags
from streamer.frames.yuv_matrix import Matrix
from streamer.models.letterbox import Letterbox


class Nv12(DevicePixels):
    """One picture in NV12 on a GPU: Y, then interleaved U and V of half the size, rows without gaps.

    Its memory is borrowed from a pool, and goes back with the last reference. It may still be being written: readers
    wait for `written`.

    Attributes:
        size_wh: width and height in pixels, both even.
        matrix: which YUV matrix the planes were made with.
        full_range: True when luma spans 0..255, False when 16..235.
        tags: a picture with the same colour tags and pixel format.
        surface: its memory.
    """

    def __init__(
        self, loan: BufferLease[Surface] | BufferLease[ImportedSurface], size_wh: tuple[int, int], tags: Yuv420
    ) -> None:
        """Takes the memory, the size, and any picture with the same colour tags and pixel format."""
        self.size_wh = size_wh
        self.matrix = tags.matrix
        self.full_range = tags.full_range
        self.tags = tags
        self._loan = loan

    @property
    def surface(self) -> Surface | ImportedSurface:
        return self._loan.buffer

    def spare(self) -> tuple[Surface | ImportedSurface, ...]:
        """Returns the surfaces in which later pictures will lie, as far as there are some already."""
        return self._loan.spare()

    @property
    def written(self) -> Any:
        """The event behind which the picture is complete; None where it is."""
        return self._loan.buffer.written

    def describe(self, letterbox: Letterbox) -> npt.NDArray[np.void]:
        """Returns the picture's description for the kernels, one `PICTURE_DTYPE`."""
        width, height = self.size_wh
        words = _template(letterbox, self.matrix, self.full_range).copy()
        words[0] = address = self._loan.buffer.address
        words[1] = address + width * height
        return words.view(PICTURE_DTYPE).reshape(())

    def to_host(self) -> Yuv420:
        """Copies the picture to the host, as planes.

        Raises:
            EngineError: if the copy fails.
        """
        width, height = self.size_wh
        copied = np.empty((height * 3 // 2, width), np.uint8)
        self._loan.buffer.read(copied)
        tags = self.tags.av_frame
        frame = av.VideoFrame(width, height, tags.format.name)
        take_tags(frame, tags)
        planes = Yuv420(frame, writable=True)
        planes.y[...] = copied[:height]
        chroma = copied[height:].reshape(height // 2, width // 2, 2)
        planes.u[...], planes.v[...] = cv2.extractChannel(chroma, 0), cv2.extractChannel(chroma, 1)
        return Yuv420(frame)


def tags_like(picture: Yuv420) -> Yuv420:
    """Returns a tiny picture with the colour tags and the pixel format of another."""
    tags = av.VideoFrame(2, 2, picture.av_frame.format.name)
    take_tags(tags, picture.av_frame)
    return Yuv420(tags)


@lru_cache(maxsize=256)
def _template(letterbox: Letterbox, matrix: Matrix, full_range: bool) -> npt.NDArray[np.uint64]:
    """Returns a description but for its addresses, the first two of its words."""
    width = letterbox.source_wh[0]
    picture = np.zeros((), PICTURE_DTYPE)
    picture["pitches"][:2] = width
    picture["format"] = PixelFormat.NV12
    describe_transform(picture, letterbox, (matrix, full_range))
    return picture.reshape(1).view(np.uint64)
