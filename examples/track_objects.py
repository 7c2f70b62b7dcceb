"""Gives each object an id that it keeps, and prints how long each was seen. pip install 'nanodet-streamer[track]'"""

from __future__ import annotations

import sys
from itertools import islice

from streamer import Tracker, open_detector, open_source


def main(uri: str) -> None:
    """Follows the objects of the first frames of a source."""
    tracker = Tracker(conf=0.4)  # the detector reports lower scores too: they continue tracks, and aren't returned
    seen: dict[str, list[float]] = {}
    with open_detector("nanodet-g_416", conf=tracker.lowest_conf) as detector, open_source(uri) as source:
        for frame, found in detector.stream(islice(source, 60)):
            for one in tracker.update(frame, found):
                if one.track_id is not None:
                    seen.setdefault(f"{one.label} #{one.track_id}", []).append(frame.pts_s)
    for name, times_s in seen.items():
        print(f"{name}: from {times_s[0]:.1f} to {times_s[-1]:.1f} s, in {len(times_s)} frames")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample")
