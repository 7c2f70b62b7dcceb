"""Which files are said to lack their end: those that were cut off, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.sources import open_source
from tests.media import number_of, write_clip

CLIPS: dict[str, Callable[[Path], Path]] = {
    "sound that goes on": lambda path: write_clip(path, 30, with_audio=True, audio_s=4.0),
    "sound that ends first": lambda path: write_clip(path, 90, with_audio=True, audio_s=1.0),
    "pictures that begin late": lambda path: write_clip(
        path, times_s=[2.0 + index / 30 for index in range(60)], with_audio=True
    ),
    "pictures that begin late and end early": lambda path: write_clip(
        path, times_s=[1.5 + index / 30 for index in range(30)], with_audio=True, audio_s=5.0
    ),
}


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".flv", ".mp4", ".ts"])
@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS.keys())
def test_a_whole_file_lacks_nothing(tmp_path: Path, clip: Callable[[Path], Path], suffix: str) -> None:
    with open_source(str(clip(tmp_path / f"clip{suffix}"))) as source:
        assert list(source)
        assert source.skipped == ()


@pytest.mark.parametrize("container_options", [{"movflags": "frag_keyframe+empty_moov"}, {"movflags": "faststart"}])
def test_b_frames_and_fragments_lack_nothing(tmp_path: Path, container_options: dict[str, str]) -> None:
    path = tmp_path / "clip.mp4"
    options = {"bf": "3", "preset": "medium"}
    write_clip(path, 60, codec_options=options, container_options=container_options, with_audio=True, audio_s=4.0)
    with open_source(str(path)) as source:
        assert len(list(source)) == 60
        assert source.skipped == ()


def test_one_picture_beside_sound_lacks_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", 1, codec="mjpeg", pix_fmt="yuvj420p", with_audio=True, audio_s=5.0)
    with open_source(str(path)) as source:
        assert len(list(source)) == 1
        assert source.skipped == ()


@pytest.mark.parametrize("suffix", [".mkv", ".flv"])
def test_a_cut_file_with_sound_lacks_its_end(tmp_path: Path, suffix: str) -> None:
    whole = write_clip(tmp_path / f"clip{suffix}", 120, codec_options={"g": "10"}, with_audio=True, audio_s=6.0)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: len(content) // 2])
    with open_source(str(cut)) as source:
        last = list(source)[-1]
        (note,) = [note for note in source.skipped if "damaged" not in note]
    assert last.pts_s < 3.0
    assert note.startswith("its end: pictures stop at ") and " of 6.0" in note


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("fate", ["deleted", "replaced"])
def test_a_file_that_is_gone_while_it_is_read_is_read_to_its_end(tmp_path: Path, suffix: str, fate: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", 60)
    with open_source(str(path)) as source:
        frames = iter(source)
        numbers = [number_of(next(frames).image)]
        path.unlink()
        if fate == "replaced":
            other = tmp_path / "other.mp4"
            write_clip(other, 90, container_options={"movflags": "faststart"})
            path.write_bytes(other.read_bytes()[:-300])
        numbers += [number_of(frame.image) for frame in frames]
        assert source.skipped == ()
    assert numbers == list(range(60))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_file_that_is_cut_while_it_is_read_ends_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    faststart = {"movflags": "faststart"} if suffix == ".mp4" else None
    write_clip(path, 200, size_wh=(640, 480), codec_options={"g": "10", "qp": "4"}, container_options=faststart)
    with open_source(str(path)) as source:
        frames = iter(source)
        numbers = [next(frames).index]
        os.truncate(path, path.stat().st_size // 2)
        numbers += [frame.index for frame in frames]
        said = source.skipped
    assert numbers == list(range(len(numbers))) and len(numbers) < 200
    assert suffix == ".ts" or any(note.startswith("its end: ") for note in said)
