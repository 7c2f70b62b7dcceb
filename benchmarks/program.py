"""This program, or another, as a process of its own: what it costs while it runs, and in all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.common.closeable import Closeable
from streamer.common.errors import StreamerError

_ROOT = Path(__file__).resolve().parent.parent
STREAMER = (sys.executable, str(_ROOT / "run_stream.py"))
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_TIMEOUT_S = 600.0
_SAID = 400


@dataclass(frozen=True)
class Cost:
    """What a program took.

    Attributes:
        cpu_s: processor seconds of all its threads.
        wall_s: how long that was.
    """

    cpu_s: float
    wall_s: float

    @property
    def ms_a_s(self) -> float:
        """Processor milliseconds a second."""
        return self.cpu_s / self.wall_s * 1e3


class Program(Closeable):
    """A process from construction to its end; a context manager that ends it."""

    def __init__(
        self, command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it in a folder; what it prints goes to a file."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._began_s = time.perf_counter()
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
            env=os.environ | {"PYTHONPATH": str(_ROOT)} | dict(environment or {}),
        )  # fmt: skip
        self._command = " ".join(command)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def cost(self) -> Cost:
        """Returns what it took since it was started; it must not have been waited for.

        Raises:
            StreamerError: if it has ended.
        """
        wall_s = time.perf_counter() - self._began_s
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        if fields[0] == "Z":
            raise StreamerError(f"{self._command} ended early: {self.said[-_SAID:]}")
        return Cost((int(fields[11]) + int(fields[12])) / _TICKS, wall_s)

    def steady(self, warm_up_s: float, seconds: float) -> Cost:
        """Waits for `warm_up_s` from the start of the process; returns what the `seconds` after that cost."""
        time.sleep(max(0.0, warm_up_s - (time.perf_counter() - self._began_s)))
        before = self.cost()
        time.sleep(seconds)
        after = self.cost()
        return Cost(after.cpu_s - before.cpu_s, after.wall_s - before.wall_s)

    def wait(self, *, may_fail: bool = False) -> Cost:
        """Waits for its end; returns what all of it cost.

        Raises:
            StreamerError: if it failed, or takes ten minutes.
        """
        deadline_s = time.perf_counter() + _TIMEOUT_S
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > deadline_s:
                raise StreamerError(f"{self._command} doesn't end: {self.said[-_SAID:]}")
            time.sleep(0.01)
        wall_s = time.perf_counter() - self._began_s
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode and not may_fail:
            raise StreamerError(f"{self._command} failed: {self.said.strip()[-_SAID:]}")
        return Cost(used.ru_utime + used.ru_stime, wall_s)

    @property
    def said(self) -> str:
        """What it has printed."""
        number = self._said.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def close(self) -> None:
        """Ends it, if it runs. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.close()
