"""Where files are kept from one run to the next: downloaded models, built engines, measured speeds."""

from __future__ import annotations

import functools
import logging
import os
import stat
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = "nanodet-streamer"


def cache_dir() -> Path:
    """Returns the folder to write to; it may not exist yet.

    It is `NANODET_STREAMER_CACHE` where that is set, else the user's cache folder. Where there is none, as for a user
    without a home, or it can't be written, it is one under the system's folder for temporary files that only this user
    may read and write.
    """
    override = os.environ.get("NANODET_STREAMER_CACHE")
    if override:
        return Path(override)
    users = _users_folder()
    if users is not None and _is_writable(users):
        return users
    temporary = _temporary_folder()
    log.info("the user's cache folder can't be written: files are kept in %r", str(temporary or users))
    return temporary or users or Path(_NAME)


def cached_file(*parts: str) -> Path:
    """Returns the path of a file in the cache: where it is, also in a folder that can't be written, or may be written.

    Args:
        parts: folders below the cache's own, and the file's name.
    """
    writable = cache_dir().joinpath(*parts)
    users = _users_folder()
    if users is None or os.environ.get("NANODET_STREAMER_CACHE"):
        return writable
    kept = users.joinpath(*parts)
    try:
        return kept if kept.is_file() else writable
    except OSError:  # a folder that this user may not even look into
        return writable


def _users_folder() -> Path | None:
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (RuntimeError, KeyError):  # no HOME, and no entry of this user
        return None
    return base / _NAME


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written, or made and then written."""
    for path in (folder, *folder.parents):
        try:
            if not path.exists():
                continue
        except OSError:
            return False
        return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


@functools.lru_cache(maxsize=1)
def _temporary_folder() -> Path | None:
    """Returns a folder that is this user's alone: others could otherwise put files there that the program trusts."""
    try:
        if sys.platform == "win32":
            return Path(tempfile.gettempdir()) / _NAME
        path = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return path
    except OSError:
        pass
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_NAME}-"))
    except OSError:
        return None
