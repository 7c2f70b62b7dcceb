"""Opens every picture once: its size, orientation, digest and perceptual hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from calibration.data.exif import TURNED, exif_orientation
from calibration.picture_hash import coarse_hashes
from streamer.common.cpu_info import available_cores
from streamer.common.errors import SourceError
from streamer.sources.image_decoding import decode_image
from streamer.sources.image_size import image_size
from streamer.sources.opencv_logging import quiet_opencv
from streamer.sources.options import MAX_PIXELS

_LEAST_REDUCED = 256
"""Pixels of the shorter side from which a JPEG is decoded at an eighth of its size, twice as fast."""
_HEAD_BYTES = 1 << 16
MISSING = "doesn't exist"
"""Problem of a picture that isn't there."""


@dataclass(frozen=True)
class ScannedPicture:
    """What opening a picture told.

    Attributes:
        problem: why it can't be read, or empty.
        size_wh: width and height in pixels as decoded, its EXIF orientation applied; (0, 0) where it can't be read.
        orientation: of its EXIF data, 1 to 8; 1 is upright.
        digest: of the file's content.
        hashes: what `coarse_hashes` returns.
    """

    problem: str
    size_wh: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: bytes = b""
    hashes: tuple[int, int] | None = None

    @property
    def stored_wh(self) -> tuple[int, int]:
        """Width and height of the pixels in the file, before the orientation is applied."""
        return self.size_wh[::-1] if self.orientation in TURNED else self.size_wh


def scan_pictures(images: Iterable[Path]) -> dict[Path, ScannedPicture]:
    """Opens pictures on all cores, with a progress bar; returns what each told."""
    quiet_opencv()
    distinct = list(dict.fromkeys(images))
    found = {}
    with ThreadPoolExecutor(max_workers=available_cores()) as executor:
        try:
            scanned = executor.map(scan_picture, distinct)
            for image, each in zip(
                distinct,
                tqdm(scanned, total=len(distinct), desc="opening pictures", unit=" images", disable=None),
                strict=True,
            ):
                found[image] = each
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return found


def read_sizes(images: Iterable[Path]) -> dict[Path, ScannedPicture]:
    """Reads the sizes of pictures from their headers, without decoding them; nothing else is found out."""
    distinct = list(dict.fromkeys(images))
    with ThreadPoolExecutor(max_workers=available_cores()) as executor:
        return dict(zip(distinct, executor.map(_read_size, distinct), strict=True))


def _read_size(image: Path) -> ScannedPicture:
    try:
        with image.open("rb") as file:
            content = file.read(_HEAD_BYTES)
            size_wh = image_size(content)
            if size_wh is None:  # much may stand before it
                content += file.read()
                size_wh = image_size(content)
    except OSError as error:
        return ScannedPicture(error.strerror or str(error))
    if size_wh is None:
        return ScannedPicture("damaged, or not a picture")
    orientation = exif_orientation(content)
    return ScannedPicture("", size_wh[::-1] if orientation in TURNED else size_wh, orientation)


def scan_picture(image: Path) -> ScannedPicture:
    """Opens one picture."""
    try:
        content = image.read_bytes()
    except FileNotFoundError:
        return ScannedPicture(MISSING)
    except OSError as error:
        return ScannedPicture(error.strerror or str(error))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    orientation = exif_orientation(content)
    try:
        size_wh, grey = _decode(content, orientation)
    except SourceError as error:
        return ScannedPicture(str(error), digest=digest)
    return ScannedPicture("", size_wh, orientation, digest, coarse_hashes(grey))


def _decode(content: bytes, orientation: int) -> tuple[tuple[int, int], npt.NDArray[np.uint8]]:
    """Returns a picture's size (width, height) and its brightness, perhaps smaller; raises SourceError."""
    stored = image_size(content)
    is_large_jpeg = content.startswith(b"\xff\xd8") and stored is not None and min(stored) >= _LEAST_REDUCED
    if is_large_jpeg and stored is not None and stored[0] * stored[1] <= MAX_PIXELS:
        grey = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        if grey is None:
            raise SourceError("damaged, or cut off")
        return (stored[::-1] if orientation in TURNED else stored), np.asarray(grey, np.uint8)
    pixels = decode_image(content)
    return (pixels.shape[1], pixels.shape[0]), np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8)
