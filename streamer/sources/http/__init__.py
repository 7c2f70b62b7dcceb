"""Cameras that give JPEG pictures over HTTP: endless multipart answers, and URLs of a single picture that are polled.

FFmpeg reads all other things over HTTP. Its own demuxer for multipart answers refuses what browsers read (other types
than exactly ``image/jpeg``, and parts without a boundary before the first) and keeps a part of any size in memory.
"""

import streamer.frames  # noqa: F401 - OpenCV before PyAV
