"""Picture files: one, a folder of them, or a pattern."""

from __future__ import annotations

import glob
import mimetypes
import os
import re
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame, HostPixels
from streamer.sources.base import SourceInfo
from streamer.sources.image_decoding import read_gif, read_image
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.prefetched import PrefetchedSource
from streamer.sources.spec import READ_SUFFIXES, SourceKind, SourceSpec

SECONDS_PER_IMAGE = 1.0
GIF_SUFFIX = ".gif"
_TAKEN = (*READ_SUFFIXES, GIF_SUFFIX)
_TYPES = mimetypes.MimeTypes()  # Python's own list; the systems' differ
_UNREAD_PICTURES = (
    *(".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".tga", ".exr", ".hdr", ".pfm", ".dds", ".xcf", ".dcm", ".raw", ".dng"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
_FIXES = {"image": "convert them to JPEG or PNG", "video": "give each as a source of its own"}


class ImageFilesSource(PrefetchedSource):
    """Frames from picture files in natural order of their names (2.jpg before 10.jpg), as BGR.

    Subfolders and names that start with a dot are ignored. EXIF orientation is applied, transparency dropped; a GIF
    gives all its pictures. `pts_s` advances by `SECONDS_PER_IMAGE`, `name` is the file's name. `skipped` lists files
    that can't be read, and the number of a folder's pictures and videos of each other kind.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions = DEFAULT_OPTIONS) -> None:
        """Lists the pictures and reads the first one that can be decoded.

        Raises:
            SourceError: if there is none, or none that can be read.
        """
        self._spec, self._name, self._max_pixels = spec, spec.name, options.max_pixels
        self._paths, self._skipped = _list(spec)
        self._pictures = self._read_all()
        self._count = 0
        self._prefetch()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of files that couldn't be read, each with the reason."""
        return tuple(self._skipped)

    def _read_first(self) -> Frame:
        frame = self._read()
        if frame is None:
            names = ", ".join(self._skipped[:3]) + (", ..." if len(self._skipped) > 3 else "")
            raise SourceError(
                f"source {str(self._spec)!r} has no picture that can be read: {names}; replace or convert them"
            )
        alone = len(self._paths) == 1
        has_gif = any(path.suffix.lower() == GIF_SUFFIX for path in self._paths)
        self.info = SourceInfo(
            name=self._name,
            uri=str(self._spec),
            size_wh=frame.size_wh if alone else None,
            frame_count=None if has_gif else len(self._paths),
            duration_s=None if has_gif else len(self._paths) * SECONDS_PER_IMAGE,
            path=None if self._spec.kind is SourceKind.PATTERN else self._spec.path,
            pattern=self._spec.path if self._spec.kind is SourceKind.PATTERN else None,
        )
        return frame

    def _read(self) -> Frame | None:
        found = next(self._pictures, None)
        if found is None:
            return None
        path, pixels = found
        index, self._count = self._count, self._count + 1
        return Frame(pixels, self._name, index, index * SECONDS_PER_IMAGE, time.perf_counter(), path.name)

    def _release(self) -> None:
        self._pictures.close()

    def _read_all(self) -> Generator[tuple[Path, HostPixels]]:
        """Yields each picture with its file; notes files that can't be read."""
        for path in self._paths:
            try:
                if path.suffix.lower() == GIF_SUFFIX:
                    for pixels in read_gif(path, self._max_pixels):
                        yield path, pixels
                else:
                    yield path, read_image(path, self._max_pixels)
            except SourceError as error:
                self._skipped.append(f"{path.name} ({error})")


def _list(spec: SourceSpec) -> tuple[list[Path], list[str]]:
    """Returns the pictures' paths in order, and a phrase for each other kind of picture or video."""
    path, shown = spec.path, str(spec)
    assert path is not None
    try:
        if spec.kind is SourceKind.PATTERN:
            found = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - any start, any depth
            wanted = f"no picture matches {shown!r}"
        elif path.is_dir():
            found = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
            wanted = f"the folder {shown!r} holds no picture"
        else:
            return [path], []
        paths = [entry for entry in found if entry.suffix.lower() in _TAKEN and entry.is_file()]
        others = _describe_others(found)
    except OSError as error:
        raise SourceError(f"source {shown!r} can't be listed: {error.strerror}; check its permissions") from error
    if not paths:
        count = f" ({len(found)} other entries)" if found else ""
        kinds = f": {', '.join(others)}" if others else ""
        raise SourceError(f"{wanted}{count}{kinds}; files that end in {' '.join(_TAKEN)} are taken")
    return sorted(paths, key=_natural), others


def _describe_others(found: Sequence[Path]) -> list[str]:
    """Returns a phrase with the number of files of each kind of picture or video that isn't read from a folder."""
    counts = Counter(path.suffix.lower() for path in found if path.suffix.lower() not in _TAKEN and path.is_file())
    phrases = []
    for suffix, count in sorted(counts.items()):
        kind = (_TYPES.guess_type(f"a{suffix}")[0] or "").partition("/")[0]
        if kind in _FIXES or suffix in _UNREAD_PICTURES:
            files = f"{count} {suffix} file{'s' * (count > 1)}"
            phrases.append(f"{files} ({_FIXES.get(kind, _FIXES['image'])})")
    return phrases


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", str(path).casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], os.fspath(path)
