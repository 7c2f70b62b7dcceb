"""Objects in one picture, and the picture with boxes: python examples/one_picture.py photo.jpg boxes.jpg"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

import cv2

from streamer import draw, open_detector, open_source


def main(picture: str | None, output: str) -> None:
    """Detects in a picture file, or in the first frame of the packaged clip."""
    if picture is None:
        with open_source("sample") as source:
            image = next(iter(source)).image
    else:
        image = cv2.imread(picture)  # (H, W, 3) uint8, BGR
        if image is None:
            sys.exit(f"can't read {picture}")
    with open_detector("nanodet-g_416") as detector:
        found = detector.detect(image)
    for one in found:
        print(f"{one.label:12} {one.score:.2f}", [round(side) for side in one.box_xyxy])
    large = found.filter(classes=["person", "cup"], min_score=0.5, min_area=32 * 32)
    cv2.imwrite(output, draw(image, large))
    print(len(large), "of", len(found), "drawn in", output)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else None, given[1] if len(given) > 1 else str(Path(mkdtemp()) / "boxes.jpg"))
