"""Picture files: one, a folder of them, or a pattern."""

from __future__ import annotations

import glob
import os
import re
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamer.errors import SourceError
from streamer.frame import Frame
from streamer.redaction import redact
from streamer.sources.base import SourceInfo
from streamer.sources.diagnosis import why_unreadable
from streamer.sources.guarded import GuardedSource
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.quiet import quiet_opencv
from streamer.sources.uri import PICTURE_SUFFIXES, is_pattern, local_path

SECONDS_A_PICTURE = 1.0


class PicturesSource(GuardedSource):
    """Frames from picture files in natural order of their names (2.jpg before 10.jpg), as BGR.

    A folder gives its own pictures, not those of folders in it; names that begin with a dot are left out. EXIF
    orientation is applied, transparency dropped. `pts_s` counts `SECONDS_A_PICTURE` for each, `name` is the file's
    name. Files that can't be read are passed over and named in `skipped`.
    """

    def __init__(self, uri: str, *, name: str, options: SourceOptions = DEFAULT_OPTIONS) -> None:
        """Lists the pictures of `uri` and reads the first good one; `options` holds nothing for pictures.

        Raises:
            SourceError: if there is none, or none that can be read.
        """
        quiet_opencv()
        self._uri, self._name = uri, name
        self._paths = _list(uri)
        self._next_path = 0
        self._count = 0
        self._skipped: list[str] = []
        self._begin()

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of files that couldn't be read, each with the reason."""
        return tuple(self._skipped)

    def _read_first(self) -> Frame:
        frame = self._read()
        if frame is None:
            names = ", ".join(self._skipped[:3]) + (", ..." if len(self._skipped) > 3 else "")
            raise SourceError(f"source {self._uri!r} has no picture that can be read: {names}; replace or convert them")
        alone = len(self._paths) == 1
        self.info = SourceInfo(
            name=self._name,
            uri=self._uri,
            size_wh=frame.size_wh if alone else None,
            frame_count=len(self._paths),
            duration_s=len(self._paths) * SECONDS_A_PICTURE,
            path=local_path(self._uri) if not is_pattern(self._uri) else None,
        )
        return frame

    def _read(self) -> Frame | None:
        while self._next_path < len(self._paths):
            path = self._paths[self._next_path]
            self._next_path += 1
            image = self._decode(path)
            if image is not None:
                index, self._count = self._count, self._count + 1
                pts_s = index * SECONDS_A_PICTURE
                return Frame(image, self._name, index, pts_s, time.perf_counter(), path.name)
        return None

    def _release(self) -> None:
        self._next_path = len(self._paths)

    def _decode(self, path: Path) -> npt.NDArray[np.uint8] | None:
        try:
            content = path.read_bytes()  # not cv2.imread: it can't open every name, and it talks
            problem = why_unreadable(content)
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if problem is None else None
        except OSError as error:
            image, problem = None, error.strerror
        except (cv2.error, MemoryError):
            image = None
        if image is None:
            self._skipped.append(f"{path.name} ({problem or 'damaged, or no picture'})")
            return None
        return np.asarray(image, np.uint8)


def _list(uri: str) -> list[Path]:
    path = local_path(uri)
    try:
        if is_pattern(uri):
            found = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - any start, any depth
            wanted = f"no picture matches {redact(uri)!r}"
        elif path.is_dir():
            found = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
            wanted = f"the folder {redact(uri)!r} holds no picture"
        else:
            return [path]
        paths = [entry for entry in found if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
    except OSError as error:
        raise SourceError(f"source {redact(uri)!r} can't be listed: {error.strerror}; check its permissions") from error
    if not paths:
        others = f" ({len(found)} other entries)" if found else ""
        raise SourceError(f"{wanted}{others}; files that end in {' '.join(PICTURE_SUFFIXES)} are taken")
    return sorted(paths, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", str(path).casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], os.fspath(path)
