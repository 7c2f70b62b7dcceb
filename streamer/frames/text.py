"""Text as coverage masks, rendered by OpenCV's own fonts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

_WEIGHT = 500
_ASCENT_EM, _LINE_EM = 0.96, 1.25
_LOCK = threading.Lock()  # OpenCV doesn't promise that a font is thread-safe


def text_mask(lines: Sequence[str], text_px: int, pad_px: int) -> npt.NDArray[np.uint8]:
    """Returns the coverage of lines of text, (h, w) uint8, 0 outside the letters; h and w are even.

    `text_px` is the letters' size, `pad_px` the width of the empty border.
    """
    with _LOCK:
        face = _face()
        boxes = [cv2.getTextSize((1, 1), line, (0, 0), face, text_px, _WEIGHT) for line in lines]
        line_px = _LINE_EM * text_px
        width = even_up(max(x + w for x, _, w, _ in boxes) + 2 * pad_px)
        mask = np.zeros((even_up(len(lines) * line_px + 2 * (pad_px // 2)), width), np.uint8)
        for number, line in enumerate(lines):
            baseline = round(pad_px // 2 + number * line_px + _ASCENT_EM * text_px)
            cv2.putText(mask, line, (pad_px, baseline), (255,), face, text_px, _WEIGHT)
    return mask


@lru_cache(maxsize=256)
def line_mask(text: str, text_px: int, max_px: int) -> npt.NDArray[np.uint8]:
    """Returns `text_mask` of one line; if it is wider than `max_px`, an ellipsis replaces its end."""
    pad_px = max(2, 2 * round(text_px / 5))
    mask = text_mask((text,), text_px, pad_px)
    while mask.shape[1] > max_px and text:
        text = text[:-1]
        mask = text_mask((text + "…",), text_px, pad_px)
    return mask


def even_down(value: float) -> int:
    """Rounds down to an even number."""
    return int(value // 2) * 2


def even_up(value: float) -> int:
    """Rounds up to an even number."""
    return -int(-value // 2) * 2


@lru_cache(maxsize=1)
def _face() -> cv2.FontFace:
    return cv2.FontFace("sans")
