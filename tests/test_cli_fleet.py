"""Many sources as a person runs them: the program itself, its configuration file, real cameras and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from streamer.app.config import SourceOverrides, StreamConfig
from streamer.app.stream_factory import StreamFactory
from streamer.common.errors import ConfigError
from streamer.sinks.spec import OutputSpec
from streamer.sources.spec import SourceSpec
from tests.fakes import wait_for
from tests.media import write_clip
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cli import NO_DISPLAY, command, model, run  # noqa: F401 - `model` is a fixture
from tests.test_output_paths_runs import open_stream

WAIT_S = 60.0


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Returns the complete lines of a file of JSON lines."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Program:
    """The program with a configuration file that can be edited."""

    def __init__(self, folder: Path, content: str, *more: object) -> None:
        self.folder = folder
        self.config = folder / "fleet.yaml"
        self.edit(content)
        self.process = subprocess.Popen(
            command("--config", self.config, "--report", "r.json", *more), cwd=folder, env=NO_DISPLAY,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def edit(self, content: str) -> None:
        """Replaces the file at once, as editors do."""
        partial = self.folder / "fleet.new"
        partial.write_text(content)
        os.replace(partial, self.config)

    def until(self, name: str, count: int) -> None:
        """Waits for so many lines in an output."""

        def there() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return len(lines_of(self.folder / name)) >= count

        wait_for(there, WAIT_S)

    def end(self) -> tuple[dict[str, Any], str]:
        """Interrupts it; returns its report and what it said."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 130, err
        return json.loads((self.folder / "r.json").read_text()), err


@pytest.fixture
def cameras() -> Iterator[list[RtspServer]]:
    """Three cameras."""
    opened = [RtspServer(Loop(fps=15)) for _ in range(3)]
    yield opened
    for camera in opened:
        camera.close()


def test_cameras_come_and_go_with_the_file(tmp_path: Path, model: Path, cameras: list[RtspServer]) -> None:  # noqa: F811
    urls = [camera.url for camera in cameras]
    common = f"output: '{{source}}.jsonl'\nmodel: {model}\npolicy: every-frame\n"
    program = Program(tmp_path, f"{common}source: {{a: '{urls[0]}', b: '{urls[1]}'}}\n")
    try:
        program.until("a.jsonl", 5)
        program.until("b.jsonl", 5)
        program.edit(f"{common}source: {{b: '{urls[1]}', c: '{urls[2]}'}}\n")
        program.until("c.jsonl", 5)
        before = len(lines_of(tmp_path / "b.jsonl"))
        program.until("b.jsonl", before + 10)
        ended = len(lines_of(tmp_path / "a.jsonl"))
        program.edit(f"{common}source: {{a: '{urls[0]}', b: '{urls[1]}', c: '{urls[2]}'}}\n")
        program.until("a-2.jsonl", 5)  # what was written before is left as it was
    except BaseException:
        program.process.kill()
        raise
    report, err = program.end()
    assert [part["name"] for part in report["sources"]] == ["a", "b", "c", "a"]
    assert len(lines_of(tmp_path / "a.jsonl")) == ended == report["sources"][0]["frames_processed"]
    went_on = [line["index"] for line in lines_of(tmp_path / "b.jsonl")]
    assert went_on == list(range(went_on[0], went_on[0] + len(went_on)))  # nothing lost, nothing begun anew
    assert "source 'a' is removed" in err
    assert "source 'c' is added" in err


def test_sources_have_outputs_of_their_own(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "one.mp4", 10)
    write_clip(tmp_path / "two.mp4", 12)
    (tmp_path / "c.yaml").write_text(
        f"model: {model}\noutput: '{{source}}.jsonl'\n"
        "source: {a: one.mp4, b: {uri: two.mp4, output: [mine.jsonl, mine.mp4], priority: 1}}\n"
    )
    done = run(tmp_path, "--config", "c.yaml")
    assert done.returncode == 0, done.stderr
    assert len(lines_of(tmp_path / "a.jsonl")) == 10
    assert len(lines_of(tmp_path / "mine.jsonl")) == 12
    assert (tmp_path / "mine.mp4").exists()
    assert not (tmp_path / "b.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("source: {a: one.mp4, b: {uri: two.mp4, output: a.jsonl}}", "two outputs are"),
        ("source: {a: one.mp4, b: {uri: two.mp4, output: one.mp4}}", "is also the source"),
        ("source: {a: one.mp4, b: {uri: two.mp4, output: x.xyz}}", "unknown kind of output"),
    ],
)
def test_outputs_in_each_others_way_are_refused(tmp_path: Path, model: Path, content: str, words: str) -> None:  # noqa: F811
    write_clip(tmp_path / "one.mp4", 2)
    write_clip(tmp_path / "two.mp4", 2)
    (tmp_path / "c.yaml").write_text(f"model: {model}\noutput: '{{source}}.jsonl'\n{content}\n")
    done = run(tmp_path, "--config", "c.yaml")
    assert done.returncode == ConfigError("").exit_code
    assert words in done.stderr


def test_batch_options_are_taken(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "one.mp4", 6)
    done = run(
        tmp_path, "--source", "a=one.mp4", "--source", "b=one.mp4", "--output", "null", "--model", model,
        "--batch", "3", "--batch-timeout", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for wrong in (("--batch", "0"), ("--batch", "some"), ("--batch-timeout", "-1")):
        assert run(tmp_path, "--source", "one.mp4", "--output", "null", *wrong).returncode == 2


def test_a_source_whose_outputs_are_refused_is_in_nobodys_way(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{name}.mp4", 2) for name in "abc"]
    base = StreamConfig(
        source=(SourceSpec.parse(str(clips[0])),), output=(str(tmp_path / "{source}.jsonl"),), decode="cpu"
    )
    opener = StreamFactory(base)
    with ExitStack() as stack:
        opener.open_streams(opener.open_sources(stack), ("thing",), stack)
        wrong = base.model_copy(
            update={"overrides": {"b": SourceOverrides(output=(OutputSpec.parse(f"{tmp_path}/a.jsonl"),))}}
        )
        with pytest.raises(ConfigError, match="two outputs are"):
            open_stream(opener, wrong, SourceSpec.parse(str(clips[1])))
        plan = open_stream(opener, wrong, SourceSpec.parse(str(clips[2])))
        assert [name for name, _ in plan.sinks] == [str(tmp_path / "c.jsonl")]
        for opened in (plan.source, plan.sinks[0][1]):
            opened.close()
