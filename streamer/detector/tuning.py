"""How many frames to compute together: measured once on the machine at hand, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from streamer.common.atomic_file import whole_file
from streamer.common.cache import cached_file

log = logging.getLogger(__name__)

_ENOUGH = 0.95
_PATIENCE_MS = 40.0
_ROUNDS = 3
_STEADY = 1.25
_IDLE_LOAD = 0.5


@dataclass(frozen=True)
class Speed:
    """What a batch size was measured to give.

    Attributes:
        batch: frames computed together.
        fps: frames a second with as many batches in flight as the detector has.
        latency_ms: how long one batch takes by itself.
    """

    batch: int
    fps: float
    latency_ms: float


def choose(speeds: Sequence[Speed]) -> Speed:
    """Returns the smallest batch that gives 95 % of the best throughput; one that takes over 40 ms only if all do."""
    quick = [speed for speed in speeds if speed.latency_ms <= _PATIENCE_MS] or speeds[:1]
    best = max(speed.fps for speed in quick)
    return next(speed for speed in quick if speed.fps >= _ENOUGH * best)


def tuned(key: Sequence[object], sizes: Sequence[int], measure: Callable[[int], Speed]) -> int:
    """Returns the batch size to use, measuring each where that wasn't done before.

    Args:
        key: all that the speeds depend on: model, engine, its version, device...
        sizes: what may be chosen, ascending.
        measure: measures one size.
    """
    if len(sizes) == 1:
        return sizes[0]
    name = hashlib.sha256("\0".join(map(str, [*key, *sizes])).encode()).hexdigest()[:20]
    path = cached_file("batch", f"{name}.json")
    speeds = _read(path)
    if speeds is None:
        began = time.perf_counter()
        is_busy = _is_busy()
        speeds, is_steady = _measured(sizes, measure)
        log.info("measured the batch sizes %s in %.1f s", ", ".join(map(str, sizes)), time.perf_counter() - began)
        if is_busy or not is_steady:
            log.info("the machine was busy meanwhile: they will be measured again next time")
        else:
            _remember(path, speeds)
    chosen = choose(speeds)
    found = "; ".join(f"{speed.batch}: {speed.fps:.0f} fps, {speed.latency_ms:.1f} ms" for speed in speeds)
    log.info("batch size %d (%s)", chosen.batch, found)
    return chosen.batch


def _measured(sizes: Sequence[int], measure: Callable[[int], Speed]) -> tuple[list[Speed], bool]:
    """Measures in turn, several times; returns each size's best, and whether the rounds agree."""
    rounds = [[measure(size) for size in sizes] for _ in range(_ROUNDS)]
    of_sizes = list(zip(*rounds, strict=True))
    spread = max(max(s.fps for s in of_one) / min(s.fps for s in of_one) for of_one in of_sizes)
    return [max(of_one, key=lambda speed: speed.fps) for of_one in of_sizes], spread <= _STEADY


def _is_busy() -> bool:
    """Whether others use the processor: what is measured now holds for now alone."""
    try:
        return os.getloadavg()[0] > _IDLE_LOAD * (os.cpu_count() or 1)
    except (OSError, AttributeError):  # Windows doesn't tell
        return False


def _remember(path: Path, speeds: Sequence[Speed]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(json.dumps([asdict(speed) for speed in speeds]), encoding="utf-8")
    except OSError as error:
        log.info("can't remember the batch sizes' speeds in %r: %s", str(path), error.strerror or error)


def _read(path: Path) -> list[Speed] | None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Speed(int(e["batch"]), float(e["fps"]), float(e["latency_ms"])) for e in entries] or None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
