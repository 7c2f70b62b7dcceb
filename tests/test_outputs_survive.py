"""What is left of the outputs of a run that is killed, stopped, or fills the disk: the whole program, real signals."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import av
import numpy as np
import pytest

from tests.desktop import until
from tests.media import number_of, write_clip
from tests.recordings import read
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cli import NO_DISPLAY, command, frames_of, lines_in, run
from tests.tiny import write_tiny

FPS = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=600, fps=FPS, with_audio=True)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that takes about 5.6 MB when it is encoded once more."""
    path = tmp_path_factory.mktemp("noisy") / "noisy.mkv"
    random = np.random.default_rng(5)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p"
        for _ in range(180):
            image = random.integers(0, 256, (192, 256, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        output.mux(stream.encode(None))
    return path


@contextmanager
def running(cwd: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Runs the program on a source at its own speed; kills it at the end, should it still run."""
    process = subprocess.Popen(
        command(*arguments, "--pace", "source", "--policy", "every-frame", "--no-overlay", "--conf", "1"),
        cwd=cwd, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def numbers_in(path: Path) -> list[int]:
    """Returns the numbers of a file's pictures, as a strict reader gets them."""
    with av.open(str(path)) as opened:
        return [number_of(np.asarray(f.to_ndarray(format="bgr24"), np.uint8)) for f in opened.decode(video=0)]


def test_a_killed_program_loses_two_seconds_at_most(tmp_path: Path, clip: Path, model: Path) -> None:
    outputs = [part for name in ("o.mp4", "o.mkv", "o.jsonl") for part in ("--output", name)]
    with running(tmp_path, "--source", clip, *outputs, "--model", model) as process:
        assert until(lambda: lines_in(tmp_path / "o.jsonl") >= 3.5 * FPS or process.poll() is not None)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(len(lines)))
    for name in ("o.mp4", "o.mkv"):
        numbers = numbers_in(tmp_path / name)
        assert numbers == list(range(len(numbers)))
        assert len(lines) - 2 * FPS <= len(numbers) <= len(lines) + FPS


def lines_in_segments(folder: Path) -> list[int]:
    """Returns how many lines each segment of o.jsonl holds."""
    return [lines_in(file) for file in sorted(folder.glob("o-*.jsonl"))]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_program_leaves_every_segment_whole(
    tmp_path: Path, clip: Path, model: Path, number: signal.Signals, status: int
) -> None:
    outputs = [part for name in ("o.mp4", "o.mkv", "o.jsonl") for part in ("--output", name)]
    with running(tmp_path, "--source", clip, *outputs, "--model", model, "--segment", "0.5") as process:
        assert until(lambda: sum(lines_in_segments(tmp_path)) >= 1.8 * FPS or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert all(line.startswith("INFO: ") for line in err.splitlines()), err
    counts = lines_in_segments(tmp_path)
    assert all(lines == FPS // 2 for lines in counts[:-1])
    count = sum(counts)
    for ending in (".mp4", ".mkv"):
        files = sorted(tmp_path.glob(f"o-*{ending}"))
        parts = [read(file) for file in files]
        assert [number for numbers, _, _ in parts for number in numbers] == list(range(count))
        assert all(len(numbers) == FPS // 2 for numbers, _, _ in parts[:-1])
        assert abs(sum(duration_s for _, _, duration_s in parts) - count / FPS) < 0.1
        assert f"o-*{ending}" in out, "the closing line names them"


def test_segments_and_their_limit_from_the_command_line(tmp_path: Path, clip: Path, model: Path) -> None:
    stranger = tmp_path / "o-holiday.mp4"
    stranger.write_bytes(b"x" * 10**6)
    arguments = ("--source", clip, "--output", "o.mp4", "--model", model, "--segment", "1s", "--retain", "60kB")
    done = run(tmp_path, *arguments, "--max-frames", "300", "--no-overlay", "--conf", "1")
    assert done.returncode == 0, done.stderr
    left = sorted(set(tmp_path.glob("o-*.mp4")) - {stranger})
    assert all(re.fullmatch(r"o-20\d{6}T\d{6}\.\d{3}Z\.mp4", file.name) for file in left)
    assert 1 <= len(left) < 10
    assert sum(file.stat().st_size for file in left) <= 60_000
    numbers = [number for file in left for number in numbers_in(file)]
    assert numbers == list(range(numbers[0], 300))
    assert stranger.stat().st_size == 10**6


def test_segments_of_a_camera_carry_the_time_of_their_first_frame(tmp_path: Path, model: Path) -> None:
    with RtspServer(Loop(fps=FPS)) as server:
        done = run(
            tmp_path, "--source", f"door={server.url}", "--output", "{source}.mkv", "--output", "{source}.jsonl",
            "--model", model, "--segment", "1s", "--max-frames", "75", "--policy", "every-frame",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = [file.read_text().splitlines() for file in sorted(tmp_path.glob("door-*.jsonl"))]
    lines = [json.loads(line) for part in parts for line in part]
    files = sorted(tmp_path.glob("door-*.mkv"))
    assert len(files) == len(parts) >= 3, "more where the camera was slow"
    assert [frames_of(file) for file in files] == [len(part) for part in parts]
    first = 0
    for file in files:
        stamped = datetime.strptime(file.stem, "door-%Y%m%dT%H%M%S.%fZ")
        captured = datetime.strptime(lines[first]["captured_at"], "%Y-%m-%dT%H:%M:%S.%fZ")
        assert abs(stamped - captured) <= timedelta(milliseconds=1)  # one time, rounded twice
        first += frames_of(file)
    assert first == len(lines) == 75


def check_others_went_on(folder: Path, done: subprocess.CompletedProcess[str], broken: str, cause: str) -> None:
    """Checks a run over 180 frames one of whose outputs, the video file `broken`, found the disk full."""
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {broken} broke off: {cause}; what it holds can be played"
    ]
    assert "Traceback" not in done.stderr
    report = json.loads((folder / "r.json").read_text())
    (failed,) = report["errors"]
    assert failed == {"where": broken, "what": f"{broken} broke off: {cause}; what it holds can be played"}
    assert report["sources"][0]["frames_processed"] == 180
    assert lines_in(folder / "o.jsonl") == 180
    with av.open(str(folder / broken)) as opened:
        assert 30 <= sum(1 for _ in opened.decode(video=0)) < 180


@pytest.mark.parametrize("name", ["big.mp4", "big.mkv"])
def test_a_file_that_may_not_grow_ends_alone(name: str, tmp_path: Path, noisy: Path, model: Path) -> None:
    limit = 3_000_000
    arguments = command(
        "--source", noisy, "--output", name, "--output", "o.jsonl", "--model", model, "--report", "r.json",
        "--quality", "best",
    )  # fmt: skip
    done = subprocess.run(
        arguments, cwd=tmp_path, env=NO_DISPLAY, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    check_others_went_on(tmp_path, done, name, "File too large")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("needs to mount a small disk, which takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", ["disk/big.mp4", "disk/big.mkv"])
def test_a_full_disk_ends_its_own_output_only(
    name: str, tmp_path: Path, small_disk: Path, noisy: Path, model: Path
) -> None:
    done = run(
        tmp_path, "--source", noisy, "--output", name, "--output", "o.jsonl", "--model", model, "--report", "r.json",
        "--quality", "best",
    )  # fmt: skip
    check_others_went_on(tmp_path, done, name, "No space left on device")


def test_old_segments_make_room_on_a_small_disk(tmp_path: Path, small_disk: Path, noisy: Path, model: Path) -> None:
    done = run(
        tmp_path,
        "--source",
        noisy,
        "--output",
        "disk/big.mp4",
        "--model",
        model,
        "--segment",
        "1s",
        "--retain",
        "1.5MB",
        "--quality",
        "best",
    )
    assert done.returncode == 0, done.stderr
    left = list(small_disk.iterdir())
    assert sum(file.stat().st_size for file in left) <= 1_500_000
    assert len(left) > 0
