"""A camera in ten lines: python examples/camera_in_ten_lines.py rtsp://user:password@camera/1"""

import sys

from streamer import open_detector, open_source

uri = sys.argv[1] if len(sys.argv) > 1 else "sample"
with open_detector("nanodet-g_416") as detector, open_source(uri) as source:
    for frame, found in detector.stream(source):
        for box, score, class_id in zip(found.boxes_xyxy, found.scores, found.class_ids, strict=True):
            print(f"{frame.pts_s:8.3f} s  {detector.labels[class_id]:12} {score:.2f}  {box.round().tolist()}")
