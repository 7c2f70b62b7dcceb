"""Which output a URI means, and which are refused."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.common.errors import ConfigError, SinkError
from streamer.sinks import OutputSpec, default_output, open_sink
from streamer.sinks.paths import OutputPaths
from streamer.sources.base import SourceInfo
from tests.media import write_clip, write_image

CAMERA = SourceInfo("front door/1", "rtsp://camera/1")


@pytest.mark.parametrize(
    "uri,kind",
    [
        ("null", "NullSink"),
        ("out.mp4", "VideoSink"),
        ("OUT.MKV", "VideoSink"),
        ("out.avi", "VideoSink"),
        ("out.mov", "VideoSink"),
        ("out.jsonl", "JsonlSink"),
        ("out.csv", "TextSink"),
        ("OUT.COCO.JSON", "CocoSink"),
        ("out.gif", "GifSink"),
        ("out.JPG", "PictureSink"),
        ("out.png", "PictureSink"),
        ("out.yolo", "YoloSink"),
        ("out.yolo/", "YoloSink"),
        ("out.crops/", "CropsSink"),
        ("pictures/", "ImagesSink"),
        ("folder", "ImagesSink"),
        ("folder.mp4", "ImagesSink"),
    ],
)
def test_the_uri_says_which_output(uri: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder.mp4").mkdir()
    with open_sink(uri, CAMERA, labels=["person"]) as sink:
        assert type(sink).__name__ == kind


@pytest.mark.parametrize(
    "uri,words",
    [
        ("out.mp5", "did you mean '.mp4'"),
        ("out", "known: window, null"),
        ("windw", "did you mean 'window'"),
        ("out.jpf", "folder/ for pictures"),
        ("out.cvs", "did you mean '.csv'"),
        ("out.coco", "did you mean '.coco.json'"),
        ("out.json", "did you mean '.jsonl'"),
        ("", "known: window, null"),
        ("ftp://host/out.mp4", "ftp://"),
        ("s3://user:secret@host/out.mp4", "s3://***@host"),
    ],
)
def test_what_no_output_is_says_what_is(uri: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="unknown kind of output") as caught:
        open_sink(uri, CAMERA, labels=[])
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["9" * 300, f"{'x' * 300}.mp4", f"{'x' * 300}.jsonl", f"{'x' * 300}/"])
def test_a_name_that_is_too_long_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="can't be used: File name too long"):
        open_sink(uri, CAMERA, labels=[])


def test_a_home_that_is_not_there_is_a_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkError, match="there is no folder '~nobody-of-that-name"):
        open_sink("~nobody-of-that-name/out.jsonl", CAMERA, labels=[])


def test_the_source_is_named_in_the_file(tmp_path: Path) -> None:
    with open_sink(f"{tmp_path}/{{source}}-out.jsonl", CAMERA, labels=[]) as sink:
        assert sink.written == (tmp_path / "front_door_1-out.jsonl",)


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl"])
def test_a_missing_folder_is_named_and_not_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"there is no folder .*nowhere'; make it"):
        open_sink(str(tmp_path / "nowhere" / name), CAMERA, labels=[])
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_pictures_is_made_but_not_its_parents(tmp_path: Path) -> None:
    with open_sink(f"{tmp_path}/new/", CAMERA, labels=[]):
        assert (tmp_path / "new").is_dir()
    with pytest.raises(SinkError, match="there is no folder"):
        open_sink(f"{tmp_path}/a/b/", CAMERA, labels=[])


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl", "pictures/"])
def test_a_path_under_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="can't"):
        open_sink(f"{tmp_path}/file/{name}", CAMERA, labels=[])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs POSIX permissions, which root is above")
@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl", "pictures/", ""])
def test_a_folder_that_may_not_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SinkError, match=r"can't .*[Pp]ermission denied"):
        open_sink(f"{tmp_path}/locked/{name}", CAMERA, labels=[])


def test_a_replaced_file_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "out.jsonl"
    with caplog.at_level(logging.INFO):
        open_sink(str(path), CAMERA, labels=[]).close()
        assert not caplog.records
        open_sink(str(path), CAMERA, labels=[]).close()
    assert caplog.messages == [f"replacing {path}"]


def check(output: str, source: SourceInfo) -> None:
    OutputPaths().check([(OutputSpec.parse(output), source.name)], [source])


def test_an_output_that_is_the_source_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=2)
    content = clip.read_bytes()
    (tmp_path / "link.mp4").symlink_to(clip)
    (tmp_path / "hard.mp4").hardlink_to(clip)
    source = SourceInfo("clip", str(clip), path=clip)
    for name in ("clip.mp4", "link.mp4", "hard.mp4", "{source}.mp4", "./clip.mp4"):
        with pytest.raises(ConfigError, match="is also the source"):
            open_sink(f"{tmp_path}/{name}", source, labels=[])
    assert clip.read_bytes() == content
    check(f"{tmp_path}/other.mp4", source)
    check(f"{tmp_path}/", source)
    check("null", source)


def test_pictures_are_not_written_over_the_pictures_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(folder)
    picture = write_image(folder / "a.png")
    for source in (
        SourceInfo("in", f"{folder}/", path=folder),
        SourceInfo("a", str(picture), path=picture),
        SourceInfo("in", "", pattern=folder / "*.png"),
        SourceInfo("in", "", pattern=tmp_path / "**/*.png"),
    ):
        for name in ("in/", "in", "link/"):
            with pytest.raises(ConfigError, match="is also the source"):
                check(f"{tmp_path}/{name}", source)
        check(f"{tmp_path}/other/", source)
        check(f"{tmp_path}/in/out.mp4", source)


def test_the_output_by_default_is_a_window_only_where_one_can_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.sinks.window.display.display_problem", lambda: None)
    assert default_output()[0] == "window"
    monkeypatch.setattr("streamer.sinks.window.display.display_problem", lambda: "there is no display")
    assert default_output() == ("out.mp4", "there is no display")


def test_heavy_libraries_are_not_imported_for_the_resolver() -> None:
    code = "import sys, streamer.sinks; print([m for m in ('av', 'cv2', 'openvino', 'torch') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=True
    )
    assert run.stdout.strip() == "[]"
