"""Made labels and detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from calibration.accuracy import Found
from calibration.labels import Sample
from streamer.frames.detections import Detections

SIZE_WH = (640, 480)


def sample(
    *objects: tuple[int, float, float, float, float], crowds: tuple[int, ...] = (), name: str = "x.jpg"
) -> Sample:
    """Returns a picture of `SIZE_WH` with objects of (class, left, top, right, bottom) in pixels.

    `crowds` are the places of those that are regions to ignore.
    """
    table = np.array(objects, np.float64).reshape(-1, 5)
    corners = table[:, 1:] / np.tile(SIZE_WH, 2)
    boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    return Sample(Path(name), table[:, 0].astype(np.int64), boxes, np.isin(np.arange(len(table)), crowds))


def found(*rows: tuple[int, float, float, float, float, float]) -> Found:
    """Returns the detections (class, score, left, top, right, bottom), best first, in a picture of `SIZE_WH`."""
    table = np.array(sorted(rows, key=lambda row: -row[1]), np.float32).reshape(-1, 6)
    return SIZE_WH, Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


def plausible(seed: int, classes: int, pictures: int) -> tuple[list[Sample], list[Found]]:
    """Returns labels, some of them crowds, and detections such as a fair model's: moved, missed, mistaken, invented."""
    random = np.random.default_rng(seed)
    samples, detected = [], []
    for _ in range(pictures):
        count = int(random.integers(0, 9))
        left_top = random.uniform(0, 400, (count, 2))
        corners = np.concatenate([left_top, left_top + random.uniform(20, 200, (count, 2))], axis=1)
        ids = random.integers(0, classes, count)
        objects = [(int(i), *box) for i, box in zip(ids, corners.tolist(), strict=True)]
        samples.append(sample(*objects, crowds=tuple(np.flatnonzero(random.random(count) < 0.1))))
        rows = []
        for class_id, box in zip(ids, corners, strict=True):
            for _ in range(int(random.integers(0, 3))):
                is_mistaken = random.random() < 0.1
                seen = int(random.integers(0, classes)) if is_mistaken else int(class_id)
                moved = box + random.normal(0, 10, 4)
                rows.append((seen, round(float(random.beta(4, 3)), 2), *moved.tolist()))
        for x, y in random.uniform(0, 400, (int(random.integers(0, 4)), 2)):
            rows.append(
                (int(random.integers(0, classes)), round(0.05 + 0.9 * random.beta(1, 5), 2), x, y, x + 70, y + 90)
            )
        detected.append(found(*rows))
    return samples, detected
