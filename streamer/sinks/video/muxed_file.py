"""What all video files that PyAV muxes share: where they go, and what follows a failed write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from streamer.sinks.base import WriteError
from streamer.sinks.files import behind_link, reason
from streamer.sinks.video.audio_remuxer import AudioFormatError
from streamer.sinks.video.transactional_file import TransactionalFile

# FFmpeg's muxer for each suffix, and its options. Each second what is written reaches the file in a form that plays
# without its end: a killed run loses less than two seconds. Closing turns MP4 into an ordinary, unfragmented file.
_EACH_SECOND = {"flush_packets": "1", "max_interleave_delta": "500000"}
_FRAGMENTS = {"movflags": "+hybrid_fragmented+delay_moov", "frag_duration": "1000000", **_EACH_SECOND}
MUXERS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("mp4", _FRAGMENTS),
    ".mov": ("mov", _FRAGMENTS),
    ".mkv": ("matroska", {"cluster_time_limit": "1000", **_EACH_SECOND}),
    ".webm": ("webm", {"cluster_time_limit": "1000", **_EACH_SECOND}),
    ".avi": ("avi", _EACH_SECOND),
    ".ts": ("mpegts", _EACH_SECOND),
}
AUDIO_ERRORS = (AudioFormatError, av.FFmpegError, ValueError)
"""Of sound that can't be written; PyAV raises ValueError for some of them."""


class MuxedFile:
    """A video file while it is written.

    After an error it is closed: it holds what was written before, or is deleted if that can't be played.

    Attributes:
        path: the file.
        is_kept: False once the file is deleted.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        """Makes an empty file.

        Args:
            path: its suffix is a key of `MUXERS`.
            replace: whether an existing file is replaced; else FileExistsError is raised.

        Raises:
            WriteError: if it can't be written.
        """
        self.path = path
        self.is_kept = True
        self._is_playable = self._is_closed = False
        try:
            self._file = TransactionalFile(path, replace=replace)
        except FileExistsError:
            raise
        except OSError as error:
            raise WriteError(f"can't write {path}: {reason(error)}; nothing was kept") from error

    @property
    def is_playable(self) -> bool:
        """Whether what has been written so far can be played."""
        return self._is_playable

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        """Rolls the file back and closes it if anything fails."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise self._fail(error) from error
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> WriteError:
        self._is_closed = True
        self._file.rollback()
        cause = self._file.error or error
        if self._is_playable:
            return WriteError(f"{self.path} broke off: {reason(cause)}; what it holds can be played")
        self.is_kept = False
        behind_link(self.path).unlink(missing_ok=True)
        return WriteError(f"can't write {self.path}: {reason(cause)}; nothing was kept")
