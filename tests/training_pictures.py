"""Generated pictures with labels, for tests of training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from calibration.labels import LabelledObject, Sample

BOX = (0.3, 0.25, 0.2, 0.3)
"""x, y, width, height of the coloured rectangle in every picture, relative to it."""
GREEN = (0, 255, 0)


def picture(size_wh: tuple[int, int], box: tuple[float, float, float, float] = BOX) -> np.ndarray:
    """Returns a grey picture, (H, W, 3) uint8 BGR, with a green rectangle."""
    width, height = size_wh
    pixels = np.full((height, width, 3), 90, np.uint8)
    x, y, w, h = box
    pixels[round(y * height) : round((y + h) * height), round(x * width) : round((x + w) * width)] = GREEN
    return pixels


def labelled(file: Path, *, class_id: int = 0, is_crowd: bool = False) -> Sample:
    """Returns the sample of a file that `picture` made."""
    x, y, w, h = BOX
    return Sample.of(file, [LabelledObject(class_id, (x + w / 2, y + h / 2, w, h), is_crowd)])


def write_pictures(folder: Path, count: int) -> list[Sample]:
    """Writes noise pictures of several shapes with the green rectangle; returns their samples."""
    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        pixels = picture(((60, 40), (40, 60), (50, 50))[number % 3])
        grey = (pixels == 90).all(axis=2)
        pixels[grey] = generator.integers(0, 200, (int(grey.sum()), 3), dtype=np.uint8)
        file = folder / f"{number:03}.png"
        cv2.imwrite(str(file), pixels)
        samples.append(labelled(file, class_id=number % 2))
    return samples
