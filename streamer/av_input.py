"""Opening a file or stream to read, with every PyAV."""

from __future__ import annotations

from typing import Any, Protocol

import av
from av.container import InputContainer

# Until PyAV 19 metadata that isn't UTF-8 was an error unless told otherwise; since then it can't be told, and is none.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


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
