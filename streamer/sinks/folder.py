"""What outputs that are folders share."""

from __future__ import annotations

from pathlib import Path

from streamer.sinks.base import Sink
from streamer.sinks.paths import OutputPaths


class FolderSink(Sink):
    """Claims a folder for this run, makes it if there is none, and frees it at the end; a base class."""

    def __init__(self, folder: Path, paths: OutputPaths | None) -> None:
        """Claims the folder; `paths` None is a run of its own.

        Raises:
            ConfigError: if another run is writing there.
            SinkError: if the folder can't be made or written into.
        """
        self._claim = (paths or OutputPaths()).claim_folder(folder)
        self._folder = self._claim.path
        self._has_written = False

    def close(self) -> None:
        self._claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The folder, once a file of a frame is in it."""
        return (self._folder,) if self._has_written else ()
