"""Video files of runs that are killed or fill the disk. Incompressible pictures make for large files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import av
import numpy as np
import pytest

from streamer.common.errors import SinkError
from streamer.frames.frame import Frame
from streamer.sinks.options import Encoding
from streamer.sinks.video.sink import VideoSink
from tests.media import write_clip
from tests.recordings import ENDINGS, NOTHING, frames, info, read, write


def noise(count: int) -> Iterator[Frame]:
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(5)]
    for index in range(count):
        yield Frame(pictures[index % 5], "noise", index, index / 30, 0.0)


@contextmanager
def file_size_limit(most_bytes: int) -> Iterator[None]:
    """Makes writes beyond a size fail, as on a full disk."""
    resource = pytest.importorskip("resource", reason="no file size limits on this system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def count_playable(path: Path) -> int:
    """Returns how many pictures a strict reader gets from a file without meeting an error."""
    with av.open(str(path)) as opened:
        return sum(1 for _ in opened.decode(video=0))


@pytest.mark.parametrize("with_sound", [False, True], ids=["silent", "sound"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_ends_with_the_cause_and_a_file_that_plays(ending: str, with_sound: bool, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    clip = write_clip(tmp_path / "clip.mp4", frames=30, with_audio=True) if with_sound else None
    sink = VideoSink(path, info(path=clip), encoding=Encoding(crf=14))
    with file_size_limit(1_500_000), pytest.raises(SinkError) as caught:
        for frame in noise(400):
            sink.write(frame, NOTHING)
    sink.close()
    assert str(caught.value) == f"{path} broke off: File too large; what it holds can be played"
    assert isinstance(caught.value.__cause__, (OSError, av.FFmpegError))
    assert sink.written == (path,)
    assert 0 < path.stat().st_size <= 1_500_000
    assert count_playable(path) >= 30


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_while_the_file_is_finished(ending: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole{ending}"
    write(whole, info(), noise(70))
    for missing in (1, 300, 900, 2000):
        path = tmp_path / f"out{missing}{ending}"
        sink = VideoSink(path, info())
        with file_size_limit(whole.stat().st_size - missing), pytest.raises(SinkError, match="can be played"):
            for frame in noise(70):
                sink.write(frame, NOTHING)
            sink.close()
        sink.close()
        assert count_playable(path) >= 30


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_was_full_before_leaves_no_empty_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    sink = VideoSink(path, info())
    with file_size_limit(100), pytest.raises(SinkError, match="can't write .*: File too large; nothing was kept"):
        for frame in noise(100):
            sink.write(frame, NOTHING)
        sink.close()
    sink.close()
    assert sink.written == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_sound", [False, True], ids=["silent", "sound"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_killed_run_leaves_all_but_the_last_two_seconds(ending: str, with_sound: bool, tmp_path: Path) -> None:
    path, frames_s = tmp_path / f"out{ending}", 6.0
    clip = write_clip(tmp_path / "clip.mp4", frames=45, with_audio=True) if with_sound else None
    code = (
        "import sys; from pathlib import Path; from tests.recordings import *\n"
        "sink = VideoSink(Path(sys.argv[1]), info(path=Path(sys.argv[2]) if sys.argv[2] else None))\n"
        "for frame in frames(even(180)): sink.write(frame, NOTHING)\n"
        "print('written', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(clip or "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        os.kill(child.pid, signal.SIGKILL)
    numbers, times_s, _ = read(path)
    assert numbers == list(range(len(numbers)))
    assert times_s[-1] >= frames_s - 2
    opened = cv2.VideoCapture(str(path))
    assert opened.read()[0]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_on_the_disk_is_never_older_than_two_seconds(ending: str, tmp_path: Path) -> None:
    still = next(frames([0.0]))
    path, copy = tmp_path / f"out{ending}", tmp_path / f"copy{ending}"
    with VideoSink(path, info()) as sink:
        for number in range(150):  # 5 s of a still picture: less than FFmpeg buffers
            sink.write(Frame(still.pixels, "still", number, number / 30, 0.0), NOTHING)
        copy.write_bytes(path.read_bytes())
    with av.open(str(copy)) as opened:
        assert sum(1 for _ in opened.decode(video=0)) >= 90
