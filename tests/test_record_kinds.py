"""Recordings of every kind of source, and what of the pictures is kept: how they are turned, and all their bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.app.cli import main
from streamer.frames.frame import Frame
from streamer.frames.pixels import UPRIGHT, matrix_of
from streamer.sinks.spec import RECORD_ENDINGS
from streamer.sources import SourceOptions, open_source
from streamer.sources.spec import SourceSpec
from tests.http_camera import MIXED, HttpCamera, jpeg, part_of, stream
from tests.media import write_clip
from tests.recordings import read
from tests.test_record import KEPT, packets_of, recorded

UNDECODED = replace(KEPT, packets_only=True)
TURNS = [
    (90, False, False),
    (180, False, False),
    (270, False, False),
    (0, True, False),
    (90, True, False),
    (0, False, True),
]


def frames_of(path: Path) -> list[Frame]:
    with open_source(str(path)) as source:
        return list(source)


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_matrix"), reason="this PyAV writes no display matrix")
@pytest.mark.parametrize("ending", RECORD_ENDINGS)
@pytest.mark.parametrize("options", [KEPT, UNDECODED], ids=["decoded", "undecoded"])
@pytest.mark.parametrize(("rotation", "hflip", "vflip"), TURNS)
def test_pictures_stay_turned(
    rotation: int, hflip: bool, vflip: bool, options: SourceOptions, ending: str, tmp_path: Path
) -> None:
    if ending == ".mkv" and (hflip or vflip):
        pytest.skip("FFmpeg's Matroska muxer writes rotations only")
    clip = write_clip(tmp_path / "clip.mp4", 12, rotation=rotation, hflip=hflip, vflip=vflip)
    path = tmp_path / f"kept{ending}"
    with open_source(str(clip), options=options) as source:
        recorded(source, path)
    before, after = frames_of(clip), frames_of(path)
    assert packets_of(path) == packets_of(clip)
    assert [frame.size_wh for frame in after] == [frame.size_wh for frame in before]
    assert all((a.image == b.image).all() for a, b in zip(after, before, strict=True))


def test_a_matrix_says_what_an_orientation_does() -> None:
    assert matrix_of(UPRIGHT) == [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]


def test_a_camera_of_jpeg_pictures_is_recorded_as_it_sends_them(tmp_path: Path) -> None:
    part = part_of("Content-Type: image/jpeg", "Content-Length: LENGTH")
    path = tmp_path / "door.mkv"
    options = replace(KEPT, reconnect=0)
    with HttpCamera(stream(MIXED, part, count=20)) as camera, open_source(camera.url, options=options) as source:
        recorded(source, path, 20)
    numbers = read(path)[0]
    assert len(numbers) >= 15 and numbers == list(range(20))[-len(numbers) :]
    assert packets_of(path) == [jpeg(number) for number in numbers]


@pytest.mark.parametrize(("arguments", "undecoded"), [([], False), (["--detect-every", "off"], True)])
def test_a_video_on_standard_input_is_recorded(arguments: list[str], undecoded: bool, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", 40, format="mpegts")
    command = [sys.executable, "-m", "streamer", "-", "--record", "kept.mkv", "--no-self-check", "-q", *arguments]
    with clip.open("rb") as file:
        subprocess.run(command, stdin=file, cwd=tmp_path, check=True, timeout=300)
    assert read(tmp_path / "kept.mkv")[0] == list(range(40))


def test_the_sample_is_recorded_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kept.mp4"
    assert main(["sample", "--record", str(path), "--detect-every", "0", "-q"]) == 0
    sample = SourceSpec.parse("sample").path
    assert sample is not None and packets_of(path) == packets_of(sample)


def test_pictures_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    assert main([str(tmp_path), "--record", str(tmp_path / "out.mp4")]) == 2
    assert "is pictures, which have no packets to record: use --output out.mp4" in capsys.readouterr().err


_RESIDENT = """
import json, sys
from pathlib import Path
from streamer.sources import SourceOptions, open_source

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

clip, warm = sys.argv[1:]
options = SourceOptions(kept_packets_s=1000.0, packets_only=True)
with open_source(warm, options=options) as source:
    list(source)
with open_source(clip, options=options) as source:
    before = resident()
    count = sum(1 for _ in source)
    held = source.info.packets.held_bytes
    print(json.dumps([resident() - before, held, count]))
"""


def noise(path: Path, count: int) -> Path:
    """Writes pictures that take as many bytes as a camera's."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "34", "g": "30"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        for _ in range(count):
            pixels = random.integers(0, 256, (240, 320, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    return path


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system doesn't tell a process's memory")
@pytest.mark.parametrize("ending", [".ts", ".mp4", ".mkv"])
def test_what_is_kept_takes_little_more_than_its_bytes(ending: str, tmp_path: Path) -> None:
    warm, clip = noise(tmp_path / f"warm{ending}", 30), noise(tmp_path / f"clip{ending}", 400)
    told = subprocess.run(
        [sys.executable, "-c", _RESIDENT, str(clip), str(warm)], check=True, capture_output=True, timeout=300
    )
    grown, held, count = json.loads(told.stdout)
    assert count == 400 and held > 4e6
    assert grown <= 1.2 * held + 1e6, f"{grown} for {held}"
