"""An output as it is written, parsed once: ``out.mp4``, ``{source}.jsonl``, ``folder/``, ``window`` to `OutputSpec`."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path

from streamer.common.errors import ConfigError, nearest, short
from streamer.common.redaction import redact
from streamer.sinks.files import is_special, safe_name

VIDEO_ENDINGS = (".mp4", ".mkv", ".avi", ".mov")
LINES_ENDING = ".jsonl"

_SOURCE = "{source}"
_KNOWN = f"window, null, a file ending in {', '.join(VIDEO_ENDINGS)} or {LINES_ENDING}, or folder/ for pictures"


class OutputKind(enum.Enum):
    """What writes an output."""

    WINDOW = "window"
    NULL = "null"
    VIDEO = "video"
    LINES = "lines"
    PICTURES = "pictures"


@dataclass(frozen=True)
class OutputSpec:
    """An output that can be opened for each source. Two are equal if they are written alike.

    Attributes:
        template: as written; ``{source}`` in it stands for the source's name.
        kind: what writes it, decided when it was parsed.
        must_exist: whether it is an output only where the folder that it names exists: without an ending or a slash.
    """

    template: str = field(repr=False)
    kind: OutputKind = field(compare=False)
    must_exist: bool = field(default=False, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> OutputSpec:
        """Parses an output.

        Args:
            text: ``window``, ``out.mp4`` (``.mkv``, ``.avi``, ``.mov``), ``out.jsonl``, ``folder/`` for annotated
                pictures (an existing folder needs no slash), or ``null``.

        Raises:
            ConfigError: if it is none of these.

        Example:
            >>> OutputSpec.parse("{source}.mp4").path_for("front door")
            PosixPath('front_door.mp4')
        """
        if text in (OutputKind.WINDOW.value, OutputKind.NULL.value):
            return cls(text, OutputKind(text))
        path = _checked(_expanded(text), text)
        if text and (text.endswith(("/", os.sep)) or path.is_dir()):
            return cls(text, OutputKind.PICTURES)
        ending = path.suffix.lower()
        if "://" not in text:
            if ending in VIDEO_ENDINGS:
                return cls(text, OutputKind.VIDEO)
            if ending == LINES_ENDING:
                return cls(text, OutputKind.LINES)
            if _SOURCE in path.name:
                return cls(text, OutputKind.PICTURES, must_exist=True)
        raise _unknown(text)

    @property
    def has_path(self) -> bool:
        """Whether it is a file or a folder."""
        return self.kind not in (OutputKind.WINDOW, OutputKind.NULL)

    @property
    def is_per_source(self) -> bool:
        """Whether each source has its own, by its name."""
        return _SOURCE in self.template

    @property
    def can_be_segmented(self) -> bool:
        """Whether it is written in segments on request: a video, or JSON lines that don't go to a pipe or device."""
        is_lines = self.kind is OutputKind.LINES and not is_special(_expanded(self.template))
        return is_lines or self.kind is OutputKind.VIDEO

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
    near = nearest(ending, (*VIDEO_ENDINGS, LINES_ENDING)) if ending else nearest(text, ("window", "null"))
    return ConfigError(f"unknown kind of output {redact(text)!r}{near}; known: {_KNOWN}")
