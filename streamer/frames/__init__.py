"""Pictures and what is found in them: pixels, YUV planes, detections, drawing.

OpenCV is imported before PyAV: both wheels carry libxcb, and with PyAV's loaded first `cv2.namedWindow` never returns.
"""

import cv2  # noqa: F401
