"""The configuration file that a run follows: edits, links, pipes, faults and mounts that hang."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.app.watched_file import WatchedFile
from streamer.common.errors import ConfigError
from tests.fakes import wait_for
from tests.following import Following, following


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Following]:
    """A run of the sources a and b."""
    path = tmp_path / "fleet.yaml"
    path.write_text("source: {a: one, b: two}\n")
    with following(path) as started:
        yield started


@pytest.mark.parametrize(
    "text",
    [
        "source: {a: one", "sauce: {a: one}\n", "source: []\n", "source: [a=one, a=two]\n", "", "\n", "conf: 0.5\n",
        "source:\n", "source: {}\n", "a\0b\n", "source: {a: {uri: one, priority: high}}\n", "source: {a: one, a: 2}\n",
        "source: {a: one}\noverrides: {c: {priority: 1}}\n", f"source: {{a: one}} #{'x' * (1 << 20)}\n",
    ],
    ids=lambda text: text[:50],
)  # fmt: skip
def test_a_wrong_file_changes_nothing_and_is_told(text: str, run: Following, caplog: pytest.LogCaptureFixture) -> None:
    run.write(text)
    wait_for(lambda: any("can't be followed" in line for line in caplog.messages))
    run.flows("a")
    run.flows("b")
    assert run.names == ["a", "b"]
    run.write("source: {b: two}\n")
    wait_for(lambda: run.names == ["b"])


def test_a_file_that_is_away_for_a_moment_changes_nothing(run: Following) -> None:
    run.path.unlink()
    for _ in range(20):
        run.flows("a")
    assert run.names == ["a", "b"]
    run.write("source: {a: one}\n")
    wait_for(lambda: run.names == ["a"])


def in_its_place(run: Following, make: Callable[[Path], object]) -> None:
    """Puts something else where the file was."""
    run.path.unlink()
    make(run.path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "it is gone"),
        (lambda path: path.mkdir(), "it is a folder"),
        (os.mkfifo, "it is a pipe or device now, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe or device now, not a file"),
        (lambda path: path.symlink_to(path.name), "it can't be read"),
        (lambda path: path.write_bytes(b"source: {b\xfc: one}"), "not a text file in UTF-8"),
    ],
)
def test_what_is_no_file_changes_nothing_and_is_told(
    make: Callable[[Path], object], says: str, run: Following, caplog: pytest.LogCaptureFixture
) -> None:
    in_its_place(run, make)
    wait_for(lambda: any(f"can't be followed: {says}" in line or says in line for line in caplog.messages))
    for _ in range(20):
        run.flows("a")
    assert run.names == ["a", "b"]
    assert sum("can't be followed" in line for line in caplog.messages) == 1
    if run.path.is_dir():
        run.path.rmdir()
    run.write("source: {b: two}\n")
    wait_for(lambda: run.names == ["b"])


def test_a_read_that_hangs_holds_up_nothing(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    run.file.hangs_s = 0.05
    run.may_read.clear()
    run.write("source: {b: two}\n")
    wait_for(lambda: any("can't be read for 0.05 s" in line for line in caplog.messages))
    run.flows("a")
    run.may_read.set()
    wait_for(lambda: run.names == ["b"])


def test_a_run_ends_while_a_read_hangs(run: Following) -> None:
    run.may_read.clear()
    reads = run.reads
    run.write("source: {b: two}\n")
    wait_for(lambda: run.reads > reads)
    run.pipeline.stop()
    run.thread.join(15)
    assert not run.thread.is_alive()
    run.may_read.set()


def test_links_may_be_swapped_and_the_file_written_in_place(run: Following, tmp_path: Path) -> None:
    for name, text in (("one", "source: {a: one}\n"), ("two", "source: {b: two}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_text(text)
    (tmp_path / "data").symlink_to("one")
    in_its_place(run, lambda path: path.symlink_to("data/c.yaml"))
    wait_for(lambda: run.names == ["a"])
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", tmp_path / "data")
    wait_for(lambda: run.names == ["b"])
    (tmp_path / "two" / "c.yaml").write_text("source: {a: one, b: two}\n")
    wait_for(lambda: run.names == ["a", "b"])


def test_an_edit_before_the_run_began_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("source: {a: one, b: two}\n")
    run = Following(path, meanwhile="source: {b: two}\n")
    wait_for(lambda: run.names == ["b"])
    run.finish()


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path, read = tmp_path / "c.yaml", []

    def reading() -> str:
        read.append(path.read_text())
        if len(read) == 1:
            path.write_text("and more")
        return read[-1]

    file = WatchedFile(path, reading)
    for size in range(1, 5):
        path.write_text("x" * size)
        assert file.poll() is None
    assert read == []
    assert file.poll() is None  # it changed while it was read
    assert read == ["xxxx"]
    assert [file.poll(), file.poll(), file.poll()] == [None, "and more", None]
    assert read == ["xxxx", "and more"]


def test_a_pipe_that_the_run_began_with_is_no_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    file = WatchedFile(tmp_path / "c.yaml", lambda: pytest.fail("read"))
    assert [file.poll() for _ in range(4)] == [None] * 4


def test_what_cannot_be_read_now_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1")
    results: list[str | ConfigError] = ["content", lost(), lost(), "again"]

    def reading() -> str:
        result = results.pop(0)
        if isinstance(result, ConfigError):
            raise result
        return result

    file = WatchedFile(path, reading)
    assert [file.poll(), file.poll()] == [None, "content"]
    path.write_text("a: 12")
    assert file.poll() is None
    with pytest.raises(ConfigError, match="lost"):
        file.poll()
    assert file.poll() is None  # it was said before
    assert file.poll() == "again"


def lost() -> ConfigError:
    error = ConfigError("lost")
    error.__cause__ = OSError(5, "lost")
    return error
