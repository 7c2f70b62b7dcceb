"""Runs that are killed while they write clips: what they leave plays, and is listed once it is mended."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.sinks.clips.clip import VIDEO_ENDINGS, parse_name
from streamer.sinks.clips.index import ClipIndex
from streamer.sinks.clips.probe import probe_video
from tests.media import write_clip

CLONE = Path(__file__).parent.parent
MOMENTS = random.Random(17)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("film") / "film.mkv", 300, fps=30, codec_options={"g": "10"}, with_audio=True
    )


def killed_after(wait_s: float, film: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.clips_until_killed", str(film), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CLONE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(wait_s)  # the moment is the test's own input, not something to wait for
        process.send_signal(signal.SIGKILL)


def assert_all_plays(folder: Path) -> None:
    """Every clip that is listed plays, and is as long as the index says."""
    with ClipIndex(folder) as index:
        clips = index.find(limit=None)
    for clip in clips:
        facts = probe_video(clip.video)
        assert facts is not None and abs(facts.length_s - clip.length_s) < 0.5
        assert all(path.is_file() for path in clip.files)
        if shutil.which("ffmpeg"):
            command = ["ffmpeg", "-v", "fatal", "-i", str(clip.video), "-f", "null", "-"]
            played = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert played.returncode == 0, played.stderr
    listed = {clip.video.name for clip in clips}
    videos = {
        path.name for path in folder.iterdir() if (named := parse_name(path.name)) and named.ending in VIDEO_ENDINGS
    }
    assert listed == videos


def assert_survives(count: int, film: Path, folder: Path) -> None:
    sizes: dict[str, int] = {}
    for _ in range(count):
        killed_after(MOMENTS.uniform(0.0, 1.0), film, folder)
        videos = {path.name: path.stat().st_size for path in folder.iterdir() if "Z.m" in path.name}
        assert not sizes.keys() - videos.keys()  # a start deletes none either
        main(["clips", "check", str(folder)])
        assert main(["clips", "check", str(folder), "--mend"]) == 0
        assert main(["clips", "check", str(folder)]) == 0
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if "Z.m" in path.name}
        assert sorted(sizes.values()) == sorted(videos.values())  # none is deleted or changed
    assert_all_plays(folder)
    with ClipIndex(folder) as index:
        assert len(index.find(limit=None)) >= count // 2


def test_what_a_killed_run_leaves_plays_and_is_listed(film: Path, tmp_path: Path) -> None:
    assert_survives(4, film, tmp_path / "clips")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_runs_leave_that_are_killed_at_fifty_moments_plays_and_is_listed(film: Path, tmp_path: Path) -> None:
    assert_survives(50, film, tmp_path / "clips")


@pytest.mark.slow
def test_the_next_run_knows_the_clips_of_one_that_was_killed(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for _ in range(3):
        killed_after(MOMENTS.uniform(0.2, 1.0), film, folder)
    assert main(["sample", "--clips", str(folder), "--max-frames", "1", "--no-self-check", "-q"]) == 0
    assert main(["clips", "check", str(folder)]) == 0
    assert_all_plays(folder)
