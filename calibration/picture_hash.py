"""A perceptual hash: pictures that look alike differ in few bits."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_SIDE = 24
_NOISE = 6
BITS = 4 * _SIDE * _SIDE


def picture_hash(image: npt.NDArray[np.uint8]) -> bytes:
    """Returns 288 bytes: whether each cell of a 24 x 24 grid is lighter, or darker, than its right and its lower one.

    The gradient hash of N. Krawetz, "Kind of like that" (2013), in both directions. A difference of at most 6 levels of
    256 counts as none: otherwise the noise of even surfaces, such as a road or the sky, decides half of the bits.

    Args:
        image: (H, W, 3) uint8 BGR.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (_SIDE + 1, _SIDE + 1), interpolation=cv2.INTER_AREA).astype(np.int16)
    steps = np.stack([cells[:-1, :-1] - cells[:-1, 1:], cells[:-1, :-1] - cells[1:, :-1]])
    return np.packbits(np.stack([steps > _NOISE, steps < -_NOISE])).tobytes()


def hash_distance(one: bytes, other: bytes) -> float:
    """Returns the share of bits that differ, 0 to 1."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count() / BITS
