"""A decoded picture that stays on the GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.cuda.input_layout import PICTURE_DTYPE, Colours, PixelFormat, describe_transform
from streamer.cuda.ipc import ImportedSurface
from streamer.cuda.memory import Surface
from streamer.cuda.staging import BufferLease, BufferPool
from streamer.frames.frame import DevicePixels
from streamer.frames.yuv import Yuv420, copy_tags
from streamer.models.letterbox import Letterbox


class Nv12(DevicePixels):
    """One NV12 picture on a GPU: Y, then interleaved U and V of half the size, rows without gaps.

    It leases its memory until the last reference is gone. It may be incomplete: readers wait for `ready_event`.

    Attributes:
        size_wh: width and height in pixels, both even.
        matrix: YUV matrix of the planes.
        full_range: True when luma spans 0..255, False when 16..235.
        tags: a picture with the same colour tags and pixel format.
        pool: the surfaces that later pictures use; None for another process's.
    """

    def __init__(
        self,
        lease: BufferLease[Surface] | BufferLease[ImportedSurface],
        size_wh: tuple[int, int],
        tags: Yuv420,
        pool: BufferPool[Surface] | None = None,
    ) -> None:
        self.size_wh = size_wh
        self.gpu = lease.buffer.gpu.index
        self.matrix = tags.matrix
        self.full_range = tags.full_range
        self.tags = tags
        self.pool = pool
        self._lease = lease

    @property
    def surface(self) -> Surface | ImportedSurface:
        """The picture's memory."""
        return self._lease.buffer

    @property
    def ready_event(self) -> Any:
        """The event after which the picture is complete; None where it is complete."""
        return self._lease.buffer.ready_event

    def describe(self, letterbox: Letterbox) -> npt.NDArray[np.void]:
        """Returns the picture's description for the kernels, one `PICTURE_DTYPE`."""
        width, height = self.size_wh
        words = _description(letterbox, (self.matrix, self.full_range)).copy()
        words[0] = address = self._lease.buffer.address
        words[1] = address + width * height
        return words.view(PICTURE_DTYPE).reshape(())

    def to_host(self) -> Yuv420:
        """Copies the picture to the host, as planes."""
        width, height = self.size_wh
        copied = np.empty((height * 3 // 2, width), np.uint8)
        self._lease.buffer.read(copied)
        tags = self.tags.av_frame
        frame = av.VideoFrame(width, height, tags.format.name)
        copy_tags(frame, tags)
        planes = Yuv420(frame, writable=True)
        planes.y[...] = copied[:height]
        chroma = copied[height:].reshape(height // 2, width // 2, 2)
        planes.u[...], planes.v[...] = cv2.extractChannel(chroma, 0), cv2.extractChannel(chroma, 1)
        return Yuv420(frame)


def tags_like(picture: Yuv420) -> Yuv420:
    """Returns a 2x2 picture with the colour tags and the pixel format of another."""
    tags = av.VideoFrame(2, 2, picture.av_frame.format.name)
    copy_tags(tags, picture.av_frame)
    return Yuv420(tags)


@lru_cache(maxsize=256)
def _description(letterbox: Letterbox, colours: Colours) -> npt.NDArray[np.uint64]:
    """Returns a `PICTURE_DTYPE` as words; the first two, the addresses, are unset."""
    picture = np.zeros((), PICTURE_DTYPE)
    picture["pitches"][:2] = letterbox.source_wh[0]
    picture["format"] = PixelFormat.NV12
    describe_transform(picture, letterbox, colours)
    return picture.reshape(1).view(np.uint64)
