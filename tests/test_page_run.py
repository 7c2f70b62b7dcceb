"""A run with a live page among its outputs: what it says, several sources on one page, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.sinks.page_address import PageAddress
from tests.fakes import wait_for
from tests.page_viewers import Viewer, client
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cli import NO_DISPLAY, SAMPLE, command, model, write_clip  # noqa: F401 - `model` is a fixture


class Address:
    """Where a running program serves its page."""

    def __init__(self, text: str) -> None:
        self.address = PageAddress.parse(text)


@pytest.fixture
def camera() -> Iterator[RtspServer]:
    with RtspServer(Loop(size_wh=(96, 64))) as server:
        yield server


def start(folder: Path, *arguments: str | Path) -> tuple[subprocess.Popen[str], Address]:
    process = subprocess.Popen(
        command(*arguments, "--output", "http://127.0.0.1:0"), cwd=folder, env=NO_DISPLAY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if (found := re.search(r"live page: (http://127\.0\.0\.1:\d+)$", line.strip())) is not None:
            return process, Address(found[1])
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_ctrl_c_sends_viewers_away_and_ends_the_run(tmp_path: Path, model: Path, camera: RtspServer) -> None:  # noqa: F811
    process, address = start(
        tmp_path, "--source", f"door={camera.url}", "--source", f"clip={SAMPLE}", "--model", model
    )  # fmt: skip
    with process, client(address) as http:
        wait_for(lambda: http.get("/api/streams/clip/snapshot.jpg").status_code == 200)
        wait_for(lambda: http.get("/api/streams/door/snapshot.jpg").status_code == 200)
        with Viewer(address, "door") as viewer, Viewer(address, "clip", "?view=boxes") as other:
            wait_for(lambda: viewer.pictures and other.pictures)
            process.send_signal(signal.SIGINT)
            wait_for(lambda: viewer.closed and other.closed)
            assert viewer.closed == other.closed == (1000, "")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "frames" in out + err and "Traceback" not in err


@pytest.mark.slow
def test_a_file_plays_at_its_own_speed_on_the_page_and_the_run_ends_with_it(tmp_path: Path, model: Path) -> None:  # noqa: F811
    clip = write_clip(tmp_path / "clip.mp4", 20)
    process, _ = start(tmp_path, "--source", clip, "--model", model)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


@pytest.mark.slow
def test_a_port_that_is_taken_ends_the_run_in_one_line(tmp_path: Path, model: Path) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            command("--source", SAMPLE, "--model", model, "--output", address),
            cwd=tmp_path, env=NO_DISPLAY, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"can't serve the live page at {address}: Address already in use" in line
