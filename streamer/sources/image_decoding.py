"""Decodes picture files, after a check of their headers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.common.errors import SourceError
from streamer.sources.av_input import open_input
from streamer.sources.diagnosis import why_unreadable
from streamer.sources.image_size import image_size
from streamer.sources.opencv_logging import quiet_opencv
from streamer.sources.options import MAX_PIXELS, too_large

Image = npt.NDArray[np.uint8]
_HEIF = re.compile(rb"....ftyp(?:heic|heix|heim|heis|mif1)", re.DOTALL)
_AVIF = re.compile(rb"....ftyp(?:avif|avis)", re.DOTALL)
_PROPERTIES_BYTES = 1 << 16
_IROT = re.compile(rb"\0\0\0\x09irot([\0-\x03])")  # ISO/IEC 23008-12, 6.5.10: quarters anticlockwise
_IMIR = re.compile(rb"\0\0\0\x09imir([\0\x01])")  # 6.5.12: 0 exchanges top and bottom, 1 left and right
_QUARTERS = (None, cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_CONVERT = "convert it to JPEG or PNG"


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Returns a picture file's pixels, as `decode_image`.

    Raises:
        SourceError: if it can't be read; the text is the reason, without the file's name.
    """
    try:
        content = path.read_bytes()  # cv2.imread can't open every name, and prints warnings
    except OSError as error:
        raise SourceError(error.strerror or str(error)) from error
    return decode_image(content, max_pixels)


def decode_image(content: bytes, max_pixels: int = MAX_PIXELS, reduced_by: Literal[1, 2, 4, 8] = 1) -> Image:
    """Returns the pixels of a picture, the first of several: (H, W, 3) uint8 BGR.

    Its orientation (EXIF, or AVIF's own) is applied, transparency dropped, 16 bits a channel become 8.

    Args:
        content: a JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, or a HEIC of one tile.
        max_pixels: most pixels; a larger picture isn't decoded.
        reduced_by: divides width and height while decoding, which is several times quicker for a JPEG; a HEIC picture
            keeps its size.

    Raises:
        SourceError: if it can't be decoded; the text is the reason.
    """
    size_wh = image_size(content)
    problem = why_unreadable(content) or (too_large(size_wh, max_pixels) if size_wh is not None else None)
    if problem is not None:
        raise SourceError(problem)
    if size_wh is None:
        raise SourceError("damaged, or not a picture")
    if _HEIF.match(content):
        return _decode_heif(content)
    quiet_opencv()
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), _REDUCED[reduced_by])
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise SourceError("damaged, or not a picture")
    pixels = np.asarray(image, np.uint8)
    return _turned(pixels, content[:_PROPERTIES_BYTES]) if _AVIF.match(content) else pixels


def read_gif(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image]:
    """Yields the pictures of a GIF file, as `decode_image`.

    Raises:
        SourceError: if it can't be read; the text is the reason, without the file's name.
    """
    try:
        with path.open("rb") as file:
            size_wh = image_size(file.read(16))
        if size_wh is None:
            raise SourceError("damaged, or not a picture")
        problem = too_large(size_wh, max_pixels)
        if problem is not None:
            raise SourceError(problem)
        with open_input(f"file:{path}") as container:
            for decoded in container.decode(video=0):
                yield np.asarray(decoded.to_ndarray(format="bgr24"), np.uint8)
    except (av.FFmpegError, IndexError) as error:
        raise SourceError("damaged, or not a picture") from error
    except OSError as error:
        raise SourceError(error.strerror or str(error)) from error


def _turned(image: Image, properties: bytes) -> Image:
    """Applies an AVIF's rotation, then its mirroring, which OpenCV ignores."""
    rotation, mirror = _IROT.search(properties), _IMIR.search(properties)
    quarter = _QUARTERS[rotation[1][0]] if rotation else None
    if quarter is not None:
        image = np.asarray(cv2.rotate(image, quarter), np.uint8)
    if mirror:
        image = np.asarray(cv2.flip(image, mirror[1][0]), np.uint8)
    return image


def _decode_heif(content: bytes) -> Image:
    """Decodes a HEIC file with FFmpeg, which neither joins tiles nor crops."""
    from streamer.frames.pixels import orientation_of, pixels_of

    properties = content[:_PROPERTIES_BYTES]
    if b"clap" in properties or b"grid" in properties:
        raise SourceError(f"a HEIC picture that is cropped or made of tiles, which isn't read here; {_CONVERT}")
    try:
        with av.open(io.BytesIO(content), "r") as container:
            decoded = next(container.decode(video=0))
            pixels = pixels_of(decoded, orientation_of(decoded))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise SourceError(f"a HEIC picture that can't be decoded; {_CONVERT}") from error
    return pixels if isinstance(pixels, np.ndarray) else pixels.to_bgr()
