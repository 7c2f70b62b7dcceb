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
from streamer.common.cpu_info import available_cores
from streamer.common.errors import SourceError
from streamer.sources.image_decoding import decode_image
from streamer.sources.image_size import image_size
from streamer.sources.opencv_logging import quiet_opencv
from streamer.sources.options import MAX_PIXELS

_LEAST_REDUCED = 256
"""Pixels of the shorter side from which a JPEG is decoded at an eighth of its size, twice as fast."""
MISSING = "doesn't exist"
"""Problem of a picture that isn't there."""
_FLATTEST = 2.0
"""Standard deviation of the brightness, 0 to 255, below which the hash of a picture would be of noise."""


@dataclass(frozen=True)
class ScannedPicture:
    """What opening a picture told.

    Attributes:
        problem: why it can't be read, or empty.
        size_wh: width and height in pixels as decoded, its EXIF orientation applied; (0, 0) where it can't be read.
        orientation: of its EXIF data, 1 to 8; 1 is upright.
        digest: of the file's content.
        hashes: 64 bits from differences of brightness along rows, and 64 along columns; None of an even area.
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
    return ScannedPicture("", size_wh, orientation, digest, difference_hashes(grey))


def difference_hashes(grey: npt.NDArray[np.uint8]) -> tuple[int, int] | None:
    """Returns the difference hashes of a picture, (H, W) uint8, along rows and columns, or None of an even area.

    The picture is scaled to 9 x 9; a bit is 1 where a pixel is brighter than the one before it.
    """
    small = cv2.resize(grey, (9, 9), interpolation=cv2.INTER_AREA).astype(np.int16)
    if small.std() < _FLATTEST:
        return None
    rows = small[:8, 1:] > small[:8, :-1]
    columns = small[1:, :8] > small[:-1, :8]
    along_rows, along_columns = (int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in (rows, columns))
    return along_rows, along_columns


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
