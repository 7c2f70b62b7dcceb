"""A camera in ten lines: python examples/camera_in_ten_lines.py rtsp://user:password@camera/1"""

import sys

from streamer import open_detector, open_source

uri = sys.argv[1] if len(sys.argv) > 1 else "sample"
with open_detector("nanodet-g_416") as detector, open_source(uri) as source:
    for frame, found in detector.stream(source):
        for one in found:
            print(f"{frame.pts_s:8.3f} s  {one.label:12} {one.score:.2f}  {[round(side) for side in one.box_xyxy]}")
