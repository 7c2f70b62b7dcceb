"""Pictures and what is found in them: pixels, YUV planes, detections, drawing."""
