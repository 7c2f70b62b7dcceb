"""An output as it is written, parsed once: ``out.mp4``, ``{source}.jsonl``, ``folder/``, ``window`` to `OutputSpec`.

What a file or folder is made for is said by its ending, ``out.coco.json`` and ``out.yolo/`` included: a prefix such as
``coco:`` would look like a URI's scheme or a drive, and shells neither complete a path behind it nor expand its ``~``.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path

from streamer.common.errors import ConfigError, nearest, short
from streamer.common.redaction import redact
from streamer.sinks.files import is_special, safe_name, split_ending
from streamer.sinks.page_address import PAGE_SCHEMES, PageAddress
from streamer.sources.spec import PICTURE_SUFFIXES

VIDEO_ENDINGS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".ts")
RECORD_ENDINGS = (".mp4", ".mkv", ".mov")
"""Of recordings of a source's own packets."""

_SOURCE = "{source}"


class OutputKind(enum.Enum):
    """What writes an output."""

    WINDOW = "window"
    NULL = "null"
    STDOUT = "-"
    VIDEO = "video"
    GIF = "gif"
    PICTURE = "picture"
    LINES = "lines"
    CSV = "csv"
    COCO = "coco"
    PICTURES = "pictures"
    YOLO = "yolo"
    CROPS = "crops"
    PAGE = "page"


_FILES = {
    **dict.fromkeys(VIDEO_ENDINGS, OutputKind.VIDEO),
    ".gif": OutputKind.GIF,
    ".jsonl": OutputKind.LINES,
    ".csv": OutputKind.CSV,
    ".coco.json": OutputKind.COCO,
    **dict.fromkeys(PICTURE_SUFFIXES, OutputKind.PICTURE),
}
_FOLDERS = {".yolo": OutputKind.YOLO, ".crops": OutputKind.CROPS}
_KNOWN = (
    "window, null, http://HOST:PORT for a live page, - for JSON lines on standard output, a file ending in "
    f"{', '.join(_FILES)}, folder/ for pictures, out.yolo/ for labels, or out.crops/ for what is in the boxes"
)
OUTPUT_KINDS = {
    "window": "live window",
    "http://HOST:PORT": "live page of all sources, for browsers (pip install 'nanodet-streamer[web]')",
    ", ".join(VIDEO_ENDINGS): "video at the source's size and time stamps",
    ".gif": "animation, at most 640 pixels wide or high",
    ".jpg, .png, ...": "the annotated picture of a source that is one picture",
    ".jsonl": "JSON lines, one a frame",
    ".csv": "a table, one row a detection",
    ".coco.json": "COCO: images, categories, and detections as annotations with a score",
    "folder/": "annotated pictures, one a frame",
    "NAME.yolo/": "YOLO labels, one .txt a frame, and a data.yaml",
    "NAME.crops/": "what is in each box, a folder for each class",
    "-": "JSON lines of all sources on standard output",
    "null": "nothing, for measuring",
}
"""What can be written, for people: how it is named, and what it is."""


_WORDS = (OutputKind.WINDOW, OutputKind.NULL, OutputKind.STDOUT)
_WITHOUT_PATH = (*_WORDS, OutputKind.PAGE)


@dataclass(frozen=True)
class OutputSpec:
    """An output that can be opened for each source. Two are equal if they are written alike.

    Attributes:
        template: as written; ``{source}`` in it stands for the source's name.
        kind: what writes it, decided when it was parsed.
        must_exist: whether it is an output only where the folder that it names exists: without an ending or a slash.
        address: of a live page.
    """

    template: str = field(repr=False)
    kind: OutputKind = field(compare=False)
    must_exist: bool = field(default=False, compare=False, repr=False)
    address: PageAddress | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> OutputSpec:
        """Parses an output.

        Args:
            text: ``window``, ``-``, ``null``, ``http://HOST:PORT``, or a path whose ending is one of `OUTPUT_KINDS`;
                ``folder/`` with any other ending is for annotated pictures (an existing folder needs no slash).

        Raises:
            ConfigError: if it is none of these.

        Example:
            >>> OutputSpec.parse("{source}.mp4").path_for("front door")
            PosixPath('front_door.mp4')
        """
        if text in (kind.value for kind in _WORDS):
            return cls(text, OutputKind(text))
        if text.partition("://")[0].lower() in PAGE_SCHEMES:
            return cls(text, OutputKind.PAGE, address=PageAddress.parse(text))
        path = _checked(_expanded(text), text)
        folder = _FOLDERS.get(path.suffix.lower())
        if text and (text.endswith(("/", os.sep)) or path.is_dir()):
            return cls(text, folder or OutputKind.PICTURES)
        if "://" not in text:
            kind = folder or _FILES.get(split_ending(path)[1].lower())
            if kind is not None:
                return cls(text, kind)
            if _SOURCE in path.name:
                return cls(text, OutputKind.PICTURES, must_exist=True)
        raise _unknown(text)

    @property
    def has_path(self) -> bool:
        """Whether it is a file or a folder."""
        return self.kind not in _WITHOUT_PATH

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.kind in (OutputKind.PICTURES, *_FOLDERS.values())

    @property
    def is_per_source(self) -> bool:
        """Whether each source has its own, by its name."""
        return _SOURCE in self.template

    @property
    def can_be_segmented(self) -> bool:
        """Whether it is written in segments on request: a video, or lines that don't go to a pipe or device."""
        is_text = self.kind in (OutputKind.LINES, OutputKind.CSV) and not is_special(_expanded(self.template))
        return is_text or self.kind is OutputKind.VIDEO

    def path_for(self, source: str) -> Path:
        """Returns the path of the output of a source by its name; undefined for a window and ``null``.

        Raises:
            ConfigError: if no file can have that name, or a folder that must exist doesn't.
        """
        path = _checked(_expanded(self.template.replace(_SOURCE, safe_name(source))), self.template)
        if self.must_exist and not path.is_dir():
            raise _unknown(self.template)
        return path

    def label(self, source: str) -> str:
        """Returns what messages and the report call one source's output."""
        return self.template.replace(_SOURCE, source)

    def __str__(self) -> str:
        return redact(self.template)


def _expanded(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises where there is no such home


def _checked(path: Path, text: str) -> Path:
    try:
        path.exists()
    except OSError as error:
        raise ConfigError(f"output {short(text)} can't be used: {error.strerror}; choose another") from None
    return path


def _unknown(text: str) -> ConfigError:
    scheme, is_url, _ = text.partition("://")
    if is_url:
        return ConfigError(f"unknown kind of output {redact(text)!r} ({scheme.lower()}://); known: {_KNOWN}")
    ending = Path(text).suffix.lower()
    near = nearest(ending, (*_FILES, *_FOLDERS)) if ending else nearest(text, ("window", "null"))
    return ConfigError(f"unknown kind of output {redact(text)!r}{near}; known: {_KNOWN}")
