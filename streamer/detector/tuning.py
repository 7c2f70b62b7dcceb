"""How many frames to compute together: measured once on this machine, and stored in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from streamer.common.atomic_file import atomic_file
from streamer.common.cache import cached_file

log = logging.getLogger(__name__)

_SUFFICIENT = 0.95
_MAX_LATENCY_MS = 40.0
_ROUNDS = 3
_MAX_SPREAD = 1.25
_BUSY_LOAD_PER_CORE = 0.5


@dataclass(frozen=True)
class BatchSpeed:
    """The measured speed of a batch size.

    Attributes:
        batch: frames computed together.
        fps: frames a second with as many batches in flight as the detector has.
        latency_ms: time of a single batch alone.
    """

    batch: int
    fps: float
    latency_ms: float


def choose(speeds: Sequence[BatchSpeed]) -> BatchSpeed:
    """Returns the smallest batch with 95 % of the best throughput, of those within 40 ms if there are any."""
    quick = [speed for speed in speeds if speed.latency_ms <= _MAX_LATENCY_MS] or speeds[:1]
    best = max(speed.fps for speed in quick)
    return next(speed for speed in quick if speed.fps >= _SUFFICIENT * best)


def tune_batch(
    key: Sequence[object],
    sizes: Sequence[int],
    measure: Callable[[int], BatchSpeed],
    *,
    max_spread: float = _MAX_SPREAD,
) -> int:
    """Returns the batch size to use, measured unless the cache has it.

    Args:
        key: everything the speeds depend on: model, engine, its version, device...
        sizes: the candidates, ascending.
        measure: measures one size.
        max_spread: the speeds aren't stored where a size's fastest round is faster than its slowest by more than this.
    """
    if len(sizes) == 1:
        return sizes[0]
    name = hashlib.sha256("\0".join(map(str, [*key, *sizes])).encode()).hexdigest()[:20]
    path = cached_file("batch", f"{name}.json")
    speeds = _read(path)
    if speeds is None:
        started_at_s = time.perf_counter()
        is_busy = is_machine_busy()
        speeds, spread = _measure_all(sizes, measure)
        took_s = time.perf_counter() - started_at_s
        log.info("measured the batch sizes %s in %.1f s", ", ".join(map(str, sizes)), took_s)
        if is_busy or spread > max_spread:
            log.info("the machine is busy: the batch sizes will be measured again next time")
        else:
            _store(path, speeds)
    chosen = choose(speeds)
    found = "; ".join(f"{speed.batch}: {speed.fps:.0f} fps, {speed.latency_ms:.1f} ms" for speed in speeds)
    log.info("batch size %d (%s)", chosen.batch, found)
    return chosen.batch


def _measure_all(sizes: Sequence[int], measure: Callable[[int], BatchSpeed]) -> tuple[list[BatchSpeed], float]:
    """Measures all sizes in several rounds; returns each size's best, and the greatest ratio between rounds."""
    rounds = [[measure(size) for size in sizes] for _ in range(_ROUNDS)]
    of_sizes = list(zip(*rounds, strict=True))
    spread = max(max(s.fps for s in of_one) / min(s.fps for s in of_one) for of_one in of_sizes)
    return [max(of_one, key=lambda speed: speed.fps) for of_one in of_sizes], spread


def is_machine_busy() -> bool:
    """Returns whether other programs use the processor."""
    try:
        return os.getloadavg()[0] > _BUSY_LOAD_PER_CORE * (os.cpu_count() or 1)
    except (OSError, AttributeError):  # Windows has no load average
        return False


def _store(path: Path, speeds: Sequence[BatchSpeed]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(json.dumps([asdict(speed) for speed in speeds]), encoding="utf-8")
    except OSError as error:
        log.info("can't store the batch sizes' speeds in %r: %s", str(path), error.strerror or error)


def _read(path: Path) -> list[BatchSpeed] | None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [BatchSpeed(int(e["batch"]), float(e["fps"]), float(e["latency_ms"])) for e in entries] or None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
