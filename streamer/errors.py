"""What can go wrong, as one small family of exceptions.

Every message is one line for the person at the keyboard: what was wanted, what was got, and the fix.
The command line prints it and exits with the class's ``exit_code``; no traceback is shown above debug level.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()  # never writes out the whole of what it cuts
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class StreamerError(Exception):
    """Base of all errors this package raises on purpose; the message is one line and names the fix."""

    exit_code = EXIT_FAILED


class ConfigError(StreamerError):
    """A wrong option, configuration key or value: nothing was started."""

    exit_code = EXIT_USAGE


class SourceError(StreamerError):
    """A source that can't be opened or that broke off."""


class SinkError(StreamerError):
    """An output that can't be opened or written."""


class ModelError(StreamerError):
    """A model file that is missing, damaged, or not a NanoDet."""


class EngineError(StreamerError):
    """An inference engine that is missing, unsuitable or failed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'a' or 'b'?"`` for the known words nearest to `word`, or ``""`` if none is near."""
    close = difflib.get_close_matches(word.lower(), {k.lower(): k for k in known}, n=3, cutoff=0.55)
    names = [k for c in close for k in known if k.lower() == c]
    return f"; did you mean {' or '.join(repr(n) for n in dict.fromkeys(names))}?" if names else ""


def short(value: object) -> str:
    """Returns a value as an error message shows it: in one line, cut where it is long or deep."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(text: str) -> str:
    """Returns `text` fit for a line on a terminal: what damaged files and odd file names put into it is escaped."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
