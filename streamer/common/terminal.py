"""Lines on the terminal; a line that can't be printed is no failure of the run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from streamer.common.errors import one_line

log = logging.getLogger(__name__)

_STDOUT, _STDERR = 1, 2
_reserved: int | None = None


def reserve_stdout() -> None:
    """Keeps standard output for `stdout_descriptor`: whatever else is printed there goes to standard error from now on.

    That holds for libraries in C too, and for the rest of the process.
    """
    global _reserved
    if _reserved is None:
        sys.stdout.flush()
        _reserved = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)


def stdout_descriptor() -> int:
    """Returns the descriptor of standard output."""
    return _STDOUT if _reserved is None else _reserved


def say(text: str) -> bool:
    """Prints to standard output; returns False if that fails. A closed pipe counts as printed."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:  # a full disk; closed, or an encoding that doesn't have a letter of it
        log.warning("can't print to standard output: %s", one_line(str(error)))
        return False
    return True


def complain(text: str) -> None:
    """Prints an error to standard error, as one line."""
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {one_line(text)}", file=sys.stderr, flush=True)
