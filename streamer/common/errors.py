"""The exceptions of this package.

Every message is one line: what was wanted, what was given, and the fix. The command line prints it and exits with the
class's ``exit_code``; tracebacks appear at debug level only.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

from streamer.common.redaction import redact, redact_text


class _Short(reprlib.Repr):
    """Cuts long values without rendering them whole, and redacts URIs."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)


_SHORT = _Short()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class StreamerError(Exception):
    """Base of all errors that this package raises; the message is one redacted line that names the fix."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str) -> None:
        """Redacts all URIs in the message, which may quote another library."""
        super().__init__(redact_text(message))


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


class UnavailableError(EngineError):
    """An engine that isn't installed, or isn't made for this model or GPU: ``auto`` takes another without a warning."""


def nearest(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Returns ``"; did you mean 'a' or 'b'?"`` for the known words nearest to `word`, or ``""`` if none is near.

    `prefix` is put before each known word, and isn't compared.
    """
    from difflib import get_close_matches

    close = get_close_matches(word.lower(), {k.lower(): k for k in known}, n=3, cutoff=0.55)
    names = [k for c in close for k in known if k.lower() == c]
    return f"; did you mean {' or '.join(repr(prefix + n) for n in dict.fromkeys(names))}?" if names else ""


def short(value: object) -> str:
    """Returns a value for an error message: one line, truncated where it is long or deeply nested."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def counted(count: int, what: str) -> str:
    """Returns a number and what is counted, such as ``"1 picture"``, ``"3 pictures"`` or ``"2 classes"``."""
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Returns names for a message: the first `most`, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def one_line(text: str) -> str:
    """Returns `text` as one line for a terminal: control characters are escaped and URIs redacted."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in redact_text(text))
