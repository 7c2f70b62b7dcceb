"""Makes the pictures of docs/examples.md from the packaged clip: python -m tools.make_gallery"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2

from streamer import Detections, draw, open_detector, open_sink, open_source
from streamer.app.cli import main as program
from streamer.common.terminal import complain
from streamer.frames.scaling import Image

FOLDER = Path(__file__).parent.parent / "docs" / "images"
_QUALITY = 80
_SECTIONS_S = {
    "portrait": 0.0,
    "coffee": 2.6,
    "cat": 5.4,
    "photographer": 7.8,
}  # what the camera that pans over the pictures shows


def _write(name: str, picture: Image, width: int = 960) -> None:
    small = cv2.resize(
        picture, (width, round(picture.shape[0] * width / picture.shape[1])), interpolation=cv2.INTER_AREA
    )
    path = FOLDER / f"{name}.jpg"
    cv2.imwrite(str(path), small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    print(path.name, path.stat().st_size // 1000, "kB")


def _frame_of(path: Path, number: int) -> Image:
    with open_source(str(path)) as source:
        return next(islice(source, number, None)).image


def _sections(folder: Path) -> list[str]:
    """Writes a clip of each section; returns them as sources."""
    for name, begin_s in _SECTIONS_S.items():
        with open_source("sample") as source, open_sink(f"{folder}/{name}.mp4", source.info, labels=()) as sink:
            for frame in source:
                if begin_s <= frame.pts_s < begin_s + 2.0:
                    sink.write(replace(frame, pts_s=frame.pts_s - begin_s), Detections.empty())
    return [f"{name}={folder}/{name}.mp4" for name in _SECTIONS_S]


def main() -> int:
    """Writes the pictures; returns the exit status."""
    folder = Path(tempfile.mkdtemp())
    with open_source("sample") as source, open_detector() as detector:
        frame = next(islice(source, 15, None))
        _write("one_picture", draw(frame, detector.detect(frame)))
    recording, wall = folder / "recording.mp4", folder / "wall.mp4"
    common = ["--no-progress", "--quiet", "--quality", "95"]
    status = program(["sample", "--timestamp", "utc", "--max-frames", "100", "--output", str(recording), *common])
    status = status or program([*_sections(folder), "--max-frames", "45", "--output", str(wall), *common])
    if status:
        complain("the program failed")
        return status
    _write("recording", _frame_of(recording, 95))
    _write("four_clips", _frame_of(wall, 20), 1120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
