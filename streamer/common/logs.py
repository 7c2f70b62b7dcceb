"""Log lines on standard error: safe for a terminal, without secrets."""

from __future__ import annotations

import logging
import sys

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
