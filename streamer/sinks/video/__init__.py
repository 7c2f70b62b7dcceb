"""Video files: encoding, sound, segments."""

import streamer.frames  # noqa: F401 - OpenCV before PyAV
