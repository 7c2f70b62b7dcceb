"""Chooses the tile of each convolution by measuring them on this GPU, once for each shape."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streamer.common.atomic_file import atomic_file
from streamer.common.cache import cached_file
from streamer.common.errors import counted
from streamer.cuda.compiler import cache_key, cubin, find_nvcc
from streamer.cuda.engine import capture_graph
from streamer.cuda.gpu import Gpu
from streamer.cuda.module import KernelLaunch, Stopwatch, most_shared_memory
from streamer.engines.int8.program import Launch, ProgramBuilder
from streamer.engines.int8.tiles import Shape, Tile

log = logging.getLogger(__name__)

_REPEATS = 20
_ROUNDS = 3


class TileChoice:
    """Measured choices, kept in the cache folder under everything that they depend on."""

    def __init__(self, gpu: Gpu, launcher: Callable[[Launch, int], KernelLaunch]) -> None:
        """Reads earlier choices for this GPU; `launcher` prepares a launch on a stream.

        Raises:
            UnavailableError: `cuda-bindings` isn't installed.
        """
        self._gpu, self._launcher = gpu, launcher
        self._most_shared = most_shared_memory(gpu)
        key = cache_key("convolution", gpu.arch, find_nvcc()[1], [gpu.name])
        self._path = cached_file("cuda", f"tiles-{gpu.arch}-{key}.json")
        self._names = _read(self._path)

    def best(self, shape: Shape) -> Tile:
        """Returns the fastest tile for a shape that was measured; else a usual one."""
        return self._known(shape) or self._tiles(shape)[0]

    def _tiles(self, shape: Shape) -> list[Tile]:
        """Returns the tiles that this GPU has memory for."""
        return [tile for tile in shape.tiles if tile.shared(shape) <= self._most_shared]

    def _known(self, shape: Shape) -> Tile | None:
        chosen = self._names.get(str(shape))
        return next((tile for tile in self._tiles(shape) if str(tile) == chosen), None)

    def tune(self, builder: ProgramBuilder, stream: int) -> None:
        """Measures the tiles for all of a program's shapes that are new here, and keeps the result."""
        new = dict.fromkeys(shape for shape in builder.shapes() if self._known(shape) is None)
        if not new:
            return
        variants = {tuple(tile.macros(shape).items()) for shape in new for tile in self._tiles(shape)}
        log.info(
            "measuring the int8 engine's kernels for %s on %s, once", counted(len(new), "layer shape"), self._gpu.name
        )
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # nvcc is another process
            list(pool.map(lambda macros: cubin("convolution", self._gpu.arch, dict(macros)), variants))
        times_ms: dict[Shape, dict[Tile, float]] = {shape: {} for shape in new}
        for index in range(max(len(self._tiles(shape)) for shape in new)):
            self._measure(builder, index, times_ms, stream)
        for shape, found in times_ms.items():
            best = min(found, key=lambda tile: found[tile])
            self._names[str(shape)] = str(best)
            log.info("%s: %s, %.1f us", shape, best, 1e3 * found[best])
        _write(self._path, self._names)

    def _measure(
        self, builder: ProgramBuilder, index: int, times_ms: dict[Shape, dict[Tile, float]], stream: int
    ) -> None:
        """Measures each shape with its tile of that index."""
        order: list[Shape | None] = []

        def choose(shape: Shape) -> Tile:
            tiles = self._tiles(shape)
            tile = tiles[min(index, len(tiles) - 1)]
            order.append(shape if shape in times_ms and tile not in times_ms[shape] else None)
            return tile

        convolutions = [one for one in builder.launches(choose) if isinstance(one.kernel, Tile)]
        for launch, shape in zip(convolutions, order, strict=True):
            if shape is not None and isinstance(launch.kernel, Tile) and launch.kernel not in times_ms[shape]:
                times_ms[shape][launch.kernel] = self._time_ms(launch, stream)

    def _time_ms(self, launch: Launch, stream: int) -> float:
        """Returns the median time of one launch among many."""
        prepared = self._launcher(launch, stream)

        def repeat() -> None:
            for _ in range(_REPEATS):
                prepared()

        with self._gpu.active():
            work = capture_graph(stream, repeat) or repeat
            stopwatch = Stopwatch(stream)
            try:
                return sorted(stopwatch.ms(work) for _ in range(_ROUNDS))[_ROUNDS // 2] / _REPEATS
            finally:
                stopwatch.close()


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(tile) for name, tile in found.items()} if isinstance(found, dict) else {}


def _write(path: Path, names: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(json.dumps(names, indent=0), encoding="utf-8")
    except OSError as error:
        log.info("can't keep the kernels' choice in %r: %s", str(path), error.strerror or error)
