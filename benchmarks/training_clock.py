"""Timing of some steps of a training loop that tells its progress, and its end after them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import busy_core_s
from streamer.common.interrupt import Interrupt


@dataclass(frozen=True)
class Window:
    """What some steps took.

    Attributes:
        images: that they trained on.
        wall_s: seconds by the clock, the device's work included.
        cpu_s: processor seconds of this process and its workers.
        waited_s: of `wall_s`, time in which the loop had no batch.
        others_cores: cores that the rest of the machine kept busy meanwhile; None where that can't be told.
        memory_bytes: greatest memory that PyTorch has held on the GPU so far; None on a CPU.
    """

    images: int
    wall_s: float
    cpu_s: float
    waited_s: float
    others_cores: float | None
    memory_bytes: int | None

    @property
    def images_per_s(self) -> float:
        """Pictures a second."""
        return self.images / self.wall_s


@dataclass(frozen=True)
class _Mark:
    wall_s: float
    cpu_s: float
    busy_s: float | None
    waited_s: float


class StepClock(Interrupt):
    """Times the steps after a warm-up, and ends the loop as a signal would.

    Attributes:
        waited_s: time without a batch so far, which the loop counts.
    """

    def __init__(self, batch: int, warmup: int, steps: int, device: torch.device) -> None:
        """Takes pictures a step, steps that aren't timed, and steps that are."""
        super().__init__()
        self.waited_s = 0.0
        self._batch, self._device = batch, device
        self._read_waited_s: Callable[[], float] = lambda: self.waited_s
        self._marks: dict[int, _Mark] = {}
        self._places = (1, warmup, warmup + steps)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def happened(self) -> bool:
        """Whether all steps are timed."""
        return self._places[-1] in self._marks

    def count_waits(self, read_s: Callable[[], float]) -> None:
        """Takes what tells `waited_s` of a loop that doesn't set it."""
        self._read_waited_s = read_s

    def report_progress(self, progress: object) -> None:
        """Takes the number of steps done."""
        if progress in self._places and progress not in self._marks:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            assert isinstance(progress, int)
            self._marks[progress] = _Mark(time.perf_counter(), _cpu_s(), busy_core_s(), self._read_waited_s())

    @property
    def warm(self) -> Window:
        """Returns the steps after the warm-up."""
        return self._between(*self._places[1:])

    @property
    def cold(self) -> Window:
        """Returns the steps of the warm-up after the very first."""
        return self._between(*self._places[:2])

    def _between(self, first: int, last: int) -> Window:
        begin, end = self._marks[first], self._marks[last]
        wall_s, cpu_s = end.wall_s - begin.wall_s, end.cpu_s - begin.cpu_s
        others = None
        if begin.busy_s is not None and end.busy_s is not None:
            others = max(0.0, (end.busy_s - begin.busy_s - cpu_s) / wall_s)
        memory = torch.cuda.max_memory_reserved(self._device) if self._device.type == "cuda" else None
        return Window((last - first) * self._batch, wall_s, cpu_s, end.waited_s - begin.waited_s, others, memory)


def _cpu_s() -> float:
    """Returns the processor seconds of this process and of its running children."""
    used = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used
