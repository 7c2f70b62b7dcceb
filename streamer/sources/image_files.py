"""Picture and video files: one picture, a folder, or a pattern."""

from __future__ import annotations

import glob
import mimetypes
import os
import re
import time
from collections import Counter
from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame, Pixels
from streamer.sources.base import SourceInfo
from streamer.sources.image_decoding import read_gif, read_image
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.prefetched import PrefetchedSource
from streamer.sources.spec import (
    GIF_SUFFIX,
    READ_SUFFIXES,
    VIDEO_SUFFIXES,
    SecretUri,
    SourceKind,
    SourceSpec,
    is_taken,
)

SECONDS_PER_IMAGE = 1.0
_NOMINAL_FPS = 25.0
_TYPES = mimetypes.MimeTypes()  # Python's own list; the systems' differ
_UNREAD_PICTURES = (
    *(".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".tga", ".exr", ".hdr", ".pfm", ".dds", ".xcf", ".dcm", ".raw", ".dng"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
_FIXES = {"image": "convert them to JPEG or PNG", "video": "give each as a source of its own"}


class _Picture(NamedTuple):
    """A picture file's content or a video's frame.

    Attributes:
        pixels: as of a `Frame`.
        name: of the frame.
        pixel_aspect: of a video's frame; 1 for a picture file.
        pts_s: since the start of the file.
        lasts_s: until the next.
    """

    pixels: Pixels
    name: str
    pixel_aspect: Fraction = Fraction(1)
    pts_s: float = 0.0
    lasts_s: float = SECONDS_PER_IMAGE


class ImageFilesSource(PrefetchedSource):
    """Frames from picture and video files in natural order of their names (2.jpg before 10.jpg), one after another.

    Subfolders and names that start with a dot are ignored. EXIF orientation is applied, transparency dropped; a GIF
    gives all its pictures. A picture lasts `SECONDS_PER_IMAGE` in `pts_s`, a video as long as it is. `name` is the
    picture file's name, and of a video's frame one for a picture of it: ``clip_000123.jpg`` by its number in the video.
    `skipped` lists files that can't be read, and the number of a folder's pictures of each other kind.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions = DEFAULT_OPTIONS) -> None:
        """Lists the files and reads the first frame that can be decoded.

        Raises:
            SourceError: if there is none, or none that can be read.
        """
        self._spec, self._name, self._options = spec, spec.name, options
        self._paths, self._skipped = _list(spec)
        self._pictures = self._read_all()
        self._count = 0
        self._file_began_s = self._next_s = 0.0
        self._fps: float | None = None
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
        is_counted = all(_is_one_picture(path) for path in self._paths)
        self.info = SourceInfo(
            name=self._name,
            uri=str(self._spec),
            size_wh=frame.size_wh if alone else None,
            fps=self._fps,
            frame_count=len(self._paths) if is_counted else None,
            duration_s=len(self._paths) * SECONDS_PER_IMAGE if is_counted else None,
            path=None if self._spec.kind is SourceKind.PATTERN else self._spec.path,
            pattern=self._spec.path if self._spec.kind is SourceKind.PATTERN else None,
            files=self._spec.files,
            pixel_aspect=frame.pixel_aspect,
        )
        return frame

    def _read(self) -> Frame | None:
        found = next(self._pictures, None)
        if found is None:
            return None
        index, self._count = self._count, self._count + 1
        pts_s = self._file_began_s + found.pts_s
        self._next_s = pts_s + found.lasts_s
        return Frame(
            found.pixels, self._name, index, pts_s, time.perf_counter(), found.name, pixel_aspect=found.pixel_aspect
        )

    def _release(self) -> None:
        self._pictures.close()

    def _read_all(self) -> Generator[_Picture]:
        """Yields each picture and each frame of a video; notes files that can't be read."""
        for path in self._paths:
            self._file_began_s = self._next_s
            try:
                yield from self._read_file(path)
            except SourceError as error:
                self._skipped.append(f"{path.name} ({error})")

    def _read_file(self, path: Path) -> Generator[_Picture]:
        suffix, max_pixels = path.suffix.lower(), self._options.max_pixels
        if suffix == GIF_SUFFIX:
            for number, pixels in enumerate(read_gif(path, max_pixels)):
                yield _Picture(pixels, path.name, pts_s=number * SECONDS_PER_IMAGE)
        elif suffix in VIDEO_SUFFIXES:
            yield from self._read_video(path)
        else:
            yield _Picture(read_image(path, max_pixels), path.name)

    def _read_video(self, path: Path) -> Generator[_Picture]:
        from streamer.sources.video import VideoSource

        spec = SourceSpec(path.stem, SecretUri(str(path), str(path)), SourceKind.VIDEO)
        with VideoSource(spec, self._options) as video:
            fps = video.info.fps or _NOMINAL_FPS
            if not self._count:
                self._fps = fps
            for frame in video:
                name = f"{path.stem}_{frame.index:06d}.jpg"
                yield _Picture(frame.pixels, name, frame.pixel_aspect, frame.pts_s, 1 / fps)
            self._skipped += [f"{phrase} of {path.name}" for phrase in video.skipped]


def _is_one_picture(path: Path) -> bool:
    return path.suffix.lower() in READ_SUFFIXES


def _list(spec: SourceSpec) -> tuple[list[Path], list[str]]:
    """Returns the files' paths in order, and a phrase for each other kind of picture."""
    if spec.files:
        return list(spec.files), []
    path, shown = spec.path, str(spec)
    assert path is not None
    try:
        if spec.kind is SourceKind.PATTERN:
            found = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - any start, any depth
            wanted = f"no picture or video matches {shown!r}"
        elif path.is_dir():
            found = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
            wanted = f"the folder {shown!r} holds no picture or video"
        else:
            return [path], []
        paths = [entry for entry in found if is_taken(entry) and entry.is_file()]
        others = _describe_others(found)
    except OSError as error:
        raise SourceError(f"source {shown!r} can't be listed: {error.strerror}; check its permissions") from error
    if not paths:
        count = f" ({len(found)} other {'entry' if len(found) == 1 else 'entries'})" if found else ""
        kinds = f": {', '.join(others)}" if others else ""
        raise SourceError(
            f"{wanted}{count}{kinds}; files that end in {' '.join((*READ_SUFFIXES, GIF_SUFFIX))} are taken, and videos"
            f" ({' '.join(VIDEO_SUFFIXES[:4])} ...)"
        )
    return sorted(paths, key=_natural), others


def _describe_others(found: Sequence[Path]) -> list[str]:
    """Returns a phrase with the number of files of each kind of picture or video that isn't read."""
    counts = Counter(path.suffix.lower() for path in found if not is_taken(path) and path.is_file())
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
