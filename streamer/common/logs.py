"""Log lines on standard error: safe for a terminal, without secrets, and not too many."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from streamer.common.errors import one_line


class SafeFormatter(logging.Formatter):
    """Formats a record as one line, tracebacks below it, each through `one_line`.

    This covers the log messages of all libraries: text from a camera, file or configuration can't control the terminal
    or reveal a URI's password.
    """

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return "\n".join(map(one_line, super().formatException(ei).splitlines()))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:
        return "\n".join(map(one_line, super().formatStack(stack_info).splitlines()))


def start_logging(level: int | str) -> None:
    """Logs records of at least `level` to standard error, unless logging is configured already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter())
    logging.basicConfig(level=level, handlers=[handler])


@contextlib.contextmanager
def logging_at(level: int | str, name: str | None = None) -> Iterator[None]:
    """Sets the least severe level that a logger passes on, until the block ends.

    Args:
        level: such as ``INFO``.
        name: the logger's; None is all loggers', or where logging isn't configured by `start_logging`, this package's.
    """
    root = logging.getLogger()
    is_ours = any(isinstance(handler.formatter, SafeFormatter) for handler in root.handlers)
    logger = logging.getLogger(name or ("root" if is_ours else "streamer"))
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


class LogLimit:
    """Decides whether a repeated message is due: the first time, then at most once a minute."""

    def __init__(self, every_s: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Sets the least time between two messages, and the clock in seconds."""
        self._every_s, self._clock = every_s, clock
        self._due_s = float("-inf")

    def is_due(self) -> bool:
        """Returns whether to log now; True starts the next interval."""
        now_s = self._clock()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._every_s
        return True
