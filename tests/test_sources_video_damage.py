"""Video files that are damaged, cut off, or no video at all."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Container
from pathlib import Path

import av
import pytest

from streamer.common.errors import SourceError
from streamer.sources import open_source
from streamer.sources.diagnosis import bytes_missing
from tests.media import number_of, write_clip


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_files_that_are_no_video(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "whole.mp4", 30).read_bytes()
    fast = write_clip(tmp_path / "fast.mp4", 30, container_options={"movflags": "faststart"}).read_bytes()
    sound = write_clip(tmp_path / "both.mp4", 3, with_audio=True)
    cases = {
        write(tmp_path / "empty.mp4", b""): "is empty \\(0 bytes\\)",
        write(tmp_path / "text.mp4", b"Dear diary,\nnothing moved today.\n"): "holds text, not a video",
        write(tmp_path / "zeros.mp4", bytes(5000)): "holds only zeros",
        write(tmp_path / "noise.mp4", random.Random(3).randbytes(5000)): "is damaged or no video",
        write(tmp_path / "cut.mp4", clip[: len(clip) // 2]): "is cut off: its index \\(the moov box\\) is missing",
        write(tmp_path / "short.mp4", clip[:-200]): "is cut off: 200 bytes are missing",
        write(tmp_path / "index.mp4", fast[: fast.index(b"mdat") + 8]): "is cut off: [0-9]+ bytes are missing",
        write(tmp_path / "cut.mkv", b"\x1a\x45\xdf\xa3" + bytes(40)): "is damaged or no video",
        _only_sound(sound, tmp_path / "sound.m4a"): "holds no video, only audio",
    }
    for path, words in cases.items():
        with pytest.raises(SourceError, match=words) as caught:
            open_source(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def _only_sound(clip: Path, path: Path) -> Path:

    with av.open(str(clip)) as source, av.open(str(path), "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2)
    path.chmod(0)
    with pytest.raises(SourceError, match="permission denied"):
        open_source(str(path))


def test_a_cut_file_ends_with_what_it_had(tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "clip.mp4", 60, codec_options={"g": "10"}, container_options={"movflags": "faststart"}
    ).read_bytes()
    cut = write(tmp_path / "cut.mp4", whole[:-300])
    assert bytes_missing(cut) == 300
    with open_source(str(cut)) as source:
        frames = list(source)
        assert 10 <= len(frames) < 60
        assert source.skipped[-1] == "its end: 300 bytes of the file are missing"
    assert [number_of(frame.image) for frame in frames] == list(range(len(frames)))


def test_a_cut_file_of_another_format_says_where_it_stops(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mkv", 90, codec_options={"g": "10"}).read_bytes()
    cut = write(tmp_path / "cut.mkv", whole[: len(whole) // 2])
    assert bytes_missing(cut) is None
    with open_source(str(cut)) as source:
        last = list(source)[-1]
        assert last.pts_s < 2.0
        (note,) = source.skipped
        assert note.startswith("its end: pictures stop at ") and note.endswith(" of 3.0 s")


def _ruined(path: Path, numbers: Container[int]) -> Path:
    """Writes over the pictures of these numbers in a clip of JPEG pictures."""
    content = bytearray(path.read_bytes())
    jpegs = re.finditer(rb"\xff\xd8.*?\xff\xd9", bytes(content), re.DOTALL)
    for number, jpeg in enumerate(jpegs):
        if number in numbers:
            content[jpeg.start() : jpeg.end()] = bytes(jpeg.end() - jpeg.start())
    return write(path, bytes(content))


def test_damaged_packets_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = _ruined(write_clip(tmp_path / "clip.avi", 20, codec="mjpeg", pix_fmt="yuvj420p"), {4, 5, 11})
    with open_source(str(path)) as source:
        frames = list(source)
        assert source.skipped == ("3 damaged packets",)
    assert [number_of(frame.image) for frame in frames] == [n for n in range(20) if n not in (4, 5, 11)]
    assert frames[4].index == 4 and frames[4].pts_s == pytest.approx(6 / 30)


def test_damage_without_end_is_an_error(tmp_path: Path) -> None:
    path = _ruined(write_clip(tmp_path / "clip.avi", 130, codec="mjpeg", pix_fmt="yuvj420p"), range(5, 130))
    with open_source(str(path)) as source:
        frames = iter(source)
        assert [next(frames).index for _ in range(5)] == list(range(5))
        with pytest.raises(SourceError, match="is damaged: 100 packets in a row gave no picture"):
            next(frames)


def test_nothing_but_damage_is_an_error_on_opening(tmp_path: Path) -> None:
    path = _ruined(write_clip(tmp_path / "clip.avi", 5, codec="mjpeg", pix_fmt="yuvj420p"), range(5))
    with pytest.raises(SourceError, match="ended before its first frame after 5 damaged packets"):
        open_source(str(path))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_any_damage_ends_in_frames_or_one_clear_error(suffix: str, tmp_path: Path) -> None:
    content = write_clip(tmp_path / f"clip{suffix}", 20, codec_options={"g": "5"}).read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    outcomes = set()
    for seed in range(30):
        choose = random.Random(seed)
        bad = bytearray(content)
        if seed % 2:
            del bad[choose.randrange(len(bad)) :]
        else:
            for _ in range(choose.choice((1, 10, 100))):
                bad[choose.randrange(len(bad))] ^= 1 << choose.randrange(8)
        damaged.write_bytes(bad)
        try:
            with open_source(str(damaged)) as source:
                pts = [frame.pts_s for frame in source]
        except SourceError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
        else:
            assert pts and pts[0] == 0.0 and pts == sorted(pts)
            outcomes.add("frames")
    assert outcomes == {"error", "frames"}


def test_ffmpeg_says_nothing_of_damage(tmp_path: Path) -> None:
    content = bytearray(write_clip(tmp_path / "clip.ts", 30, codec_options={"g": "5"}).read_bytes())
    for at in random.Random(1).sample(range(len(content) // 4, len(content)), 40):
        content[at] ^= 0xFF
    bad = write(tmp_path / "bad.ts", bytes(content))
    code = "import sys; from streamer.sources import open_source; print(len(list(open_source(sys.argv[1]))) > 0)"
    done = subprocess.run([sys.executable, "-c", code, str(bad)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
