"""Timing: wall and processor time of one contender's whole run, and the figures of several rounds."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.clips import count_frames
from benchmarks.contenders import Contender
from benchmarks.machine import busy_core_s


class Miscounted(Exception):
    """A contender wrote another number of frames than the clip has, so its frame rate would mean nothing."""


@dataclass(frozen=True)
class Round:
    """One run over a clip, from opening the model to the closed file; imports are not in it.

    Attributes:
        frames: different frames written.
        wall_s: seconds by the clock.
        cpu_s: processor seconds of all threads of this process.
        others_cores: cores that the rest of the machine kept busy meanwhile; None where that can't be told.
    """

    frames: int
    wall_s: float
    cpu_s: float
    others_cores: float | None = None


@dataclass(frozen=True)
class Spread:
    """The median of several rounds with the least and the most."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Returns the spread of `values`, at least one."""
        return cls(median(values), min(values), max(values))


@dataclass
class Figures:
    """What one contender reached.

    Attributes:
        name: the contender's.
        wanted: see `Contender.wanted`.
        rounds: as measured, in order.
        psnr_db: written video against the frames drawn, mean and worst frame; None before it was worked out.
        size_bytes: of the written video.
    """

    name: str
    wanted: float | None
    rounds: list[Round]
    psnr_db: tuple[float, float] | None = None
    size_bytes: int = 0

    @property
    def fps(self) -> Spread:
        """Frames a second over the whole run."""
        return Spread.of([one.frames / one.wall_s for one in self.rounds])

    @property
    def cpu_ms_per_frame(self) -> Spread:
        """Processor milliseconds a frame."""
        return Spread.of([one.cpu_s / one.frames * 1e3 for one in self.rounds])

    @property
    def others_cores(self) -> float | None:
        """The most cores that the rest of the machine kept busy in any round; None where that can't be told."""
        return max((one.others_cores for one in self.rounds if one.others_cores is not None), default=None)


def measure(contender: Contender, clip: Path, output: Path) -> Round:
    """Runs `contender` once.

    Raises:
        Miscounted: if the written file doesn't hold every frame of the clip exactly once.
    """
    output.unlink(missing_ok=True)
    gc.collect()
    busy_s = busy_core_s()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    frames = contender.run(clip, output)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    others_s = (busy_core_s() or 0.0) - busy_s - cpu_s if busy_s is not None else None
    wanted, written = count_frames(clip), count_frames(output)
    if not wanted == written == frames:
        raise Miscounted(f"{contender.name}: the clip has {wanted} frames, it says {frames}, its file holds {written}")
    return Round(frames, wall_s, cpu_s, max(0.0, others_s / wall_s) if others_s is not None else None)
