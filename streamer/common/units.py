"""Durations and sizes as users write them: ``10m``, ``24h``, ``50GB``."""

from __future__ import annotations

import math
import re

_SECONDS = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|[smhd])\s*")
_LENGTH = "a length of time such as 90s, 10m or 24h"


def parse_seconds(text: str) -> float:
    """Returns seconds for ``500ms``, ``90s``, ``10m``, ``24h``, ``7d``, ``1h30m``, or a bare number of seconds.

    Units are lower case, since ``M`` could mean megabytes.

    Raises:
        ValueError: if the text is none of these, or not above zero.
    """
    return _above_zero(_seconds(text, bare_unit_s=1.0), _LENGTH)


def parse_milliseconds(text: str) -> float:
    """Returns milliseconds for what `parse_seconds` takes, a bare number of milliseconds, or zero.

    Raises:
        ValueError: if the text is none of these.
    """
    return 1e3 * _seconds(text, bare_unit_s=1e-3)


def _seconds(text: str, *, bare_unit_s: float) -> float:
    text = text.strip().replace("_", "")
    if re.fullmatch(f"(?:{_PART.pattern})+", text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    number, unit = _split(text, _LENGTH)
    if unit:
        raise ValueError(f"wanted {_LENGTH}")
    return number * bare_unit_s


def parse_bytes(text: str) -> int:
    """Returns bytes for ``500MB``, ``50GB``, ``1.5TiB``, in any case.

    Raises:
        ValueError: if the text is none of these, or less than a byte.
    """
    wanted = "a size such as 500MB or 50GB"
    number, unit = _split(text, wanted)
    return int(_above_zero(number * _BYTES.get(unit.lower(), 0) // 1, wanted))


def bytes_text(count: float) -> str:
    """Returns a number of bytes with three digits, such as ``1.25 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:#.3g} {unit}".replace(". ", " ")
    return f"{count / 1000:.0f} kB"


def _split(text: str, wanted: str) -> tuple[float, str]:
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(f"wanted {wanted}")
    return float(written[1]), written[2]


def _above_zero(value: float, wanted: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"wanted {wanted}")
    return value
