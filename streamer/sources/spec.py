"""A source as it is written, parsed once: ``[name=]URI`` to a frozen `SourceSpec` that never prints a password."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import url2pathname

from streamer.common.errors import ConfigError, nearest
from streamer.common.redaction import cuts_userinfo, redact
from streamer.common.references import expand_uri

WEB_SCHEMES = ("http", "https")
STREAM_SCHEMES = ("rtsp", "rtsps", *WEB_SCHEMES, "rtmp", "rtmps", "udp", "tcp")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Formats that are read and written."""
READ_SUFFIXES = (*PICTURE_SUFFIXES, ".avif", ".heic", ".heif")

GIF_SUFFIX = ".gif"
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".flv", ".ogv", ".ogg", ".mpg", ".mpeg"),
    *(".3gp", ".wmv", ".asf", ".h264", ".h265", ".264", ".265", ".hevc"),
)
"""Of files that are taken for videos in a folder, and on a web server."""

_ENCODE = "write %2F for /, %3F for ?, %23 for #, %40 for @ and %25 for %"
_NOT_IN_NAMES = '= / \\ : ? * [ ] < > | "'
_NAMED = re.compile(r"([^=]*)=(.*)", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"://(?:[^/?#]*@)?(\[[^\]]*\]|[^/:?#]+)")
_SAMPLE_PATH = Path(__file__).parent.parent / "data" / "sample.mp4"


class SourceKind(enum.Enum):
    """What reads a source."""

    SAMPLE = "sample"
    """The packaged clip."""
    CAMERA = "camera"
    """A webcam, by number or device node."""
    STREAM = "stream"
    """A URL of one of `STREAM_SCHEMES`."""
    PICTURES = "pictures"
    """A picture file or a folder of them."""
    PATTERN = "pattern"
    """A pattern of picture files' names."""
    VIDEO = "video"
    """A local video file."""

    STDIN = "standard input"
    """A video that another program writes."""

    @property
    def is_live(self) -> bool:
        """Whether it reconnects, and its frames can't be asked for again; a stream may still turn out to be a file."""
        return self in (SourceKind.CAMERA, SourceKind.STREAM)

    @property
    def is_video(self) -> bool:
        """Whether it is read as packets that a decoder may decode in another process."""
        return self in (SourceKind.STREAM, SourceKind.VIDEO)

    @property
    def is_pictures(self) -> bool:
        """Whether it is a folder or list of files, of any sizes, that is no video."""
        return self in (SourceKind.PICTURES, SourceKind.PATTERN)


class SecretUri:
    """A URI whose every printed form is redacted: `str`, `repr`, `format`, logging.

    Example:
        >>> SecretUri("rtsp://admin:secret@10.0.0.7/1")
        'rtsp://***@10.0.0.7/1'
    """

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str, shown: str | None = None) -> None:
        """Keeps the URI.

        Args:
            text: the URI, with its password.
            shown: what is printed; None is what `redact` leaves of it.
        """
        self._text = text
        self._shown = redact(text) if shown is None else shown

    def reveal(self) -> str:
        """Returns the URI with its password: for whatever opens it, never for a message."""
        return self._text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return repr(self._shown)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUri) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class SourceSpec:
    """A source that can be opened. Two are equal if they have the same name and URI.

    Attributes:
        name: what it is called: its given name, else ``camera0``, ``clip``, a folder's name, or a URL's host.
        uri: where it reads from; printed redacted.
        kind: what reads it, decided when it was parsed.
        scheme: of a stream's URL, in lower case; None for anything else.
        camera: a webcam's number, by which only one stream can have it open; None for anything else.
        files: several picture files that are one source; empty for anything else.
    """

    name: str
    uri: SecretUri
    kind: SourceKind = field(compare=False)
    scheme: str | None = field(default=None, compare=False)
    camera: str | None = field(default=None, compare=False, repr=False)
    files: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of_pictures(cls, files: Sequence[Path]) -> SourceSpec:
        """Returns one source of several picture files, read in this order, named after their folder."""
        folders = {file.resolve().parent for file in files}
        name = folders.pop().name if len(folders) == 1 else ""
        shown = f"{files[0]} and {len(files) - 1} more"
        uri = SecretUri("\n".join(map(str, files)), shown)
        return cls(name or "pictures", uri, SourceKind.PICTURES, files=tuple(files))

    @classmethod
    def parse(cls, text: str, *, name: str | None = None, shown: str | None = None) -> SourceSpec:
        """Parses a URI.

        Args:
            text: a camera's number or node, a video or picture file, a folder, a pattern, a stream's URL,
                ``-`` for standard input, or ``sample``.
            name: what to call it; None derives a name from the URI.
            shown: what is printed of a stream's URL; None is what `redact` leaves of it.

        Raises:
            ConfigError: if it is empty, its scheme isn't known, or a ``/ ? #`` in its password ends its host too early.

        Example:
            >>> SourceSpec.parse("rtsp://admin:secret@10.0.0.7/1")
            SourceSpec(name='10.0.0.7', uri='rtsp://***@10.0.0.7/1', kind=<SourceKind.STREAM: 'stream'>, scheme='rtsp')
        """
        if not text:
            raise ConfigError("a source's URI is empty; give a file, a camera's number, a URL, or sample")
        found = _SCHEME.match(text)
        scheme = found[1].lower() if found else None
        if text == "sample":
            return cls(name or text, SecretUri(text), SourceKind.SAMPLE)
        if text == "-":
            return cls(name or "stdin", SecretUri(text), SourceKind.STDIN)
        if re.fullmatch(r"[0-9]+", text) or text.startswith("/dev/video"):
            camera = text.removeprefix("/dev/video")
            return cls(name or f"camera{camera}", SecretUri(text), SourceKind.CAMERA, camera=camera)
        if scheme in STREAM_SCHEMES:
            if cuts_userinfo(text):
                raise ConfigError(f"source {redact(text)!r} has a / ? or # in its user or password: {_ENCODE}")
            url = f"{scheme}{text[len(scheme or '') :]}"  # FFmpeg knows schemes in lower case only
            return cls(name or _host(url), SecretUri(url, shown), SourceKind.STREAM, scheme)
        if scheme not in (None, "file"):
            known = (*STREAM_SCHEMES, "file")
            raise ConfigError(
                f"source {redact(text)!r} has the unknown scheme {scheme!r}{nearest(scheme or '', known)};"
                f" known: {', '.join(known)}"
            )
        return _parse_local(text, name)

    @classmethod
    def parse_named(cls, text: str) -> SourceSpec:
        """Parses ``[name=]URI``, see `name_problem` for what is a name.

        An existing file's path is never split, so that ``a=1.mp4`` can be opened, and neither is a URL's query, since
        the start of a URL is no name.

        Raises:
            ConfigError: as `parse`, or if nothing follows the ``=``.
        """
        name, uri = _split_name(text)
        return cls.parse(uri, name=name)

    @classmethod
    def parse_configured(cls, text: str, *, name: str | None = None) -> SourceSpec:
        """Parses what a user has configured: ``[name=]URI`` as `parse_named`, or a URI where the name is known.

        References to the environment and to files are replaced, see `streamer.common.references`.

        Raises:
            ConfigError: as `parse_named`, or if a reference has no value.
        """
        if name is None:
            name, text = _split_name(text)
        uri, shown = expand_uri(text)
        return cls.parse(uri, name=name, shown=shown)

    @property
    def path(self) -> Path | None:
        """The local file or folder, or a pattern of such; None for anything else. Not safe to print."""
        if self.kind is SourceKind.SAMPLE:
            return _SAMPLE_PATH
        if self.files:
            return None
        return None if self.kind.is_live or self.kind is SourceKind.STDIN else _local_path(self.uri.reveal())

    @property
    def url(self) -> str:
        """A stream's URL with its password, its scheme in lower case."""
        return self.uri.reveal()

    @property
    def delimiters_hint(self) -> str:
        """What to try where a URL with an ``@`` after its host can't be opened, as the end of a message; else empty."""
        is_possible = self.kind is SourceKind.STREAM and cuts_userinfo(self.uri.reveal()) is not False
        return f"; if its user or password holds one of / ? #, {_ENCODE}" if is_possible else ""

    def __str__(self) -> str:
        return str(self.uri)


def is_taken(path: Path) -> bool:
    """Whether a file is read from a folder, by its suffix: a picture or a video."""
    return path.suffix.lower() in (*READ_SUFFIXES, GIF_SUFFIX, *VIDEO_SUFFIXES)


def is_picture_file(text: str) -> bool:
    """Whether a text is the path of a picture file that exists."""
    path = Path(text)
    return path.suffix.lower() in (*READ_SUFFIXES, GIF_SUFFIX) and _asks(path.is_file)


def name_problem(name: str) -> str | None:
    """Returns why a source can't have that name, None if it can: ``front door``, ``türe`` and ``1`` are names."""
    if not name.strip() or name != name.strip() or not name.isprintable():
        return "it begins or ends with a space, or can't be printed"
    if not set(_NOT_IN_NAMES.split()).isdisjoint(name):
        return f"it has one of {_NOT_IN_NAMES}"
    return None


def _split_name(text: str) -> tuple[str | None, str]:
    named = _NAMED.fullmatch(text)
    if named is None or name_problem(named[1]) is not None or _asks(Path(text).exists):
        return None, text
    if not named[2]:
        raise ConfigError(f"source {text!r} names no URI after the '='; write name=URI, for instance door=0")
    return named[1], named[2]


def _parse_local(text: str, name: str | None) -> SourceSpec:
    path = _local_path(text)
    exists, is_folder = _asks(path.exists), _asks(path.is_dir)
    uri = SecretUri(text, text if exists else None)
    if not exists and any(character in text for character in "*?["):
        return SourceSpec(name or path.parent.name or "pictures", uri, SourceKind.PATTERN)
    is_pictures = is_folder or text.endswith(("/", "\\")) or path.suffix.lower() in READ_SUFFIXES
    kind = SourceKind.PICTURES if is_pictures else SourceKind.VIDEO
    default = redact(path.stem) if not exists else path.resolve().name if is_folder else path.stem
    return SourceSpec(name or default or "pictures", uri, kind)


def _local_path(text: str) -> Path:
    """Returns the path of a plain path, one that begins with ``~``, or a ``file://`` URL."""
    path = Path(url2pathname(text[len("file://") :]) if _SCHEME.match(text) else text)
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such home
    except ValueError:  # a zero byte in it: no file has such a name
        return path


def _host(url: str) -> str:
    host = _HOST.search(redact(url))
    return (re.sub(r"[^\w.-]+", "-", host[1]).strip("-") if host else "") or "stream"


def _asks(question: Callable[[], bool]) -> bool:
    """Returns the file system's answer, False for a name that it can't even look up, for instance one too long."""
    try:
        return question()
    except (OSError, ValueError):
        return False
