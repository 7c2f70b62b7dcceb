"""Atomic file writes."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from streamer.common.interrupt import cleanup_on_exit


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, which replaces `path` when the block ends without an exception.

    On an exception `path` is unchanged and the temporary file is removed. Of a symbolic link the target
    is replaced.

    Raises:
        OSError: if the file can't be replaced, or `path` is a folder, pipe or device.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise OSError(errno.EINVAL, "it isn't a regular file", str(path))
    partial = new_file_beside(place)
    with cleanup_on_exit(partial.unlink):
        try:
            yield partial
            os.replace(partial, place)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


def new_file_beside(path: Path) -> Path:
    """Creates an empty file with an unpredictable name in the same folder and returns its path.

    Raises:
        OSError: if it can't be created.
    """
    partial = path.with_name(f".nanodet-{secrets.token_hex(8)}.part")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
    return partial
