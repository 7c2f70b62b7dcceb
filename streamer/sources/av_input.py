"""Opening a file or stream to read, with every PyAV."""

from __future__ import annotations

from typing import Any, Protocol

import av
from av.container import InputContainer

# Until PyAV 19 metadata that isn't UTF-8 was an error unless told otherwise; since then it can't be told, and is none.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


RAW_CLOCK = {"correct_ts_overflow": "0"}
"""Options for files: an MPEG-TS clock that goes back is what it says, rather than 26.5 hours added to it.

FFmpeg takes each step back for a clock that has run over. A file joined of two recordings then has a day between them.
"""


class Readable(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end."""


def open_input(target: str | Readable, **options: Any) -> InputContainer:
    """Returns what `av.open` opens; metadata in whatever encoding is no obstacle.

    Raises:
        av.FFmpegError: if it can't be opened.
    """
    return av.open(target, **options, **_LENIENT)
