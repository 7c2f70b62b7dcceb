"""YUV to BGR matrices."""

from __future__ import annotations

import enum
from functools import lru_cache

import numpy as np
import numpy.typing as npt


class Matrix(enum.Enum):
    """YUV to RGB matrices by their luma weights (kr, kb): ITU-R BT.601, BT.709 and BT.2020 (non-constant)."""

    BT601 = (0.299, 0.114)
    BT709 = (0.2126, 0.0722)
    BT2020 = (0.2627, 0.0593)


def bgr_from_yuv(matrix: Matrix, full_range: bool) -> npt.NDArray[np.float32]:
    """Returns the affine map (3, 4) float32 from (Y, U, V, 1) in 0..255 to (B, G, R) in 0..255.

    The formula is ITU-R BT.601-7, section 2.5, with the luma weights of `matrix`.
    """
    kr, kb = matrix.value
    kg = 1.0 - kr - kb
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    rows = np.array(
        [
            [luma, 2 * (1 - kb) * chroma, 0.0],
            [luma, -2 * (1 - kb) * kb / kg * chroma, -2 * (1 - kr) * kr / kg * chroma],
            [luma, 0.0, 2 * (1 - kr) * chroma],
        ]
    )
    offset = -rows @ np.array([black, 128.0, 128.0])
    return np.concatenate([rows, offset[:, None]], axis=1).astype(np.float32)


@lru_cache(maxsize=8)
def yuv_from_bgr(matrix: Matrix, full_range: bool) -> npt.NDArray[np.float64]:
    """Returns the affine map (3, 4) float64 from (B, G, R, 1) in 0..255 to (Y, U, V): the inverse of `bgr_from_yuv`."""
    to_bgr = np.vstack([bgr_from_yuv(matrix, full_range), [0, 0, 0, 1]])
    return np.linalg.inv(to_bgr.astype(np.float64))[:3]
