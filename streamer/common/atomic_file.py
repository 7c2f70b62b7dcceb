"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from streamer.common.interrupt import undone_when_stopped


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a temporary file's path to write to; it takes `path`'s place when the block ends without an error.

    A link at `path` stays, and the file that it leads to is replaced. The temporary file is gone afterwards in any
    case, and what was at `path` before stays there on an error.

    Raises:
        OSError: if it can't be put in place, or `path` is a folder, a pipe or a device.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise OSError(errno.EINVAL, "it isn't a regular file", str(path))
    partial = new_file_beside(place)
    with undone_when_stopped(partial.unlink):
        try:
            yield partial
            os.replace(partial, place)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


def new_file_beside(path: Path) -> Path:
    """Makes an empty file with a name that nobody can have foreseen, in the same folder; returns its path.

    Raises:
        OSError: if it can't be made.
    """
    partial = path.with_name(f".nanodet-{secrets.token_hex(8)}.part")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
    return partial
