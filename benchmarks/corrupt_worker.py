"""A process that runs the program on one damaged input after another, and what became of each."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.corrupt_cases import Kind, case_of
from streamer.common.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from streamer.runtime.threads import STUCK

TIME_LIMIT_S = 20
PEAK_BYTES = 1 << 30
ADDRESS_SPACE_BYTES = 4 << 30

_END = re.compile(r"(\d+) frames? in [\d.]+ s, .*")
_SKIPPED = "WARNING: skipped "
# libjpeg's, which can't be silenced, of a picture that it shows nevertheless
_REMARK = re.compile(
    r"(Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS parameters|Unsupported marker"
    r"|Warning: unknown JFIF revision).*"
)
_CATCH_ALL = "(--log-level debug shows where)"
_STARTING_S = 60


@dataclass(frozen=True)
class Result:
    """What became of one case.

    Attributes:
        case: its number.
        group, name: its kind of input.
        how: what was damaged.
        arguments: the command line.
        outcome: one of `benchmarks.corrupt.GOOD` or `BAD`.
        status: exit status; minus the signal's number after a crash, None after a hang.
        seconds: from writing the input to the end.
        peak_bytes: most memory resident meanwhile, 0 when it didn't end.
        text: what was printed.
    """

    case: int
    group: str
    name: str
    how: str
    arguments: list[str]
    outcome: str
    status: int | None
    seconds: float
    peak_bytes: int
    text: str


Program = Callable[[list[str]], int]


def run_program(arguments: list[str]) -> int:
    """Runs the program on a command line in this process and returns its exit status."""
    from streamer.app.cli import main

    logging.getLogger().handlers.clear()  # so that the program sets its own up, as in a process of its own
    return main(arguments)


class Worker:
    """One process, started when it is needed and again after a crash or a hang. Driven by one thread.

    Attributes:
        folder: where the last case ran; emptied for each.
    """

    def __init__(
        self, originals: Path, folder: Path, program: Program = run_program, time_limit_s: float = TIME_LIMIT_S
    ) -> None:
        """Starts nothing yet.

        Args:
            originals: the folder of whole inputs.
            folder: where to work; it doesn't exist yet.
            program: what is run: takes a command line, returns an exit status.
            time_limit_s: how long a case may take.
        """
        self.folder = folder / "case"
        self._program = program
        self._time_limit_s = time_limit_s
        self._originals = originals
        self._log = folder / "printed.txt"
        folder.mkdir()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, case: int) -> Result:
        """Runs one case.

        Raises:
            TimeoutError: if the process doesn't come up.
        """
        connection = self._started()
        kind, _ = case_of(case)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self._log.write_bytes(b"")
        began = time.perf_counter()
        connection.send(case)
        status: int | None = None
        peak_bytes = 0
        outcome = "hang"
        arguments, how = [], "not written"
        try:
            arguments, how = connection.recv()
            if connection.poll(self._time_limit_s):
                status, peak_bytes = connection.recv()
                outcome = ""
        except (EOFError, ConnectionError):
            assert self._process is not None
            self._process.join()
            status, outcome = self._process.exitcode, "crash"
        seconds = time.perf_counter() - began
        text = self._log.read_text(encoding="utf-8", errors="replace")
        outcome = outcome or judge(kind, status, text, peak_bytes)
        if outcome in ("hang", "crash"):
            self._end()
        return Result(case, kind.group, kind.name, how, arguments, outcome, status, seconds, peak_bytes, text)

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._log.touch()
            arguments = (theirs, self._originals, self.folder, self._log, self._program)
            self._process = context.Process(target=_serve, args=arguments)
            self._process.start()
            theirs.close()
            self._connection = ours
            if not ours.poll(_STARTING_S):
                raise TimeoutError(f"the worker process did not start within {_STARTING_S} s")
            ours.recv()
        return self._connection

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def judge(kind: Kind, status: int | None, text: str, peak_bytes: int) -> str:
    """Returns the outcome of a case whose process lives on.

    Args:
        kind: its kind of input.
        status: exit status.
        text: what the program printed to either stream.
        peak_bytes: most memory resident meanwhile.
    """
    lines = text.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    skipped = [line for line in lines if line.startswith(_SKIPPED)]
    ended = [match for match in map(_END.fullmatch, lines) if match]
    expected = ("error: ", "WARNING: ", "INFO: ")
    others = [x for x in lines if not (x.startswith(expected) or _END.fullmatch(x) or _REMARK.fullmatch(x))]
    if "Traceback (most recent call last)" in text or _CATCH_ALL in text:
        return "traceback"
    if STUCK in text:
        return "hang"
    if peak_bytes > PEAK_BYTES:
        return "memory"
    if others or len(errors) != (status != EXIT_OK) or status not in (EXIT_OK, EXIT_FAILED, EXIT_USAGE):
        return "unclear"
    if errors:
        return "clear error"
    if len(ended) != 1:
        return "unclear"
    if kind.pictures is not None and int(ended[0][1]) + len(skipped) != kind.pictures:
        return "lost picture"
    return "counted skip" if skipped else "normal run"


def _serve(connection: Connection, originals: Path, folder: Path, printed: Path, program: Program) -> None:
    """The process: takes case numbers until the other side closes; sends what it runs, then how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        os.environ.pop(name, None)
    log = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    connection.send("ready")
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        os.chdir(folder)
        kind, seed = case_of(case)
        arguments, how = kind.write(originals, seed)
        connection.send((arguments, how))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        status = program(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send((status, _peak_bytes()))


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
