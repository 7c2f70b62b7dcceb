"""How decoding processes are started: whose code they run, and what a Ctrl-C does to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.sources import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool
from tests.test_cli import NO_DISPLAY, ROOT, SAMPLE, command, model, write_clip  # noqa: F401 - `model` is a fixture

WAIT_S = 60
PLANTED = ("av", "numpy", "cv2", "queue", "socket", "streamer", "sitecustomize", "usercustomize")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder with files that are named like modules, and leave a trace when they are run."""
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text("open('RUN', 'w').close()\nraise ImportError('planted')\n")
    write_clip(tmp_path / "clip.mp4", 4)
    return tmp_path


def test_no_file_of_the_current_folder_is_run(planted: Path, model: Path) -> None:  # noqa: F811
    arguments = ("--source", "clip.mp4", "--output", "null", "--decode-processes", "1", "--model", model)
    done = subprocess.run(
        command(*arguments, "--no-self-check", "--log-level", "warning"),
        cwd=planted, env=NO_DISPLAY, capture_output=True,
        text=True, timeout=WAIT_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not (planted / "RUN").exists()


def test_the_package_is_found_where_the_run_found_it(tmp_path: Path) -> None:
    """By PYTHONPATH from a clone, and from the clone's own folder, also where another version is installed."""
    other = tmp_path / "installed" / "streamer"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('another version')\n")
    installed = {"PYTHONPATH": str(other.parent)}
    code = (
        "from streamer.sources.workers import DecoderPool as D"
        "; from streamer.sources import SourceOptions as O, SourceSpec as S"
        f"\nwith D(1) as d: d.open(S.parse({str(SAMPLE)!r}), O()).wait_ready()"
    )
    for folder, environment in ((tmp_path, {"PYTHONPATH": str(ROOT)}), (ROOT, {}), (ROOT, installed)):
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, cwd=folder, env=NO_DISPLAY | environment, capture_output=True, timeout=WAIT_S)
        assert (done.returncode, done.stderr) == (0, b"")


def test_an_early_interrupt_does_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with DecoderPool(3) as processes:
        before = [worker.pid for worker in processes.status()]
        for pid in before:
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
        for pid in before:
            source = processes.open(SourceSpec.parse("sample"), SourceOptions())
            source.wait_ready()
            os.kill(pid, signal.SIGINT)
            assert next(iter(source)).index == 0
        assert [worker.pid for worker in processes.status()] == before
    assert capfd.readouterr().err == ""


def test_signals_of_the_run_are_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with DecoderPool(1):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
