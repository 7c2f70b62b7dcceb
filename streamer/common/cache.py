"""The cache folder: downloaded models, built engines, measured speeds."""

from __future__ import annotations

import functools
import logging
import os
import stat
import sys
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = "nanodet-streamer"


def cache_dir() -> Path:
    """Returns the folder to write to; it may not exist yet.

    It is `NANODET_STREAMER_CACHE` if set, else the user's cache folder, else, without a home or write permission, a
    folder below the system's temporary folder that only this user may read and write.
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
    """Returns the path of a cached file, also in a read-only cache; of a missing one, where it may be written."""
    writable = cache_dir().joinpath(*parts)
    users = None if os.environ.get("NANODET_STREAMER_CACHE") else _users_folder()
    if users is None:
        return writable
    kept = users.joinpath(*parts)
    try:
        return kept if kept.is_file() else writable
    except OSError:  # a folder without search permission
        return writable


def cached_files(folder: str, pattern: str) -> list[Path]:
    """Returns the files of a subfolder whose names match a glob pattern, sorted, also in a read-only cache."""
    places = [cache_dir()]
    users = None if os.environ.get("NANODET_STREAMER_CACHE") else _users_folder()
    if users is not None and users not in places:
        places.append(users)
    return [path for place in places for path in sorted((place / folder).glob(pattern))]


def _users_folder() -> Path | None:
    """Returns the user's cache folder, None for a user without a home."""
    from platformdirs import user_cache_path  # with what it imports a tenth of the time of --help

    try:
        folder = user_cache_path(_NAME, appauthor=False, opinion=False)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # platformdirs before 4.11 keeps the "~"


def _is_writable(folder: Path) -> bool:
    """Returns whether a folder can be written, or created and written."""
    for path in (folder, *folder.parents):
        try:
            if not path.exists():
                continue
        except OSError:
            return False
        return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


def _temporary_folder() -> Path | None:
    """Returns a folder that only this user may write, since its files are trusted."""
    import tempfile

    try:
        return _private_folder(tempfile.gettempdir())
    except OSError:
        return None


@functools.cache
def _private_folder(parent: str) -> Path:
    """Returns the same private folder below `parent` throughout the process."""
    if sys.platform == "win32":
        return Path(parent) / _NAME
    path = Path(parent) / f"{_NAME}-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return path
    except OSError:
        pass
    import tempfile

    return Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir=parent))
