"""Lengths of time and sizes as people write them: ``10m``, ``24h``, ``50GB``."""

from __future__ import annotations

import math
import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def parse_seconds(text: str) -> float:
    """Returns seconds for ``90s``, ``10m``, ``24h``, ``7d``, or a bare number of seconds.

    Raises:
        ValueError: if it is none of these, or not above zero.
    """
    return _parse(text, {"": 1, **_SECONDS}, "a length of time such as 90s, 10m or 24h")


def parse_bytes(text: str) -> int:
    """Returns bytes for ``500MB``, ``50GB``, ``1.5TiB``.

    Raises:
        ValueError: if it is none of these, or not above zero.
    """
    return int(_parse(text, _BYTES, "a size such as 500MB or 50GB"))


def _parse(text: str, units: dict[str, int], wanted: str) -> float:
    written = _WRITTEN.fullmatch(text.strip())
    factor = units.get(written[2].lower()) if written else None
    value = float(written[1]) * factor if written and factor else 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"wanted {wanted}")
    return value
