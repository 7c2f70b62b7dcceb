"""What a run may write where: no path twice, none of another run, and nothing that a planted link leads to."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import ConfigError, SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks import OutputSpec, open_sink
from streamer.sinks.images import ImagesSink
from streamer.sinks.jsonl import JsonlSink
from streamer.sinks.options import Retention, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.video.sink import VideoSink
from streamer.sources.base import SourceInfo
from streamer.sources.spec import SourceSpec
from tests.media import picture, write_clip, write_image

named = SourceSpec.parse_named
NOTHING = Detections.empty()
ROOT = Path(__file__).parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="runs lock paths that aren't open only on Linux")


def frame(number: int = 0, source: str = "door") -> Frame:
    return Frame(picture(number), source, number, number / 30, 0.0)


def test_a_path_is_claimed_once_whatever_leads_to_it(tmp_path: Path) -> None:
    paths = OutputPaths()
    first = paths.claim_file(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text("kept")
    (tmp_path / "link.jsonl").symlink_to("out.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "out.jsonl")
    (tmp_path / "ahead.jsonl").symlink_to("later.jsonl")
    first.close()
    later = [paths.claim_file(tmp_path / f"{name}.jsonl") for name in ("out", "link", "hard", "out", "ahead", "later")]
    assert first.replaces
    assert [claim.path.name for claim in later] == [
        "out-2.jsonl", "link-2.jsonl", "hard-2.jsonl", "out-3.jsonl", "ahead.jsonl", "later-2.jsonl",
    ]  # fmt: skip
    assert [claim.replaces for claim in later] == [False, False, False, False, True, False]


def test_a_number_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "out-2.jsonl").write_text("somebody's")
    (tmp_path / "out-3.jsonl").symlink_to("nowhere")
    paths = OutputPaths()
    for _ in range(2):
        with JsonlSink(tmp_path / "out.jsonl", ["thing"], paths=paths) as sink:
            sink.write(frame(), NOTHING)
    assert sink.written == (tmp_path / "out-4.jsonl",)
    assert (tmp_path / "out-2.jsonl").read_text() == "somebody's"
    assert (tmp_path / "out-3.jsonl").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_number_that_is_taken_meanwhile_replaces_nothing(tmp_path: Path) -> None:
    paths = OutputPaths()
    VideoSink(tmp_path / "out.mp4", SourceInfo("a", ""), paths=paths).close()
    sink = VideoSink(tmp_path / "out.mp4", SourceInfo("b", ""), paths=paths)
    (tmp_path / "out-2.mp4").write_text("somebody's")
    with pytest.raises(SinkError, match=r"can't write .*out-2\.mp4: File exists"):
        sink.write(frame(), NOTHING)
    assert (tmp_path / "out-2.mp4").read_text() == "somebody's"


def test_folders_of_pictures_are_numbered_too(tmp_path: Path) -> None:
    paths = OutputPaths()
    (tmp_path / "in-2").mkdir()
    for _ in range(2):
        with ImagesSink(tmp_path / "in", paths=paths) as sink:
            sink.write(frame(), NOTHING)
    assert sink.written == (tmp_path / "in-3",)
    assert [len(list((tmp_path / name).iterdir())) for name in ("in", "in-2", "in-3")] == [1, 0, 1]


def test_a_later_output_continues_a_finished_series(tmp_path: Path) -> None:
    paths = OutputPaths()
    with paths.claim_series(tmp_path / "out.mp4") as first, paths.claim_series(tmp_path / "out.mp4") as second:
        assert [first.path.name, second.path.name] == ["out.mp4", "out-2.mp4"]
    with paths.claim_series(tmp_path / "out.mp4") as third:
        assert third.path.name == "out.mp4"


@contextmanager
def another_run(what: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Has another process claim a path until it is killed."""
    code = (
        "import sys; from pathlib import Path; from streamer.sinks.paths import OutputPaths\n"
        "from streamer.sinks.jsonl import JsonlSink\n"
        "path = Path(sys.argv[2])\n"
        "held = JsonlSink(path, []) if sys.argv[1] == 'lines' else getattr(OutputPaths(), sys.argv[1])(path)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, what, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    with run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == "held\n"
            yield run
        finally:
            run.kill()


@linux
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("what", ["claim_file", "claim_folder", "claim_series", "claim_report"])
def test_a_path_belongs_to_one_run_until_that_is_killed(what: str, is_there: bool, tmp_path: Path) -> None:
    path, link = tmp_path / "out", tmp_path / "link"
    if is_there:
        path.mkdir() if what == "claim_folder" else path.touch()
    link.symlink_to("out")
    before = {entry.name for entry in tmp_path.iterdir()}
    with another_run(what, path) as other:
        for one in (path, link, tmp_path / ".." / tmp_path.name / "out"):
            with pytest.raises(ConfigError, match="can't write .*: another run is writing it"):
                getattr(OutputPaths(), what)(one)
        getattr(OutputPaths(), what)(tmp_path / "other").close()
        other.send_signal(signal.SIGKILL)
        other.wait()
        with getattr(OutputPaths(), what)(path) as claim:
            assert claim.path == path
    left = {entry.name for entry in tmp_path.iterdir()} - before - {"other"}
    assert left == ({"out"} if what == "claim_folder" and not is_there else set()), "nothing is left by a lock"


def test_a_file_that_is_open_is_locked_under_every_name(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no locks of open files on this system")
    path = tmp_path / "out.jsonl"
    with another_run("lines", path):
        (tmp_path / "hard.jsonl").hardlink_to(path)
        with pytest.raises(ConfigError, match=r"hard\.jsonl: another run is writing it"):
            JsonlSink(tmp_path / "hard.jsonl", [])
        (tmp_path / "hard.mkv").hardlink_to(path)
        with pytest.raises(ConfigError, match=r"hard\.mkv: another run is writing it"):
            VideoSink(tmp_path / "hard.mkv", SourceInfo("a", ""))


def test_a_file_that_is_locked_only_later_is_not_emptied(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no locks of open files on this system")
    sink = VideoSink(tmp_path / "out.mkv", SourceInfo("a", ""))
    held = tmp_path / "held.jsonl"
    with another_run("lines", held):
        held.write_text("a line\n")
        (tmp_path / "out.mkv").hardlink_to(held)
        with pytest.raises(SinkError, match=r"can't write .*out\.mkv: another run is writing it"):
            sink.write(frame(), NOTHING)
    assert held.read_text() == "a line\n"


def test_a_file_system_without_locks_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no locks of open files on this system")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for name in ("a.jsonl", "b.jsonl"):
        JsonlSink(tmp_path / name, []).close()
    assert caplog.messages == [
        f"files in {tmp_path} can't be locked (No locks available): make sure that no other run writes them"
    ]


def check(*outputs: str, inputs: dict[Path, str] | None = None, **options: Any) -> None:
    OutputPaths(inputs).check([(OutputSpec.parse(output), "a") for output in outputs], **options)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_links_of_one_file_are_not_two_outputs(kind: str, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").touch()
    two = tmp_path / "two.jsonl"
    two.hardlink_to(tmp_path / "one.jsonl") if kind == "hard" else two.symlink_to("one.jsonl")
    with pytest.raises(ConfigError, match="two outputs are"):
        check(f"{tmp_path}/one.jsonl", f"{tmp_path}/two.jsonl")


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl"])
def test_links_that_lead_in_a_circle_are_refused(name: str, tmp_path: Path) -> None:
    out, source = tmp_path / name, SourceInfo("a", "a.ts", path=tmp_path / "a.ts")
    out.symlink_to("other")
    (tmp_path / "other").symlink_to(name)
    with pytest.raises(SinkError, match="Too many levels of symbolic links"):  # noqa: SIM117
        with open_sink(str(out), source, labels=["x"]) as sink:
            sink.write(frame(), NOTHING)


def test_any_number_of_outputs_go_to_a_device(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).symlink_to(os.devnull)
    check(f"{tmp_path}/one.jsonl", f"{tmp_path}/two.jsonl")
    with JsonlSink(tmp_path / "one.jsonl", []) as one, JsonlSink(tmp_path / "two.jsonl", []) as two:
        one.write(frame(), NOTHING)
        two.write(frame(), NOTHING)
    assert (tmp_path / "one.jsonl").is_symlink()
    with pytest.raises(SinkError, match="a video needs a file"):
        (tmp_path / "video.mp4").symlink_to(os.devnull)
        VideoSink(tmp_path / "video.mp4", SourceInfo("a", ""))


def test_an_output_may_be_none_of_what_the_run_reads(tmp_path: Path) -> None:
    model, config = tmp_path / "m.jsonl", tmp_path / "c.jsonl"
    for path in (model, config):
        path.touch()
    inputs = {model: "the model", config: "the configuration"}
    (tmp_path / "link.jsonl").symlink_to(model)
    with pytest.raises(ConfigError, match=r"output '.*link\.jsonl' is also the model"):
        check(f"{tmp_path}/link.jsonl", inputs=inputs)
    with pytest.raises(ConfigError, match=r"the report '.*c\.jsonl' is also the configuration"):
        check("null", inputs=inputs, report=config)
    with pytest.raises(ConfigError, match="the report .* is also an output"):
        check(f"{tmp_path}/r.jsonl", report=tmp_path / "r.jsonl")


def test_an_output_may_be_none_of_a_folders_files(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 1)
    paths = OutputPaths()
    for source in (
        SourceInfo("all", str(tmp_path), path=tmp_path),
        SourceInfo("all", "*", pattern=tmp_path / "*.mp4"),
    ):
        with pytest.raises(ConfigError, match="is also the source"):
            paths.check([(OutputSpec.parse(str(tmp_path / "a.mp4")), "all")], [source])
        paths.check([(OutputSpec.parse(str(tmp_path / "b.mp4")), "all")], [source])
        paths.check([(OutputSpec.parse(str(tmp_path / "a.jsonl")), "all")], [source])


def test_no_source_is_deleted_as_an_old_segment_of_another_sources_output(tmp_path: Path) -> None:
    old = write_clip(tmp_path / "out-20260102T030405.678Z.mp4", frames=2)
    sources = [SourceInfo("a", "rtsp://a", live=True), SourceInfo("old", str(old), path=old)]
    with pytest.raises(ConfigError, match="is an old segment of the output"):
        check(f"{tmp_path}/out.mp4", sources=sources, retain=Retention(age_s=60))


@pytest.mark.parametrize(
    "content", ["x", '{"engine": "openvino"}', '{"images": []}', '{"source": "a"}\n', "output: null\n", "\0\1\2"]
)
def test_a_report_replaces_only_a_report(content: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="exists and is not a report"):
        OutputPaths().claim_report(path)
    for report in ("", " \n", '{\n  "engine": {'):
        path.write_text(report)
        OutputPaths().claim_report(path).close()
    with pytest.raises(ConfigError, match="is a folder"):
        OutputPaths().claim_report(tmp_path)
    with pytest.raises(SinkError, match="can't write the report .*there is no folder"):
        OutputPaths().claim_report(tmp_path / "none" / "r.json")


def test_a_whole_file_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to("big/file")
    for content in ("one", "two"):
        with atomic_file(tmp_path / "link") as partial:
            partial.write_text(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "big" / "file").read_text() == content
    assert len(list((tmp_path / "big").iterdir())) == 1


def test_an_atomic_file_does_not_replace_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="isn't a regular file"), atomic_file(pipe) as partial:
        partial.write_text("x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_temporary_files_follow_no_planted_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in (".door_000000.jpg.part", f".r.json.{os.getpid()}.part", ".nanodet-fore-seen.part"):
        (folder / name).symlink_to(victim)
    with ImagesSink(folder) as sink:
        sink.write(frame(), NOTHING)
    with atomic_file(folder / "r.json") as partial:
        partial.write_text("report")
    monkeypatch.setattr("streamer.common.atomic_file.secrets.token_hex", lambda _: "fore-seen")
    with pytest.raises(FileExistsError), atomic_file(folder / "r.json") as partial:
        partial.write_text("report")
    assert victim.read_text() == "kept"


def test_a_picture_takes_a_links_place_and_leaves_what_it_leads_to(tmp_path: Path) -> None:
    victim = write_image(tmp_path / "victim.jpg")
    content = victim.read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "door_000000.jpg").symlink_to(victim)
    with ImagesSink(tmp_path / "out") as sink:
        sink.write(frame(), NOTHING)
    assert victim.read_bytes() == content


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl", "pictures/"])
@pytest.mark.parametrize("segment_s", [None, 10.0])
def test_an_output_is_written_through_a_link_to_nothing(name: str, segment_s: float | None, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    link = tmp_path / name
    link.symlink_to(Path("big") / name)
    options = SinkOptions(segment_s)
    with open_sink(f"{tmp_path}/{name}", SourceInfo("a", ""), labels=[], options=options) as sink:
        sink.write(frame(), NOTHING)
    assert link.is_symlink()
    (written,) = [path for path in (tmp_path / "big").rglob("*") if path.is_file()]
    assert written.stat().st_size > 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"big", link.name}


def test_a_video_that_failed_leaves_its_link(tmp_path: Path) -> None:
    link = tmp_path / "out.mkv"
    link.symlink_to("/dev/shm/../../nowhere/there")
    with pytest.raises(SinkError, match="there is no folder"):
        VideoSink(link, SourceInfo("a", ""))
    assert link.is_symlink()
