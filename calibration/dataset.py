"""Pictures with YOLO labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamer.errors import ConfigError, SourceError
from streamer.frame import Frame

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture's file and what is in it.

    Attributes:
        image: the picture's file.
        class_ids: (N,) int64.
        boxes_cxcywh: (N, 4) float64, centre and size relative to the picture, 0 to 1.
    """

    image: Path
    class_ids: npt.NDArray[np.int64]
    boxes_cxcywh: npt.NDArray[np.float64]


def list_images(folder: Path) -> list[Path]:
    """Returns the pictures in `folder`, by name.

    Raises:
        ConfigError: if there is no such folder or no picture in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder {str(folder)!r}: --images wants a folder of pictures")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ConfigError(f"no pictures in {str(folder)!r} (known endings: {', '.join(IMAGE_SUFFIXES)})")
    return images


def read_samples(images: Path, labels: Path, num_classes: int) -> list[Sample]:
    """Pairs every picture in `images` with `labels`/NAME.txt; a picture without one has nothing in it.

    Each line of a label file is ``class cx cy w h``, sizes relative to the picture.

    Raises:
        ConfigError: if a folder is missing, no picture has labels, or a line is wrong (the file and line are named).
    """
    files = list_images(images)
    if not labels.is_dir():
        raise ConfigError(f"no folder {str(labels)!r}: --labels wants a folder of YOLO .txt files")
    if not any((labels / f"{file.stem}.txt").is_file() for file in files):
        raise ConfigError(f"no picture in {str(images)!r} has a label file of its name in {str(labels)!r}")
    return [_read_sample(file, labels / f"{file.stem}.txt", num_classes) for file in files]


def _read_sample(image: Path, label: Path, num_classes: int) -> Sample:
    class_ids: list[int] = []
    boxes: list[list[float]] = []
    lines = label.read_text(encoding="utf-8").splitlines() if label.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            class_id, *box = line.split()
            values = [float(value) for value in box]
            wrong = len(values) != 4 or not all(0 <= value <= 1 for value in values)
            if wrong or not 0 <= int(class_id) < num_classes:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"{label}:{number}: wanted 'class cx cy w h' with class 0 to {num_classes - 1} and sizes 0 to 1, "
                f"got {line.strip()!r}"
            ) from None
        class_ids.append(int(class_id))
        boxes.append(values)
    return Sample(image, np.array(class_ids, np.int64), np.array(boxes, np.float64).reshape(-1, 4))


def read_frame(image: Path, index: int) -> Frame:
    """Reads one picture as a frame.

    Raises:
        SourceError: if it can't be read.
    """
    import cv2

    pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
    if pixels is None:
        raise SourceError(f"can't read the picture {str(image)!r}: it is missing or damaged")
    return Frame(np.asarray(pixels, np.uint8), "images", index, float(index), 0.0, image.name)
