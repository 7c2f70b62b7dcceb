"""Small sets of labelled pictures made on the spot."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BOX = "0 .5 .5 .2 .2\n"


def write_scene(path: Path, seed: int, size_wh: tuple[int, int] = (64, 48), quality: int = 95) -> Path:
    """Writes a picture of soft blotches, which differs from those of other seeds; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    image = cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    done, content = cv2.imencode(path.suffix, image, options)
    assert done
    path.write_bytes(content.tobytes())
    return path


def with_orientation(content: bytes, orientation: int) -> bytes:
    """Returns a JPEG file with an EXIF orientation."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]


def yolo_set(root: Path, splits: Mapping[str, Mapping[str, str | None]], names: Any = ("cat", "dog")) -> Path:
    """Writes pictures, labels and data.yaml in YOLO's layout; returns the data.yaml.

    Args:
        root: the folder.
        splits: by split, the text of the label file of each picture's stem, None for no file.
        names: of the classes.
    """
    seed = 0
    for split, pictures in splits.items():
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for stem, text in pictures.items():
            write_scene(root / "images" / split / f"{stem}.png", seed := seed + 1)
            if text is not None:
                (root / "labels" / split / f"{stem}.txt").write_text(text)
    lines = [f"{split}: images/{split}" for split in splits]
    return write_yaml(root, "\n".join([*lines, f"names: {json.dumps(names)}"]))


def write_yaml(root: Path, text: str) -> Path:
    """Writes a data.yaml; returns its path."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "data.yaml"
    path.write_text(text)
    return path


def voc(name: str, box: tuple[float, float, float, float], *, difficult: int = 0, size: str = "64x48") -> str:
    """Returns a Pascal VOC file of one object; `box` is xmin, ymin, xmax, ymax."""
    width, height = size.split("x")
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size><object><name>{name}</name>"
        f"<difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object></annotation>"
    )


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: Mapping[int, str]) -> str:
    """Returns a COCO file."""
    categories = [{"id": number, "name": name} for number, name in names.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})
