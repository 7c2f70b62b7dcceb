"""Detections in supervision: filters, trackers, zones and annotators. pip install supervision"""

from __future__ import annotations

import sys
from itertools import islice

import numpy as np
import supervision as sv

from streamer import open_detector, open_source


def main(uri: str) -> None:
    """Counts objects that are inside the left half of the picture, frame by frame."""
    with open_detector("nanodet-g_416") as detector, open_source(uri) as source:
        for frame, found in detector.stream(islice(source, 60)):
            detections = found.to_supervision()
            width, height = frame.size_wh
            corners = [(0, 0), (width // 2, 0), (width // 2, height), (0, height)]
            zone = sv.PolygonZone(polygon=np.array(corners))
            inside = detections[zone.trigger(detections)]
            print(f"{frame.index:4}: {len(inside)} of {len(detections)} in the left half")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample")
