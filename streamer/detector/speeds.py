"""Speeds of models on this machine, measured when they were compiled, without importing an engine."""

from __future__ import annotations

import json
from typing import NamedTuple

from streamer.common.cache import cached_files

COMPILED = "compiled"
"""The folder of `streamer.detector.compiled_models` in the cache."""
_MOST_BYTES = 1 << 20


class Speed(NamedTuple):
    """A measured speed.

    Attributes:
        fps: frames a second, of the network alone.
        engine: what computed it, such as ``openvino int8``.
        busy: whether other programs used the processor, so that it is faster than this.
    """

    fps: float
    engine: str
    busy: bool

    def __str__(self) -> str:
        return f"{'at least ' if self.busy else ''}{self.fps:.0f} a second, {self.engine}"


def measured_speeds() -> dict[str, Speed]:
    """Returns the best speed measured here of each model, by the SHA-256 of its file."""
    speeds: dict[str, Speed] = {}
    for path in cached_files(COMPILED, "?" * 32):
        try:
            with path.open("rb") as file:
                header = json.loads(file.readline(_MOST_BYTES))
            sha256, engine = str(header["model_sha256"]), f"openvino {header['precision']}"
            speed = Speed(float(header["fps"]), engine, bool(header["busy"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
        speeds[sha256] = max(speeds.get(sha256, speed), speed)
    return speeds
