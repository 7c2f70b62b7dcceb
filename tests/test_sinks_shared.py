"""Which outputs several sources share, which are refused, and what the program makes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest

from streamer.common.errors import ConfigError, SinkError
from streamer.frames.frame import Frame
from streamer.sinks import OutputSpec
from streamer.sinks.options import Retention, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.shared_outputs import SharedOutputs, outputs_by_source
from streamer.sources.base import SourceInfo
from tests.media import SIZE_WH, picture, write_clip
from tests.recordings import NOTHING
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cli import frames_of, run
from tests.test_sinks_tiled_video import numbers_on
from tests.tiny import write_tiny

ONE, TWO = SourceInfo("one", "", fps=12.5), SourceInfo("two", "")
FRAME = Frame(picture(1), "x", 0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.onnx")


def shared(tmp_path: Path, *names: str, sources: Sequence[SourceInfo] = (ONE, TWO), **options: object) -> SharedOutputs:
    outputs = [name if name in ("null", "window") else f"{tmp_path}/{name}" for name in names]
    specs = [OutputSpec.parse(output) for output in outputs]
    paths = OutputPaths()
    paths.check(outputs_by_source(specs, {source.name: None for source in sources}, tiled=True), sources)
    return SharedOutputs(specs, sources, labels=["thing"], paths=paths, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".mov", ".MP4"])
def test_a_video_without_the_sources_name_is_one_for_all(ending: str, tmp_path: Path) -> None:
    outputs = shared(tmp_path, f"wall{ending}", "{source}.mp4", "{source}.jsonl", "null")
    for name in (f"{tmp_path}/wall{ending}", f"{tmp_path}/{{source}}.mp4", f"{tmp_path}/{{source}}.jsonl", "null"):
        sinks = [outputs.open(OutputSpec.parse(name), source) for source in (ONE, TWO)]
        for sink in sinks:
            sink.write(FRAME, NOTHING)
        for sink in sinks:
            sink.close()
    outputs.close()
    outputs.close()
    made = sorted([f"wall{ending}", "one.mp4", "two.mp4", "one.jsonl", "two.jsonl"])
    assert sorted(path.name for path in tmp_path.iterdir()) == made
    with av.open(str(tmp_path / f"wall{ending}")) as opened:
        assert numbers_on(next(opened.decode(video=0)).to_ndarray(format="bgr24"), 2) == (1, 1)


def test_one_source_shares_nothing(tmp_path: Path) -> None:
    outputs = shared(tmp_path, "wall.mp4", sources=[ONE])
    with outputs.open(OutputSpec.parse(f"{tmp_path}/wall.mp4"), ONE) as sink:
        sink.write(FRAME, NOTHING)
    with av.open(str(tmp_path / "wall.mp4")) as opened:
        assert (opened.streams.video[0].width, opened.streams.video[0].height) == SIZE_WH


@pytest.mark.parametrize(
    "rates,wanted", [((None, None), 25.0), ((12.5, None), 12.5), ((12.5, 24.0), 24.0), ((60.0, 25.0), 30.0)]
)
def test_the_highest_rate_counts_up_to_thirty(rates: tuple[float | None, ...], wanted: float, tmp_path: Path) -> None:
    sources = [SourceInfo(str(number), "", fps=fps) for number, fps in enumerate(rates)]
    outputs = shared(tmp_path, "wall.mp4", sources=sources)
    sinks = [outputs.open(OutputSpec.parse(f"{tmp_path}/wall.mp4"), source) for source in sources]
    for index in range(100):
        for sink in sinks:
            sink.write(Frame(picture(1), "x", index, index / 50, 0.0), NOTHING)
    for sink in sinks:
        sink.close()
    outputs.close()
    with av.open(str(tmp_path / "wall.mp4")) as opened:
        assert opened.streams.video[0].average_rate == Fraction(wanted)


@pytest.mark.parametrize("name,tiled,words", [
    ("wall.mp4", False, "write {source} into its name (or choose --layout tiled for one video of all)"),
    ("lines.jsonl", True, "write {source} into its name"),
    ("folder/", True, "write {source} into its name"),
    ("folder.mp4/", True, "write {source} into its name"),
])  # fmt: skip
def test_an_output_that_cannot_be_shared_is_refused_with_the_fix(name: str, tiled: bool, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        outputs_by_source([OutputSpec.parse(name)], {"one": None, "two": None}, tiled=tiled)
    assert str(caught.value) == f"several sources can't share {name!r}: {words}"
    assert outputs_by_source([OutputSpec.parse(name)], {"one": None}, tiled=tiled) == [(OutputSpec.parse(name), "one")]


def test_a_shared_video_conflicts_with_no_other_output(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=2)
    read = SourceInfo("clip", str(clip), path=clip)
    for names, words in [
        (("clip.mp4",), "is also the source"),
        (("one.mp4", "{source}.mp4"), "two outputs are"),
        (("wall.mp4", "./wall.mp4"), "two outputs are"),
        (("wall.mp4", "wall.mp4"), "two outputs are"),
    ]:
        with pytest.raises(ConfigError, match=words):
            shared(tmp_path, *names, sources=[ONE, read])
    later = shared(tmp_path, "wall.mp4")
    wall = SourceInfo("wall", "wall.mp4", path=tmp_path / "wall.mp4")
    with pytest.raises(ConfigError, match="is also the source"):
        later.open(OutputSpec.parse(f"{tmp_path}/wall.mp4"), wall)
    assert sorted(tmp_path.iterdir()) == [clip]


def test_a_source_is_not_deleted_with_a_shared_outputs_old_segments(tmp_path: Path) -> None:
    old = write_clip(tmp_path / "wall-20200101T000000.000Z.mp4", frames=2)
    options = SinkOptions(10.0, Retention(age_s=60))
    outputs = shared(tmp_path, "wall.mp4", options=options)
    with pytest.raises(ConfigError, match="is an old segment of the output"):
        outputs.open(OutputSpec.parse(f"{tmp_path}/wall.mp4"), SourceInfo("old", str(old), path=old))


def test_a_shared_video_that_cannot_be_written_is_an_error_on_open(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="there is no folder"):
        shared(tmp_path, "nowhere/wall.mp4")


def test_a_source_can_be_taken_out_of_all_shared_outputs(tmp_path: Path) -> None:
    outputs = shared(tmp_path, "a.mp4", "b.mkv", "null", options=SinkOptions(10.0), by_clock=True)
    paths = [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mkv"]
    sinks = {source.name: [outputs.open(OutputSpec.parse(path), source) for path in paths] for source in (ONE, TWO)}
    for sink in sinks["one"] + sinks["two"]:
        sink.write(FRAME, NOTHING)
    outputs.remove("one")
    for sink in sinks["one"] + sinks["two"]:
        sink.close()
    assert [sink.written for sink in sinks["one"]] == [(), ()]
    files = [file for sink in sinks["two"] for file in sink.written]
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert [file.suffix for file in files] == [".mp4", ".mkv"]


def test_the_program_writes_one_video_of_all_sources(tmp_path: Path, model: Path) -> None:
    write_clip(tmp_path / "a.mp4", 45)
    write_clip(tmp_path / "b.mp4", 20)
    done = run(
        tmp_path, "--source", "a.mp4", "--source", "b.mp4", "--output", "wall.mp4", "--output", "{source}.mkv",
        "--model", model, "--report", "r.json", "--pace", "source", "--no-overlay", "--conf", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("INFO: ") for line in done.stderr.splitlines())
    assert done.stdout.count("wall.mp4") == 1
    assert "errors" not in json.loads((tmp_path / "r.json").read_text())
    assert frames_of(tmp_path / "a.mkv") <= 45
    with av.open(str(tmp_path / "wall.mp4")) as opened:
        shown = [numbers_on(f.to_ndarray(format="bgr24"), 2) for f in opened.decode(video=0)]
        assert 0.8 < (opened.duration or 0) / av.time_base
    assert shown[-1] == (44, 19)
    first = [numbers[0] or 0 for numbers in shown]
    assert first == sorted(first)
    assert len(set(first)) > 15


def test_files_of_any_rate_are_shown_in_step_at_any_reading_speed(tmp_path: Path, model: Path) -> None:
    write_clip(tmp_path / "a.mp4", 90, fps=60)
    write_clip(tmp_path / "b.mp4", 15, fps=10)
    write_clip(tmp_path / "c.mp4", 10, fps=30, size_wh=(480, 320))
    done = run(
        tmp_path, "--source", "a.mp4", "--source", "b.mp4", "--source", "c.mp4", "--output", "wall.mp4",
        "--output", "again.mkv", "--model", model, "--report", "r.json", "--no-overlay", "--conf", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [part["frames_processed"] for part in report["sources"]] == [90, 15, 10]
    for name in ("wall.mp4", "again.mkv"):
        with av.open(str(tmp_path / name)) as opened:
            shown = [numbers_on(f.to_ndarray(format="bgr24"), 3) for f in opened.decode(video=0)]
        # 60 a second are shown at 30; the last of them falls between two canvases.
        expected = [(min(2 * tick, 89), min(tick // 3, 14), min(tick, 9)) for tick in range(46)]
        assert shown == expected


def test_cameras_are_recorded_in_one_video_in_segments(tmp_path: Path, model: Path) -> None:
    with RtspServer(Loop(fps=30)) as one, RtspServer(Loop(fps=30)) as two:
        done = run(
            tmp_path, "--source", f"a={one.url}", "--source", f"b={two.url}", "--output", "wall.mp4",
            "--segment", "1", "--model", model, "--duration", "2.5", "--no-overlay", "--conf", "1",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.glob("wall-*.mp4"))
    assert len(files) >= 2
    assert sum(frames_of(file) for file in files) > 10
    assert done.stdout.count("wall-") == (len(files) if len(files) <= 3 else 1)
