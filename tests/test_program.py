"""A program's first and last instructions, in processes of their own: signals, standard streams, limits."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from streamer.app import limits
from streamer.common.errors import StreamerError
from tests.test_cli import NO_DISPLAY, ROOT, command, model, write_clip  # noqa: F401 - `model` is a fixture

NUMBERS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]

# A program whose main thread hangs in a library, where no Python code runs and no signal ends the waiting.
HANGS = """
import ctypes, logging, sys
from pathlib import Path
from streamer.common import interrupt
from streamer.common.interrupt import cleanup_on_exit
from streamer.app.program import run_program

def hang():
    print("ready", flush=True)
    lock = ctypes.create_string_buffer(128)
    while True:
        ctypes.CDLL(None).pthread_mutex_lock(lock)

def main(signals):
    {body}

run_program(lambda: main)
"""


class Program:
    """A program of `HANGS`, up to where it hangs."""

    def __init__(self, folder: Path, body: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HANGS.format(body=body)], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Waits for its end; returns its exit status and what it said."""
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.mark.parametrize(("number", "status"), NUMBERS)
def test_a_signal_ends_a_program_that_hangs_in_a_library(tmp_path: Path, number: signal.Signals, status: int) -> None:
    (tmp_path / "partial").write_text("")
    program = Program(tmp_path, "with cleanup_on_exit(Path('partial').unlink): hang()")
    program.signal(number)
    assert program.end() == (status, f"stopped by {number.name}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_a_program_that_closes_its_outputs(tmp_path: Path) -> None:
    body = """import time
    signals.defer()
    print("ready", flush=True)
    while not signals.happened:
        time.sleep(0.001)
    hang()"""
    program = Program(tmp_path, body)
    program.signal(signal.SIGTERM)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "ready\n"  # the first has been noted
    program.signal(signal.SIGINT)
    status, err = program.end()
    assert (status, err.count("\n")) == (130, 1)
    assert "outputs may be incomplete" in err


def test_a_program_that_has_closed_its_outputs_ends_at_once(tmp_path: Path) -> None:
    program = Program(tmp_path, "signals.defer(); signals.stop_deferring(); hang()")
    program.signal(signal.SIGINT)
    assert program.end() == (130, "stopped by SIGINT\n")


@pytest.mark.parametrize("attends", [True, False])
def test_a_program_in_which_nothing_moves_ends_within_the_time_stated(tmp_path: Path, attends: bool) -> None:
    body = "interrupt._PROGRESS_TIMEOUT_S = interrupt._START_TIMEOUT_S = signals._timeout_s = 0.1; signals.defer(); "
    program = Program(tmp_path, body + ("signals.report_progress(0); " if attends else "") + "hang()")
    program.signal(signal.SIGTERM)
    status, err = program.end()
    assert (status, err) == (143, "stopped by SIGTERM, without progress for 0.1 s: outputs may be incomplete\n")


def test_a_program_in_which_something_moves_goes_on(tmp_path: Path) -> None:
    body = """import time
    interrupt._PROGRESS_TIMEOUT_S = 0.5
    signals.defer()
    print("ready", flush=True)
    for moved in range(100):
        signals.report_progress(moved)
        time.sleep(0.02)
    print(signals.happened)
    return 0"""
    program = Program(tmp_path, body)
    program.signal(signal.SIGTERM)
    out, err = program.process.communicate(timeout=60)
    assert (program.process.returncode, out, err) == (143, "True\n", "")


@pytest.mark.parametrize("after", [3, 100, 400])
@pytest.mark.parametrize(("number", "status"), NUMBERS)
def test_a_signal_between_imports(tmp_path: Path, number: signal.Signals, status: int, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", ROOT / "run_stream.py", "--source", "sample", "--output", "o.mp4"],
        cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    begun = 0
    for line in process.stderr:
        begun += line.endswith(" streamer.app.program\n") or bool(begun)
        if begun == after:
            process.send_signal(number)
            break
    err = process.stderr.read()  # not `communicate`, which doesn't know what the loop has read ahead
    process.communicate(timeout=60)
    assert (process.returncode, [line for line in err.splitlines() if not line.startswith("import time:")]) == (
        status,
        [f"stopped by {number.name}"],
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), NUMBERS)
def test_a_signal_to_calibration(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "calibration", "export", "--help"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(" numpy\n"):
            process.send_signal(number)
            break
    err = process.stderr.read()  # not `communicate`, which doesn't know what the loop has read ahead
    process.communicate(timeout=60)
    assert process.returncode == status
    assert f"stopped by {number.name}\n" in err
    assert "Traceback" not in err


def closed(*descriptors: int) -> Any:
    """Returns what closes descriptors in a child before it begins."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@pytest.mark.parametrize("how", ["closed", "full", "gone", "latin-1"])
def test_a_standard_output_that_takes_nothing_costs_no_report(tmp_path: Path, model: Path, how: str) -> None:  # noqa: F811
    write_clip(tmp_path / "c.mp4", 5)
    arguments = command(
        "--source", "c.mp4", "--output", "\u65e5.jsonl", "--model", model, "--report", "r.json", "--no-progress"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as gone:
        done = subprocess.run(
            arguments, cwd=tmp_path, env=NO_DISPLAY | ({"PYTHONIOENCODING": "latin-1"} if how == "latin-1" else {}),
            stdout={"full": full, "gone": gone}.get(how, subprocess.PIPE), stderr=subprocess.PIPE,
            preexec_fn=closed(1) if how == "closed" else None, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["sources"][0]["frames_processed"] == 5
    if how == "latin-1":
        assert rb"wrote \u65e5.jsonl" in done.stdout
    assert (b"can't print to standard output" in done.stderr) == (how == "full")


def test_closed_standard_streams_are_not_written_into_outputs(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "c.mp4", 5)
    (tmp_path / "o.jsonl").write_text("old\n")  # so that there is something to warn of
    arguments = command("--source", "c.mp4", "--output", "o.jsonl", "--model", model, "--log-level", "debug")
    done = subprocess.run(arguments, cwd=tmp_path, env=NO_DISPLAY, preexec_fn=closed(0, 1, 2), timeout=120)
    assert done.returncode == 0
    assert [json.loads(line)["index"] for line in (tmp_path / "o.jsonl").read_text().splitlines()] == list(range(5))


def test_a_list_that_cannot_be_printed_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("--list", "sources"), stdout=full, stderr=subprocess.PIPE, env=NO_DISPLAY, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "can't print to standard output" in done.stderr


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        (resource.RLIMIT_STACK, 256 << 10, "the limit for a stack is 256 (ulimit -s)"),
        (resource.RLIMIT_AS, 1 << 30, "the limit for memory is 1048576 (ulimit -v)"),
        (resource.RLIMIT_NOFILE, 20, "the limit for open files is 20 (ulimit -n)"),
    ],
)
def test_a_limit_that_is_too_low_is_one_clear_line(tmp_path: Path, limit: int, value: int, says: str) -> None:
    def lower() -> None:
        resource.setrlimit(limit, (value, value))

    done = subprocess.run(
        command("--source", "sample", "--output", "o.jsonl"), cwd=tmp_path, env=NO_DISPLAY, capture_output=True,
        preexec_fn=lower, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1


def test_too_few_threads_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    limits.check_limits()
    start, started = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StreamerError, match="the system allows only 3 more threads.*raise ulimit -u"):
        limits.check_limits()
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("can't start new thread"), "the system allows no more threads"),
        (MemoryError(), "there is not enough memory"),
        (ImportError("x.so: failed to map segment from shared object"), "there is not enough memory"),
        (ValueError("a\nb"), "ValueError: a b"),
    ],
)
def test_errors_that_come_of_limits_name_the_fix(error: Exception, says: str) -> None:
    assert limits.in_words(error).startswith(says)
