"""The ways to write a source: ``[name=]URI``, which kind it is, and what to call it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.request import url2pathname

from streamer.common.errors import ConfigError
from streamer.common.redaction import cuts_userinfo, redact

_ENCODE = "write %2F for /, %3F for ?, %23 for #, %40 for @ and %25 for %"
STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Formats that are read and written."""
READ_SUFFIXES = (*PICTURE_SUFFIXES, ".avif", ".heic", ".heif")
SAMPLE = "sample"

_NOT_IN_NAMES = '= / \\ : ? * [ ] < > | "'
_NAMED = re.compile(r"([^=]*)=(.*)", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/+)")
_HOST = re.compile(r"://(?:[^/?#]*@)?(\[[^\]]*\]|[^/:?#]+)")


def split_name(argument: str) -> tuple[str | None, str]:
    """Splits ``name=URI``.

    See `name_problem` for what is a name. An argument that is an existing file's path is never split, so that
    ``a=1.mp4`` can be opened, and a URL's query isn't either, since a URL's beginning is no name.

    Returns:
        The name, or None without one, and the URI.

    Raises:
        ConfigError: if nothing follows the ``=``.
    """
    named = _NAMED.fullmatch(argument)
    if named is None or name_problem(named[1]) is not None or _asks(Path(argument).exists):
        return None, argument
    if not named[2]:
        raise ConfigError(f"source {argument!r} names no URI after the '='; write name=URI, for instance door=0")
    return named[1], named[2]


def name_problem(name: str) -> str | None:
    """Returns why a source can't be called that, None if it can: ``front door``, ``türe`` and ``1`` are names."""
    if not name.strip() or name != name.strip() or not name.isprintable():
        return "it begins or ends with a space, or can't be printed"
    if not set(_NOT_IN_NAMES.split()).isdisjoint(name):
        return f"it has one of {_NOT_IN_NAMES}"
    return None


def name_of(argument: str) -> str:
    """Returns what the source of a ``[name=]URI`` is called.

    Raises:
        ConfigError: as `split_name`.
    """
    name, uri = split_name(argument)
    return name or default_name(uri)


def same_name(argument: str) -> ConfigError:
    """Returns what to raise where the source of a ``[name=]URI`` has the name of another."""
    _, uri = split_name(argument)
    return ConfigError(f"two sources are named {name_of(argument)!r}: name them, as in door={redact(uri)}")


def delimiters_hint(uri: str) -> str:
    """Returns what to try where a URL with an ``@`` behind its host can't be opened, as the end of a message."""
    is_possible = is_stream(uri) and cuts_userinfo(uri) is not False
    return f"; if its user or password holds one of / ? #, {_ENCODE}" if is_possible else ""


def refuse_delimiters(uri: str) -> None:
    """Makes sure that a URL isn't cut off in the middle of its password.

    Raises:
        ConfigError: if it is; the message says what to write.
    """
    if cuts_userinfo(uri):
        raise ConfigError(f"source {redact(uri)!r} has a / ? or # in its user or password: {_ENCODE}")


def scheme_of(uri: str) -> str | None:
    """Returns the scheme of ``scheme://...`` in lower case, or None for anything else."""
    scheme = _SCHEME.match(uri)
    return scheme[1].lower() if scheme and scheme[2].startswith("//") else None


def is_camera(uri: str) -> bool:
    """Whether `uri` is a camera's number or its device node on Linux."""
    return bool(re.fullmatch(r"[0-9]+", uri)) or uri.startswith("/dev/video")


def is_stream(uri: str) -> bool:
    """Whether `uri` is a stream on the network."""
    return scheme_of(uri) in STREAM_SCHEMES


def is_pictures(uri: str) -> bool:
    """Whether `uri` is a picture file, a folder, or a pattern such as ``'*.jpg'``."""
    path = local_path(uri)
    is_folder = uri.endswith(("/", "\\")) or _asks(path.is_dir)
    return is_folder or path.suffix.lower() in READ_SUFFIXES or is_pattern(uri)


def is_pattern(uri: str) -> bool:
    """Whether `uri` is a pattern of file names, and not the name of a file that has such characters."""
    return any(character in uri for character in "*?[") and not _asks(local_path(uri).exists)


def local_path(uri: str) -> Path:
    """Returns the path of a local source: a plain path, one that begins with ``~``, or ``file://``."""
    path = Path(url2pathname(uri[len("file://") :]) if scheme_of(uri) == "file" else uri)
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such home
    except ValueError:  # a zero byte in it: no file has such a name
        return path


def default_name(uri: str) -> str:
    """Returns what to call a source that wasn't named: ``camera0``, ``clip``, a folder's name, or a URL's host."""
    if is_camera(uri):
        return f"camera{uri.removeprefix('/dev/video')}"
    if scheme_of(uri) not in (None, "file"):
        host = _HOST.search(redact(uri))
        return (re.sub(r"[^\w.-]+", "-", host[1]).strip("-") if host else "") or "stream"
    path = local_path(uri)
    if is_pattern(uri):
        return path.parent.name or "pictures"
    if not _asks(path.exists):
        return redact(path.stem) or "pictures"
    return (path.resolve().name if path.is_dir() else path.stem) or "pictures"


def _asks(question: Callable[[], bool]) -> bool:
    """Returns the answer of the file system, False for a name that it can't even look up (too long, for instance)."""
    try:
        return question()
    except OSError:
        return False
