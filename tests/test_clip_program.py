"""Clips as the program makes them: options, what is refused, and what a run says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.app.clip_options import parse_clip_on
from streamer.app.config import StreamConfig, read_config
from streamer.app.recording import kept_packets_s
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.index import ClipIndex
from streamer.sinks.paths import OutputPaths
from tests.media import write_image
from tests.recordings import read


def test_a_run_makes_clips_and_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, report = tmp_path / "clips", tmp_path / "report.json"
    options = ["--clips", str(folder), "--clip-on", "person=0.5", "--clip-after", "0.5s", "--clip-before", "0"]
    assert main(["door=sample", *options, "--max-frames", "90", "--no-self-check", "--report", str(report)]) == 0
    assert "1 clip, wrote " in capsys.readouterr().out
    assert json.loads(report.read_text())["sources"][0]["clips"] == 1
    with ClipIndex(folder) as index:
        (clip,) = index.find()
    assert (clip.source, clip.labels, clip.is_complete) == ("door", ("person",), True)
    assert len(read(clip.video)[0]) > 10 and len(clip.files) == 4
    assert not list(tmp_path.glob("*.mp4"))  # no output by default


def test_a_source_has_clips_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "source:\n"
        "  a: {uri: 'rtsp://a/1', clip_on: {car: 0.6, cat: }, clip_before: 15s}\n"
        "  b: {uri: 'rtsp://b/1', clips: other, clip_max: 1m, clip_overlay: true}\n"
        "clips: clips\nclip_on: person=0.5\nclip_frames: 5\n"
    )
    config = read_config(path, {})
    a, b = config.overrides_for("a"), config.overrides_for("b")
    assert (a.clips, a.clip_on, a.clip_before, a.clip_after) == (Path("clips"), (("car", 0.6), ("cat", 0.0)), 15.0, 5.0)
    assert (b.clips, b.clip_on, b.clip_max, b.clip_overlay) == (Path("other"), (("person", 0.5),), 60.0, True)
    assert a.clip_frames == b.clip_frames == 5


def test_as_many_packets_are_kept_as_clips_need() -> None:
    config = StreamConfig(source=["door=rtsp://a/1", "film=a.mp4", "desk=0"], clips="clips", clip_before="15s")
    assert [kept_packets_s(config, spec) for spec in config.source] == [20.0, 75.0, 20.0]
    plain = StreamConfig(source=["door=rtsp://a/1"])
    assert kept_packets_s(plain, plain.source[0]) == 0.0


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (None, None),
        ("person", (("person", 0.0),)),
        ("person=0.6, car", (("person", 0.6), ("car", 0.0))),
        (["person=0.6", "car"], (("person", 0.6), ("car", 0.0))),
        ({"person": 0.6, "car": None}, (("person", 0.6), ("car", 0.0))),
        ((("person", 0.6),), (("person", 0.6),)),
        (3, (("3", 0.0),)),
    ],
)
def test_labels_of_events_are_parsed(value: object, parsed: object) -> None:
    assert parse_clip_on(value) == parsed


@pytest.mark.parametrize(
    "value", ["", ",", "person=2", "person=x", "=0.5", "person,person", "a=0.1,a", True, 0.5, [[]]]
)
def test_labels_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        parse_clip_on(value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clip-on", "person"], "clip_on needs a folder for clips: add --clips"),
        (["--clips", "clips", "--clip-on", "persn"], "no class 'persn'; did you mean 'person'"),
        (["--clips", "clips", "--clip-on", "person=3"], "wanted a score from 0 to 1"),
        (["--clips", "clips", "--clip-before", "1h"], "clip_before: input should be less than or equal to 600"),
        (["--clips", "clips", "--clip-frames", "0"], "clip_frames"),
        (["--clips", "gone/clips"], "there is no folder 'gone'"),
        (["--clips", "file"], "wanted a folder"),
        (["--clips", "pictures", "-o", "pictures/"], "is also an output"),
        (["--clips", "clips", "--detect-every", "0"], "clips need detections"),
        (["a.jpg", "--clips", "clips"], "which is pictures"),
        (["--retain", "1h"], "retain needs segment"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "pictures").mkdir()
    write_image(tmp_path / "a.jpg")
    source = [] if options[0] == "a.jpg" else ["sample"]
    assert main([*source, *options, "--no-self-check", "--max-frames", "1"]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_second_run_on_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ClipFolder(tmp_path / "clips", paths=OutputPaths()):
        assert main(["sample", "--clips", str(tmp_path / "clips"), "--no-self-check", "--max-frames", "1"]) == 2
    assert "another run writes clips into" in capsys.readouterr().err
