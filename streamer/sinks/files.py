"""What all outputs that write files share."""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from streamer.errors import SinkError
from streamer.frame import Frame

log = logging.getLogger(__name__)


def safe_name(name: str) -> str:
    """Returns `name` fit for part of a file's name: letters, digits, ``_``, ``-`` and ``.``, at most 100 of them."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[:100] or "source"


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder, links followed; a path that leads nowhere is only compared."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def check_writable(path: Path) -> None:
    """Makes sure that a file can be written at `path`, keeping what is there, and says when it will be replaced.

    Raises:
        SinkError: if it can't.
    """
    if not path.parent.is_dir():
        raise SinkError(
            f"can't write {path}: there is no folder {path.parent}; make it first, or choose another output"
        )
    if path.is_dir():
        raise SinkError(f"can't write {path}: it is a folder; choose another name, or end it with '/' for pictures")
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise SinkError(f"can't write {path}: {reason(error)}; choose another output") from error
    if existed:
        log.warning("replacing %s", path)


def captured_utc(frame: Frame) -> datetime:
    """Returns when the source had the frame, by the system's clock as it goes now."""
    return datetime.now(timezone.utc) - timedelta(seconds=time.perf_counter() - frame.captured_at_s)


def reason(error: BaseException) -> str:
    """Returns an error's own words without the number and the file name that the system adds."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).replace("\n", " ").strip().rstrip(".")
