"""Files for single frames: their names, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamer.common.atomic_file import new_file_beside
from streamer.common.errors import SinkError
from streamer.common.interrupt import cleanup_on_exit
from streamer.frames.frame import Frame
from streamer.sinks.files import reason, safe_name
from streamer.sources.spec import READ_SUFFIXES


def picture_name(frame: Frame) -> str | None:
    """Returns the file name of the picture that a frame is, None where it is one of a video or of an animation."""
    is_picture = frame.name is not None and Path(frame.name).suffix.lower() in READ_SUFFIXES
    return frame.name if is_picture else None


class FrameNames:
    """A name for each frame of an output, without suffix: its picture's own, else ``frame_000123`` by its index.

    That is what CVAT calls the frames of a video; those of a folder of videos begin with the file's name. Where two
    pictures have one name, the later one gets its index too; after `max_names` pictures each does, so that memory stays
    bounded.
    """

    def __init__(self, max_names: int = 100_000) -> None:
        """Has named nothing yet."""
        self._names: set[str] = set()
        self._max_names = max_names

    def name(self, frame: Frame) -> str:
        """Returns a name that no other frame has."""
        if frame.name is None:
            return f"frame_{frame.index:06d}"
        name = Path(frame.name).stem.encode(errors="backslashreplace").decode().replace("\\", "_")
        if picture_name(frame) is None:
            return f"{name}_{frame.index:06d}"
        is_full = len(self._names) >= self._max_names
        while is_full or name in self._names:
            is_full = False
            name = f"{name}_{frame.index:06d}"
        if len(self._names) < self._max_names:
            self._names.add(name)
        return name


def class_folders(labels: Sequence[str]) -> tuple[str, ...]:
    """Returns a folder's name for each class, all different also where upper and lower case count as one."""
    names: list[str] = []
    for class_id, label in enumerate(labels):
        name = safe_name(label)
        if name.casefold() in (other.casefold() for other in names):
            name = f"{name}_{class_id}"
        names.append(name)
    return tuple(names)


def write_file(path: Path, content: bytes, *, what: str = "files") -> None:
    """Writes a file atomically; a link is replaced, not the file that it leads to.

    Raises:
        SinkError: if it can't be written; what was there before stays. `what` names the files in the message.
    """
    try:
        partial = new_file_beside(path)
        with cleanup_on_exit(partial.unlink):
            try:
                partial.write_bytes(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"can't write {path}: {reason(error)}; the {what} before are complete") from error


def encode_picture(image: npt.NDArray[np.uint8], path: Path) -> bytes:
    """Returns a picture in the format that `path` ends in; raises SinkError if that can't hold it.

    `image` is (H, W, 3) uint8 BGR.
    """
    try:
        encoded, content = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise SinkError(f"can't write {path}: {reason(error)}; the pictures before are complete") from error
    if not encoded:
        raise SinkError(f"can't encode {path}; give the source's picture another format")
    return content.tobytes()
