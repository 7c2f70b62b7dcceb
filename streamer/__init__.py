"""Real-time NanoDet: frames in from any camera, file or stream; detections out.

>>> from streamer import open_detector, open_source
>>> with open_detector("nanodet-g_416") as detector, open_source("sample") as source:
...     for frame, detections in detector.stream(source):
...         print(frame.index, len(detections))
...         break
0 2

Names are imported on first use, so `import streamer` is quick.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from streamer.common.errors import ConfigError as ConfigError
    from streamer.common.errors import EngineError as EngineError
    from streamer.common.errors import ModelError as ModelError
    from streamer.common.errors import SinkError as SinkError
    from streamer.common.errors import SourceError as SourceError
    from streamer.common.errors import StreamerError as StreamerError
    from streamer.detector import open_detector as open_detector
    from streamer.detector.base import Detector as Detector
    from streamer.frames.detections import Detection as Detection
    from streamer.frames.detections import Detections as Detections
    from streamer.frames.draw import draw as draw
    from streamer.frames.frame import Frame as Frame
    from streamer.runtime.pipeline import Pipeline as Pipeline
    from streamer.runtime.report import RunReport as RunReport
    from streamer.runtime.stream_spec import StreamSpec as StreamSpec
    from streamer.sinks import OutputSpec as OutputSpec
    from streamer.sinks import Sink as Sink
    from streamer.sinks import open_sink as open_sink
    from streamer.sources import Source as Source
    from streamer.sources import SourceInfo as SourceInfo
    from streamer.sources import SourceOptions as SourceOptions
    from streamer.sources import SourceSpec as SourceSpec
    from streamer.sources import open_source as open_source
    from streamer.tracking.tracker import Tracker as Tracker

__version__ = "0.1.0"

_NAMES = {
    "streamer.common.errors": "ConfigError EngineError ModelError SinkError SourceError StreamerError",
    "streamer.detector": "open_detector",
    "streamer.detector.base": "Detector",
    "streamer.frames.detections": "Detection Detections",
    "streamer.frames.draw": "draw",
    "streamer.frames.frame": "Frame",
    "streamer.runtime.pipeline": "Pipeline",
    "streamer.runtime.report": "RunReport",
    "streamer.runtime.stream_spec": "StreamSpec",
    "streamer.sinks": "OutputSpec Sink open_sink",
    "streamer.sources": "Source SourceInfo SourceOptions SourceSpec open_source",
    "streamer.tracking.tracker": "Tracker",
}
_PUBLIC = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use.

    Raises:
        AttributeError: if the package has no such name.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'streamer' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
