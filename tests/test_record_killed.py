"""A recording whose process is killed: what it wrote can be played."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import pytest

from streamer.sinks.spec import RECORD_ENDINGS
from tests.fakes import wait_for
from tests.recordings import read
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.rtsp.sound import Microphone

FFMPEG = shutil.which("ffmpeg")


def check(path: Path) -> None:
    """Has another player play all of it, where there is one."""
    if FFMPEG is not None:
        command = [FFMPEG, "-v", "error", "-i", str(path), "-f", "null", "-"]
        told = subprocess.run(command, capture_output=True, timeout=120, text=True, check=False)
        assert told.returncode == 0 and "Invalid data" not in told.stderr, told.stderr


def kill_once(folder: Path, seed: int) -> None:
    choose = random.Random(seed)
    ending = choose.choice(RECORD_ENDINGS)
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "streamer",
        "--record",
        str(folder / f"door{ending}"),
        "--detect-every",
        "off",
        "-q",
    ]
    with RtspServer(Loop(fps=30), sound=Microphone("aac")) as server:
        process = subprocess.Popen([*command, server.url, *choose.choice([[], ["--segment", "2s"]])])
        wait_for(lambda: list(folder.glob(f"*{ending}")))
        time.sleep(2.5 + 3 * choose.random())  # a moment by chance: the test itself
        process.kill()
        process.wait(60)
    parts = sorted(folder.glob(f"*{ending}"))
    pictures: list[int] = []
    for part in parts:
        try:
            pictures += read(part)[0]
        except (av.FFmpegError, StopIteration, IndexError):
            assert part == parts[-1] and len(parts) > 1, "only a segment that has just begun may hold nothing yet"
        else:
            check(part)
    assert len(pictures) >= 15
    assert {(after - before) % 30 for before, after in pairwise(pictures)} == {1}


def test_a_killed_recording_can_be_played(tmp_path: Path) -> None:
    for seed in range(2):
        kill_once(tmp_path / str(seed), seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_recordings_killed_at_fifty_moments_can_be_played(tmp_path: Path) -> None:
    for seed in range(100, 150):
        kill_once(tmp_path / str(seed), seed)
