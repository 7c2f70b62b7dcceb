"""Opening a file or stream to read, with every PyAV."""

from __future__ import annotations

import gc
import time
from typing import Any, Protocol

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
from av.container import InputContainer

PYAV_MAJOR = int(av.__version__.partition(".")[0])

# Before PyAV 19, metadata that isn't UTF-8 is an error without this option; since then there is no such option.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if PYAV_MAJOR < 19 else {}

_COLLECT_INTERVAL_S = 10.0
_collected_s = float("-inf")

RAW_CLOCK = {"correct_ts_overflow": "0"}
"""Options for files: takes an MPEG-TS clock that goes back as it is.

FFmpeg takes each step back for an overflow and adds 26.5 hours: a file joined of two recordings has a day in between.
"""


class Readable(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end."""


def open_input(target: str | Readable, **options: Any) -> InputContainer:
    """Returns `av.open(target, **options)`; tolerates metadata that is not UTF-8.

    Raises:
        av.FFmpegError: if it can't be opened.
    """
    return av.open(target, **options, **_LENIENT)


def collect_cycles() -> None:
    """Frees closed connections, which PyAV before 19 keeps in reference cycles: see docs/reliability.md.

    It holds the GIL for some 18 ms, so it runs once in 10 s at most.
    """
    global _collected_s
    now_s = time.monotonic()
    if now_s - _collected_s > _COLLECT_INTERVAL_S:
        _collected_s = now_s
        gc.collect()
