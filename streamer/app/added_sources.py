"""Which sources may be added on the live page: cameras and streams, and files of folders that are named for that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from streamer.common.errors import ConfigError
from streamer.sources.spec import SourceKind, SourceSpec, is_taken, name_problem

_SCHEMES = ("rtsp", "rtsps", "http", "https")
_WANTED = "wanted rtsp://, rtsps://, http:// or https://, or a camera's number"


def check_added(name: str, uri: str, folders: Sequence[Path]) -> None:
    """Checks a source that somebody wants to add who may use the page, but may not read the machine's files.

    Args:
        name: what it is to be called.
        uri: where it reads from.
        folders: those whose files may be read, links followed.

    Raises:
        ConfigError: if it may not be added; no value of the machine's is in the message.
    """
    problem = name_problem(name)
    if problem is not None or not name.strip("."):
        raise ConfigError(f"no source can be named so: {problem or 'it has dots only'}")
    if "${" in uri:
        raise ConfigError("a reference such as ${NAME} is replaced in configuration files only")
    if re.fullmatch(r"[0-9]{1,4}", uri):
        return
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    if scheme is not None and scheme[1].lower() in _SCHEMES and "://" in uri:
        if SourceSpec.parse(uri).kind is not SourceKind.STREAM:
            raise ConfigError(_WANTED)
        return
    if scheme is not None or uri in ("-", "sample") or not _is_in(uri, folders):
        files = " (files: only of folders that --web-folder names)" if not folders else ", or a file of a named folder"
        raise ConfigError(_WANTED + files)


def _is_in(text: str, folders: Sequence[Path]) -> bool:
    """Whether a path is an existing video, picture or folder within one of `folders`, wherever links lead."""
    try:
        path = Path(text).resolve(strict=True)
        is_readable = path.is_dir() or (path.is_file() and is_taken(path))
        return is_readable and any(path.is_relative_to(folder.expanduser().resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):
        return False
