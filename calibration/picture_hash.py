"""A perceptual hash: pictures that look alike differ in few bits.

The gradient hash of N. Krawetz, "Kind of like that" (2013), in both directions: whether each cell of a grid is lighter
than its right and its lower one. The fine grid tells frames of one camera apart, by a single car; the coarse one is the
same for a picture that was saved again, scaled or brightened, and short enough to look up among a hundred thousand.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_FINE_SIDE, _COARSE_SIDE = 24, 8
_NOISE = 6
_FLATTEST = 2.0
"""Standard deviation of the brightness, 0 to 255, below which a hash without tolerance would be of noise."""
BITS = 4 * _FINE_SIDE * _FINE_SIDE


def picture_hash(image: npt.NDArray[np.uint8]) -> bytes:
    """Returns 288 bytes: whether each cell of a 24 x 24 grid is lighter, or darker, than its right and its lower one.

    A difference of at most 6 levels of 256 counts as none: otherwise the noise of even surfaces, such as a road or the
    sky, decides half of the bits.

    Args:
        image: (H, W, 3) uint8 BGR.
    """
    steps = _steps(_cells(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), _FINE_SIDE))
    return np.packbits(np.stack([steps > _NOISE, steps < -_NOISE])).tobytes()


def coarse_hashes(grey: npt.NDArray[np.uint8]) -> tuple[int, int] | None:
    """Returns 64 bits of the differences along rows, and 64 along columns, of an 8 x 8 grid; None of an even area.

    Args:
        grey: (H, W) uint8.
    """
    cells = _cells(grey, _COARSE_SIDE)
    if cells.std() < _FLATTEST:
        return None
    along_rows, along_columns = (int.from_bytes(np.packbits(steps > 0).tobytes()) for steps in _steps(cells))
    return along_rows, along_columns


def hash_distance(one: bytes, other: bytes) -> float:
    """Returns the share of bits that differ between two of `picture_hash`, 0 to 1."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count() / BITS


def _cells(grey: cv2.typing.MatLike, side: int) -> npt.NDArray[np.int16]:
    """Returns the brightness of each cell, and of one more row and column, (side + 1, side + 1)."""
    return cv2.resize(grey, (side + 1, side + 1), interpolation=cv2.INTER_AREA).astype(np.int16)


def _steps(cells: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Returns the differences of each cell to its right and to its lower one, (2, side, side)."""
    return np.stack([cells[:-1, :-1] - cells[:-1, 1:], cells[:-1, :-1] - cells[1:, :-1]])
