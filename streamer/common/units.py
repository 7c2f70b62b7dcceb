"""Durations and sizes as users write them: ``10m``, ``24h``, ``50GB``."""

from __future__ import annotations

import math
import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def parse_seconds(text: str) -> float:
    """Returns seconds for ``90s``, ``10m``, ``24h``, ``7d``, or a bare number of seconds.

    Units are lower case, since ``M`` could mean megabytes.

    Raises:
        ValueError: if the text is none of these, or not above zero.
    """
    wanted = "a length of time such as 90s, 10m or 24h"
    number, unit = _split(text, wanted)
    return _above_zero(number * {"": 1, **_SECONDS}.get(unit, 0), wanted)


def parse_bytes(text: str) -> int:
    """Returns bytes for ``500MB``, ``50GB``, ``1.5TiB``, in any case.

    Raises:
        ValueError: if the text is none of these, or less than a byte.
    """
    wanted = "a size such as 500MB or 50GB"
    number, unit = _split(text, wanted)
    return int(_above_zero(number * _BYTES.get(unit.lower(), 0) // 1, wanted))


def _split(text: str, wanted: str) -> tuple[float, str]:
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(f"wanted {wanted}")
    return float(written[1]), written[2]


def _above_zero(value: float, wanted: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"wanted {wanted}")
    return value
