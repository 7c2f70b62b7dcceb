"""Detections as plain numbers, for outputs of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.files import captured_utc, utc_text

SCORE_DECIMALS: Final = 4
BOX_DECIMALS: Final = 2


def clipped_rows(
    frame: Frame, detections: Detections, *, size_wh: tuple[int, int] | None = None, rounded: bool = True
) -> Iterator[tuple[int, float, list[float]]]:
    """Yields class id, score, and left, top, right and bottom in pixels of each detection, clipped to the frame.

    `size_wh` is the size of another picture of the same view, whose pixels they then are. `rounded` rounds scores to
    `SCORE_DECIMALS` and pixels to `BOX_DECIMALS`; else they have all digits of a float32.
    """
    boxes = np.minimum(np.maximum(detections.boxes_xyxy, 0), frame.size_wh * 2, dtype=np.float64)
    if size_wh is not None and size_wh != frame.size_wh:
        boxes *= np.divide(size_wh, frame.size_wh)[[0, 1, 0, 1]]
    scores = detections.scores.astype(np.float64)
    if rounded:
        scores, boxes = np.round(scores, SCORE_DECIMALS), np.round(boxes, BOX_DECIMALS)
    yield from zip(detections.class_ids.tolist(), scores.tolist(), boxes.tolist(), strict=True)


def iso_utc(frame: Frame) -> str:
    """Returns when a frame was captured: ``2026-11-23T12:33:05.123Z`` (UTC)."""
    return utc_text(captured_utc(frame))
