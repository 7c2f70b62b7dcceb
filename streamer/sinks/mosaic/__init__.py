"""Several sources in one window or one video."""

import streamer.frames  # noqa: F401 - OpenCV before PyAV
