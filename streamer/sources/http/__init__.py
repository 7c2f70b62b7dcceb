"""Cameras that send JPEG pictures over HTTP: endless multipart responses, and URLs of a single picture that are polled.

FFmpeg reads everything else. Its demuxer for multipart responses refuses what browsers accept (types other than exactly
``image/jpeg``, and parts without a boundary before the first) and keeps a part of any size in memory.
"""

import streamer.frames  # noqa: F401 - OpenCV before PyAV
