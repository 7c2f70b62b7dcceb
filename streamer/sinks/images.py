"""Annotated pictures: one file a frame, or one for a source that is one picture."""

from __future__ import annotations

import logging
from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.scaling import resized
from streamer.sinks.base import LiveFigures, Sink
from streamer.sinks.files import is_special, safe_name
from streamer.sinks.folder import FolderSink
from streamer.sinks.frame_files import encode_picture, write_file
from streamer.sinks.paths import OutputPaths
from streamer.sources.spec import PICTURE_SUFFIXES

log = logging.getLogger(__name__)


class ImagesSink(FolderSink):
    """Writes each frame as a picture into a folder: under its own name if it came from a picture file.

    Other frames are named after their index: ``SOURCE_000123.jpg``. Files are written atomically. Pictures with
    non-square pixels are scaled to their true shape.
    """

    live_figures = LiveFigures.NEVER

    def __init__(self, folder: Path, *, paths: OutputPaths | None = None, max_names: int = 100_000) -> None:
        """Makes the folder if there is none.

        After `max_names` pictures, names always include the index, so that memory stays bounded.

        Raises:
            ConfigError: if another run is writing pictures there.
            SinkError: if the folder can't be made or written into.
        """
        super().__init__(folder, paths)
        self._names: set[str] = set()
        self._max_names = max_names
        self._has_warned = False

    def write(self, frame: Frame, detections: Detections) -> None:
        path = self._folder / self._name(frame)
        if path.exists() and not self._has_warned:
            self._has_warned = True
            log.info("replacing pictures in %s, the first is %s", self._folder, path.name)
        write_file(path, encode_picture(resized(frame, frame.shown_wh), path), what="pictures")
        self._has_written = True

    @property
    def remembered_names(self) -> int:
        """How many names of pictures are remembered."""
        return len(self._names)

    def _name(self, frame: Frame) -> str:
        """Returns a file name that this run hasn't used.

        Indices are unique, so a name that ends in one is new unless a picture had that very name: the pictures' own
        names are remembered, up to `max_names`.
        """
        if frame.name is None:
            return f"{safe_name(frame.source)}_{frame.index:06d}.jpg"
        own = Path(frame.name)
        name = own.name if own.suffix.lower() in PICTURE_SUFFIXES else f"{own.name}.jpg"
        is_full = len(self._names) >= self._max_names
        while is_full or name in self._names:  # pictures of the same name from several folders
            is_full = False
            name = f"{Path(name).stem}_{frame.index:06d}{Path(name).suffix}"
        if len(self._names) < self._max_names:
            self._names.add(name)
        return name


class PictureSink(Sink):
    """Writes the one annotated picture of a source to a file, atomically; pixels become square."""

    live_figures = LiveFigures.NEVER

    def __init__(self, path: Path, *, paths: OutputPaths | None = None) -> None:
        """Checks that `path` can be written; its suffix is one of `PICTURE_SUFFIXES`.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written, or is a pipe or a device.
        """
        if is_special(path):
            raise SinkError(
                f"can't write {path}: a picture needs a file, not a pipe or a device; choose another output"
            )
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._has_written = False

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._has_written:
            raise SinkError(f"{self._path} has the first picture of {frame.source!r}, which gives more: use folder/")
        write_file(self._path, encode_picture(resized(frame, frame.shown_wh), self._path))
        self._has_written = True

    def close(self) -> None:
        self._claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file, once there is a picture."""
        return (self._path,) if self._has_written else ()
