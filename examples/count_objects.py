"""How many objects of each class are in view, second by second: python examples/count_objects.py clip.mp4"""

from __future__ import annotations

import sys
from collections import Counter

from streamer import open_detector, open_source


def main(uri: str) -> None:
    """Prints the largest count of each class that one frame of each second holds."""
    most: Counter[str] = Counter()
    second = 0
    with open_detector("nanodet-g_416", conf=0.5) as detector, open_source(uri) as source:
        for frame, found in detector.stream(source):
            while frame.pts_s >= second + 1:
                print(f"{second:4} s", dict(most))
                most, second = Counter(), second + 1
            most |= Counter(one.label for one in found)
    print(f"{second:4} s", dict(most))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample")
