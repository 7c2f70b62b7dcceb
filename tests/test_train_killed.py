"""The verb train, stopped by signals and resumed by the command that it names."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from calibration.training.checkpoint_file import read_checkpoint  # noqa: E402
from tests.test_training_resume import assert_same_run  # noqa: E402
from tests.training_runs import LAUNCH, narrow_spec, write_config, write_set  # noqa: E402

pytestmark = pytest.mark.slow

STEPS = 24
_TIMEOUT_S = 200


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run that writes a checkpoint at most epochs."""
    root = tmp_path_factory.mktemp("set")
    data = write_set(root / "set", train=7)
    config = write_config(root / "narrow.yaml", narrow_spec())
    return [
        "--model-config", str(config), "--data", str(data), "--init", "none", "--batch", "3", "--steps", str(STEPS),
        "--device", "cpu", "--workers", "2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    runs = tmp_path_factory.mktemp("whole")
    done = start([*options, "--runs", str(runs)]).communicate(timeout=_TIMEOUT_S)
    assert (runs / "train-1" / "best.onnx").is_file(), done
    return runs / "train-1"


def start(options: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LAUNCH, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def saved_step(folder: Path) -> int:
    """Returns the step of a run's last checkpoint."""
    path = folder / "last.ckpt"
    return int(read_checkpoint(path)["global_step"]) if path.exists() else 0


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    """Reads what a child prints until an epoch has been validated."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.match(r"epoch (\d+), step", line)
        if found and int(found[1]) >= epoch:
            return
    raise AssertionError(process.communicate(timeout=_TIMEOUT_S))


def test_killed_three_times_it_ends_with_the_same_weights(options: list[str], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train-1"
    for number, epoch in enumerate((1, 4, 8)):
        process = start(["--resume", str(folder)] if number else [*options, "--runs", str(tmp_path)])
        wait_for_epoch(process, epoch)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=_TIMEOUT_S)
        assert process.returncode == -signal.SIGKILL and not (folder / "best.onnx").exists()
    process = start(["--resume", str(folder)])
    _, complained = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 0, complained
    assert_same_run(whole, folder)
    assert (folder / "best.onnx").read_bytes() == (whole / "best.onnx").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_names_the_command_that_goes_on(
    number: signal.Signals, options: list[str], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "train-1"
    process = start([*options, "--runs", str(tmp_path)])
    wait_for_epoch(process, 2)
    process.send_signal(number)
    said, complained = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 128 + number, complained
    found = re.search(r"stopped after step (\d+); go on with: python (.*)", said)
    assert found, said
    assert saved_step(folder) == int(found[1]) < STEPS
    words = [word.strip() for word in shlex.split(found[2])]
    assert words[-2:] == ["--resume", str(folder)]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=_TIMEOUT_S,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, folder)
