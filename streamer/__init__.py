"""Real-time NanoDet: frames in from any camera, file or stream; detections out.

from streamer import open_detector, open_source

with open_detector("nanodet-g_416") as detector, open_source("rtsp://camera/1") as source:
    for frame, detections in detector.stream(source):
        ...
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from streamer.detector import open_detector as open_detector
    from streamer.frames.detections import Detections as Detections
    from streamer.frames.frame import Frame as Frame
    from streamer.sinks import open_sink as open_sink
    from streamer.sources import open_source as open_source

__version__ = "0.1.0"

_PUBLIC = {
    "Detections": "streamer.frames.detections",
    "Frame": "streamer.frames.frame",
    "open_detector": "streamer.detector",
    "open_sink": "streamer.sinks",
    "open_source": "streamer.sources",
}
__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import streamer` stays quick."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'streamer' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
