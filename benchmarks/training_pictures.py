"""Labelled pictures to time a training loop with, drawn where none are given."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from calibration.labels import LabelledObject, Sample

_SIZE_WH = (640, 480)
_QUALITY = 90
_MOST_OBJECTS = 12


def draw_pictures(folder: Path, count: int, classes: int, seed: int = 0) -> list[Sample]:
    """Writes JPEG files of 640 x 480 and about 120 KB, as COCO's photographs have, with one to twelve shapes each."""
    samples = []
    for number in range(count):
        random = np.random.default_rng((seed, number))
        path = folder / f"{number:06}.jpg"
        image = cv2.resize(
            random.uniform(0, 255, (12, 16, 3)).astype(np.float32), _SIZE_WH, interpolation=cv2.INTER_CUBIC
        )
        texture = cv2.resize(random.normal(0, 30, (240, 320, 1)).astype(np.float32), _SIZE_WH)
        pixels = np.clip(image + texture[..., None], 0, 255).astype(np.uint8)
        objects = []
        for _ in range(int(random.integers(1, _MOST_OBJECTS + 1))):
            width, height = np.exp(random.uniform(np.log(0.04), np.log(0.6), 2))
            x, y = random.uniform(width / 2, 1 - width / 2), random.uniform(height / 2, 1 - height / 2)
            centre, axes = (int(x * 640), int(y * 480)), (int(width * 320), int(height * 240))
            colour = [int(value) for value in random.integers(0, 256, 3)]
            cv2.ellipse(pixels, centre, axes, 0.0, 0.0, 360.0, colour, cv2.FILLED)
            box = (float(x), float(y), float(width), float(height))
            objects.append(LabelledObject(int(random.integers(classes)), box))
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        samples.append(Sample.of(path, objects))
    return samples
