"""A video on standard input, and JSON lines on standard output, as in `ffmpeg ... - | nanodet-stream - -o - | jq`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamer.common.errors import ConfigError
from streamer.sources.diagnosis import why_stream_unplayable
from tests.media import write_clip
from tests.test_cli import NO_DISPLAY, ROOT, command, model  # noqa: F401

FRAMES = 12


@contextmanager
def started(folder: Path, *arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the program, and kills it where the test's body leaves it running."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=NO_DISPLAY,
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )  # fmt: skip
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def ran(folder: Path, data: bytes, *arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """Returns status, the lines on standard output, and what is on standard error."""
    with started(folder, *arguments) as process:
        out, err = process.communicate(data)
        return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


def film(folder: Path, form: str, frames: int = FRAMES) -> Path:
    codec, ending = {
        "mpegts": ("mpeg2video", ".ts"), "matroska": ("mpeg4", ".mkv"), "mjpeg": ("mjpeg", ".mjpeg"),
        "yuv4mpegpipe": ("wrapped_avframe", ".y4m"),
    }[form]  # fmt: skip
    path = folder / f"clip{ending}"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(64, 48, stream.pix_fmt)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("form", ["mpegts", "matroska", "mjpeg", "yuv4mpegpipe"])
def test_a_stream_becomes_lines(form: str, tmp_path: Path, model: Path) -> None:  # noqa: F811
    status, lines, err = ran(tmp_path, film(tmp_path, form).read_bytes(), "-", "-o", "-", "-m", model)
    assert status == 0, err
    assert [line["index"] for line in lines] == list(range(FRAMES))
    assert {line["source"] for line in lines} == {"stdin"} and "captured_at" not in lines[0]
    assert [line["pts_s"] for line in lines] == sorted(line["pts_s"] for line in lines)
    assert f"{FRAMES} frames" in err and "INFO: engine" in err


def test_a_file_on_standard_input_may_have_its_index_at_the_end(tmp_path: Path, model: Path) -> None:  # noqa: F811
    path = tmp_path / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 480, 640, 3), np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.width, video.height, video.pix_fmt = 640, 480, "yuvj420p"
        for picture in noise:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    with path.open("rb") as file, started(tmp_path, "door=-", "-o", "-", "-m", model, stdin=file) as process:
        out, err = process.communicate()
        assert process.returncode == 0, err
    assert len(out.splitlines()) == FRAMES and json.loads(out.splitlines()[0])["source"] == "door"
    status, lines, told = ran(tmp_path, path.read_bytes(), "-", "-o", "-", "-m", model)
    assert (status, lines) == (1, []) and "index (the moov box) at the end, which can't be read from a pipe" in told


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty: nothing was written to it; look at the command before the |"),
        (b"ls: no such file\n" * 900, "holds text, not a video"),
        (os.urandom(1) + bytes(range(256)) * 400, "is no video that FFmpeg recognises; write MPEG-TS"),
    ],
    ids=["empty", "text", "noise"],
)
def test_what_is_no_video(data: bytes, says: str, tmp_path: Path) -> None:
    status, lines, err = ran(tmp_path, data, "-", "-o", "-")
    assert (status, lines) == (1, [])
    (error,) = err.splitlines()
    assert error.startswith(f"error: source '-' {says}")


def test_a_terminal_is_no_video(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with started(tmp_path, "-", "-o", "null", stdin=theirs) as process:
            _, err = process.communicate()
            assert process.returncode == 1 and b"source '-' is a terminal: pipe a video into it" in err
    finally:
        os.close(ours)
        os.close(theirs)


def test_two_sources_cannot_both_be_standard_input(tmp_path: Path) -> None:
    from streamer.app.config import read_config

    with pytest.raises(ConfigError, match="two sources read standard input: leave one out"):
        read_config(None, {"source": ["a=-", "b=-"]})


def test_a_signal_ends_a_run_whose_input_is_silent(tmp_path: Path, model: Path) -> None:  # noqa: F811
    with started(tmp_path, "-", "-o", "-", "-m", model) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(film(tmp_path, "mpegts", 60).read_bytes())
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        err = process.stderr.read().decode()
        assert process.wait(60) == 130, err
    assert "frames in" in err and "WARNING" not in err


def test_the_run_ends_when_nobody_reads_and_other_outputs_are_whole(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "clip.mp4", frames=200)
    with started(tmp_path, "clip.mp4", "-o", "-", "-o", "o.mkv", "-m", model, "--pace", "source") as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["index"] == 0
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(60) == 0, err
    assert "error" not in err and "WARNING" not in err
    with av.open(str(tmp_path / "o.mkv")) as container:
        assert 0 < sum(1 for _ in container.decode(video=0)) < 200


def test_several_sources_share_standard_output(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "clip.mp4", frames=40)
    status, lines, err = ran(tmp_path, b"", "a=clip.mp4", "b=clip.mp4", "c=clip.mp4", "-o", "-", "-m", model)
    assert status == 0, err
    assert sorted(line["source"] for line in lines) == ["a"] * 40 + ["b"] * 40 + ["c"] * 40


def test_a_reader_that_stops_reading_does_not_keep_the_run(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "clip.mp4", frames=2000)
    with started(tmp_path, "clip.mp4", "-o", "-", "-m", model) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        err = process.stderr.read().decode()
        assert process.wait(60) == 130, err
        for line in process.stdout.read().splitlines()[1:-1]:
            json.loads(line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_an_error(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "clip.mp4", frames=3)
    with open("/dev/full", "w") as full, started(tmp_path, "clip.mp4", "-o", "-", "-m", model, stdout=full) as process:
        _, err = process.communicate()
        assert process.returncode == 1 and b"standard output broke off: No space left on device" in err


def test_what_libraries_print_goes_to_standard_error() -> None:
    code = (
        "import os; from streamer.common.terminal import reserve_stdout, say, stdout_descriptor\n"
        "reserve_stdout(); reserve_stdout(); os.write(1, b'from C\\n'); say('from Python')\n"
        "os.write(stdout_descriptor(), b'a line\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("a line\n", "from C\nfrom Python\n")


def test_an_index_behind_the_pictures() -> None:
    assert why_stream_unplayable(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\x10\0mdat") is not None
    assert why_stream_unplayable(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08moov" + b"\0\0\x10\0mdat") is None
