"""Where log lines go and how they look: on standard error, safe for a terminal, and without secrets."""

from __future__ import annotations

import logging
import sys

from streamer.common.errors import one_line


class SafeFormatter(logging.Formatter):
    """Writes a record as one line, a traceback as lines behind it; see `one_line` for what is made of the text.

    The text of every library goes through it: what a camera, a file or a configuration puts into a message can neither
    steer the terminal nor show a URI's password.
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
    """Sends all log records from `level` on to standard error, unless the process logs already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter())
    logging.basicConfig(level=level, handlers=[handler])
