"""The program and the files that it must leave alone: those of another run, its own inputs, what links lead to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes import wait_for
from tests.media import write_clip
from tests.test_cli import NO_DISPLAY, command, frames_of, lines_in, model, run  # noqa: F401 - `model` is a fixture
from tests.test_cli_fleet import Program, lines_of

WAIT_S = 60.0


@contextmanager
def running(cwd: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Runs the program; kills it at the end, should it still run."""
    process = subprocess.Popen(
        command(*arguments), cwd=cwd, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twenty seconds."""
    return write_clip(tmp_path / "clip.mp4", 600)


@pytest.mark.skipif(sys.platform != "linux", reason="runs lock paths that aren't open only on Linux")
@pytest.mark.parametrize(
    ("output", "more"), [("out.mp4", ()), ("out.jsonl", ()), ("out/", ()), ("out.mp4", ("--segment", "1h"))]
)
def test_the_second_run_with_an_output_is_refused(
    tmp_path: Path, model: Path, clip: Path, output: str, more: tuple[str, ...]  # noqa: F811
) -> None:  # fmt: skip
    arguments = ("--source", clip, "--model", model, "--output", output, *more)
    with running(tmp_path, *arguments, "--pace", "source", "--output", "seen.jsonl") as first:
        wait_for(lambda: any(lines_in(file) for file in tmp_path.glob("seen*.jsonl")), WAIT_S)
        second = run(tmp_path, *arguments, "--max-frames", "3")
        assert second.returncode == 2, second.stderr
        assert [line for line in second.stderr.splitlines() if not line.startswith(("WARNING", "INFO"))] == [
            f"error: can't write {output.strip('/')}: another run is writing it; choose another output"
        ]
        first.send_signal(signal.SIGKILL)
        first.communicate()
    third = run(tmp_path, *arguments, "--max-frames", "3")
    assert third.returncode == 0, third.stderr
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("what", ["source", "output", "configuration", "model", "picture"])
def test_a_report_replaces_nothing_but_a_report(tmp_path: Path, model: Path, what: str) -> None:  # noqa: F811
    source = write_clip(tmp_path / "clip.mp4", 4)
    mine = tmp_path / "m.onnx"
    mine.write_bytes(model.read_bytes())
    (tmp_path / "o.jsonl").write_text("lines of before\n")
    (tmp_path / "p.jpg").write_text("a picture")
    config = tmp_path / "run.yaml"
    config.write_text(f"source: {source}\nmodel: {mine}\noutput: o.jsonl\n")
    files = {"source": source, "output": "o.jsonl", "configuration": config, "model": mine, "picture": "p.jpg"}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = run(tmp_path, "--config", config, "--report", files[what])
    assert done.returncode == 2
    assert "the report" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_may_go_to_a_device_or_a_pipe(tmp_path: Path, model: Path) -> None:  # noqa: F811
    source = write_clip(tmp_path / "clip.mp4", 4)
    arguments = ("--source", source, "--model", model, "--output", "null", "--report")
    done = run(tmp_path, *arguments, "/dev/stdout")
    assert done.returncode == 0, done.stderr
    assert '"frames_processed": 4' in done.stdout
    (tmp_path / "null.json").symlink_to(os.devnull)
    assert run(tmp_path, *arguments, "null.json").returncode == 0
    os.mkfifo(tmp_path / "pipe")
    done = run(tmp_path, *arguments, "pipe")
    assert done.returncode == 1
    assert "error: can't write the report 'pipe'" in done.stderr


def test_lines_go_through_a_pipe(tmp_path: Path, model: Path) -> None:  # noqa: F811
    source = write_clip(tmp_path / "clip.mp4", 20)
    os.mkfifo(tmp_path / "p.jsonl")
    with running(tmp_path, "--source", source, "--model", model, "--output", "p.jsonl") as process:
        with (tmp_path / "p.jsonl").open() as pipe:
            lines = [json.loads(line) for line in pipe]
        assert process.wait(WAIT_S) == 0
    assert [line["index"] for line in lines] == list(range(20))


@pytest.mark.parametrize("is_piped", [True, False])
def test_lines_on_standard_output_are_not_written_over(tmp_path: Path, model: Path, is_piped: bool) -> None:  # noqa: F811
    source = write_clip(tmp_path / "clip.mp4", 5)
    (tmp_path / "out.jsonl").symlink_to("/dev/stdout")
    arguments = command("--source", source, "--model", model, "--output", "out.jsonl")
    if is_piped:
        text = subprocess.run(
            arguments, cwd=tmp_path, env=NO_DISPLAY, capture_output=True, text=True, check=True
        ).stdout
    else:
        with (tmp_path / "all").open("w") as file:
            subprocess.run(arguments, cwd=tmp_path, env=NO_DISPLAY, stdout=file, check=True)
        text = (tmp_path / "all").read_text()
    *lines, last = text.splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(5))
    assert last.startswith("5 frames in")


@pytest.mark.parametrize("has_reader", [False, True], ids=["no reader", "a reader that takes nothing"])
def test_a_pipe_that_nobody_empties_holds_no_signal_up(
    tmp_path: Path, model: Path, clip: Path, has_reader: bool  # noqa: F811
) -> None:  # fmt: skip
    os.mkfifo(tmp_path / "p.jsonl")
    reader = os.open(tmp_path / "p.jsonl", os.O_RDONLY | os.O_NONBLOCK) if has_reader else None
    outputs = ("--output", "p.jsonl", "--output", "seen.jsonl")
    with running(tmp_path, "--source", clip, "--model", model, *outputs, "--policy", "every-frame") as process:
        # one line is in the other output at least, when the pipe's thread has its own to write
        wait_for(lambda: lines_in(tmp_path / "seen.jsonl") > 0, WAIT_S)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 143
    if reader is not None:
        os.close(reader)


def test_an_output_is_written_where_its_link_leads(tmp_path: Path, model: Path) -> None:  # noqa: F811
    source = write_clip(tmp_path / "clip.mp4", 4)
    (tmp_path / "big").mkdir()
    (tmp_path / "link.mp4").symlink_to("big/out.mp4")
    (tmp_path / "r.json").symlink_to("big/r.json")
    done = run(tmp_path, "--source", source, "--model", model, "--output", "link.mp4", "--report", "r.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "link.mp4").is_symlink()
    assert (tmp_path / "r.json").is_symlink()
    assert frames_of(tmp_path / "big" / "out.mp4") == 4
    assert json.loads((tmp_path / "big" / "r.json").read_text())["sources"]


def test_sources_exchanged_in_the_followed_file_leave_what_was_written(tmp_path: Path, model: Path) -> None:  # noqa: F811
    for name in "ab":
        write_clip(tmp_path / f"{name}.mp4", 600)
    common = f"output: [out.jsonl, wall.mkv]\nmodel: {model}\npace: source\n"
    program = Program(tmp_path, f"{common}source: {{a: a.mp4}}\n")
    try:
        program.until("out.jsonl", 5)
        program.edit(f"{common}source: {{b: b.mp4}}\n")
        program.until("out-2.jsonl", 5)
    except BaseException:
        program.process.kill()
        raise
    report, err = program.end()
    counts = {part["name"]: part["frames_processed"] for part in report["sources"]}
    for name, number in (("a", ""), ("b", "-2")):
        lines = lines_of(tmp_path / f"out{number}.jsonl")
        assert {line["source"] for line in lines} == {name}
        assert len(lines) >= counts[name] > 0
        assert frames_of(tmp_path / f"wall{number}.mkv") >= counts[name]
    assert "this run has written out.jsonl before: writing out-2.jsonl" in err
