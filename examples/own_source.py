"""A source of your own: frames from any code. Here they are drawn: a box that moves over a grey picture."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from streamer import Frame, Source, SourceInfo, open_detector


class MovingBox(Source):
    """Gives `count` frames of 640x360 at 25 a second."""

    def __init__(self, count: int) -> None:
        self.info = SourceInfo("box", "made by this program", size_wh=(640, 360), fps=25.0, frame_count=count)
        self._count = count

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            picture = np.full((360, 640, 3), 96, np.uint8)  # (H, W, 3), BGR
            picture[120:240, index * 5 : index * 5 + 80] = (40, 40, 220)
            yield Frame(picture, self.info.name, index, index / 25, captured_at_s=time.perf_counter())

    def close(self) -> None:
        """Nothing is open here; a camera's handle would be closed."""


if __name__ == "__main__":
    with open_detector("nanodet-g_416", conf=0.3) as detector, MovingBox(50) as source:
        found = [len(detections) for _, detections in detector.stream(source)]
    print(f"{len(found)} frames, {sum(found)} detections")
