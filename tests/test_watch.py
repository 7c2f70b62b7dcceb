"""A run that follows its configuration file: a real pipeline and real files, made-up sources and sinks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streamer.app.reload as watch
import streamer.app.watched_file as watched_file
from streamer.app.config import StreamConfig, read_config
from streamer.app.reload import Watcher
from streamer.app.watched_file import WatchedFile
from streamer.common.errors import ConfigError, SourceError
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.report import RunReport
from streamer.sources.spec import SourceSpec
from tests.fakes import CountingSource, MemorySink, SlowDetector, wait_for

ENDLESS = 10_000_000


class Run:
    """A pipeline that follows a file; every source opened is kept by name, with its sink."""

    def __init__(self, path: Path, meanwhile: str | None = None) -> None:
        self.path = path
        self.opened: dict[str, list[tuple[str, MemorySink]]] = {}
        self.forgotten: list[str] = []
        self.gate: threading.Event | None = None
        self.sinks: dict[str, MemorySink] = {}
        self.result: list[RunReport | BaseException] = []
        config = read_config(path, {})
        plans = [self.open(config, spec) for spec in config.source]
        if meanwhile is not None:
            self.write(meanwhile)
        self.watcher = Watcher(
            path, config, lambda: read_config(path, {}, names_source=True), self.open, self.forgotten.append
        )
        self.pipeline = Pipeline(plans, SlowDetector(), on_poll=self.watcher.poll)
        self.thread = threading.Thread(target=self._body, daemon=True)
        self.thread.start()
        wait_for(lambda: self.pipeline.status().is_running)

    def open(self, config: StreamConfig, spec: SourceSpec, is_wanted: Callable[[], bool] = lambda: True) -> StreamSpec:
        name, uri = spec.name, str(spec)
        if "refused" in uri:
            raise SourceError(f"source {uri!r} refused the connection")
        if self.gate is not None and "slow" in uri:
            assert self.gate.wait(20)
        if "broken" in uri:
            raise ValueError("no such thing")
        sink = self.sinks.get(uri) or MemorySink()
        self.opened.setdefault(name, []).append((uri, sink))
        wishes = config.overrides_for(name)
        source = CountingSource(3 if "short" in uri else ENDLESS, name=name)
        return StreamSpec(
            source, [("out", sink)], None, False, wishes.priority, wishes.max_fps, wishes.detect_every or 1
        )

    def write(self, text: str) -> None:
        """Replaces the file at once, as editors do."""
        partial = self.path.with_suffix(".new")
        partial.write_text(text)
        os.replace(partial, self.path)

    @property
    def names(self) -> list[str]:
        return sorted(stream.name for stream in self.pipeline.streams)

    def flows(self, name: str) -> None:
        """Waits for more frames of a source."""
        sink = self.opened[name][-1][1]
        count = len(sink.indices)
        wait_for(lambda: len(sink.indices) > count)

    def _body(self) -> None:
        try:
            self.result.append(self.pipeline.run())
        except BaseException as error:
            self.result.append(error)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run of the sources a and b."""
    monkeypatch.setattr(watch, "_LOOK_S", 0.01)
    path = tmp_path / "fleet.yaml"
    path.write_text("source: {a: one, b: two}\n")
    started = Run(path)
    wait_for(lambda: started.watcher._file._done)
    yield started
    end(started)


def end(run: Run) -> None:
    run.pipeline.stop()
    run.thread.join(20)
    run.watcher.close()
    assert not run.thread.is_alive()
    unadded = "can't be added" in str(run.result[0])
    assert isinstance(run.result[0], RunReport) or unadded, run.result


def test_sources_come_and_go_with_the_file(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {b: two, c: three}\n")
    wait_for(lambda: run.names == ["b", "c"])
    run.flows("b")
    run.flows("c")
    assert len(run.opened["b"]) == 1  # it went on undisturbed
    indices = run.opened["b"][0][1].indices
    assert indices == list(range(len(indices)))
    assert run.opened["a"][0][1].closed == 1
    assert run.forgotten == ["a"]
    assert "source 'a' is removed" in caplog.messages
    assert "source 'c' is added" in caplog.messages


def test_another_uri_begins_anew(run: Run) -> None:
    run.write("source: {a: elsewhere, b: two}\n")
    wait_for(lambda: len(run.opened["a"]) == 2)
    assert run.opened["a"][1][0] == "elsewhere"
    assert run.opened["a"][0][1].closed == 1  # the old one had finished before the new one was opened
    run.flows("a")
    assert len(run.opened["b"]) == 1


def test_all_may_be_exchanged_though_opening_takes_a_while(run: Run) -> None:
    run.gate = threading.Event()
    run.write("source: {x: slow}\n")
    wait_for(lambda: run.names == [])
    assert not run.result
    run.gate.set()
    wait_for(lambda: run.names == ["x"])
    run.flows("x")


def test_priority_and_budget_change_without_a_break(run: Run) -> None:
    run.write("source: {a: {uri: one, priority: 3, detect_every: 2}, b: two}\n")
    (a,) = [stream for stream in run.pipeline.streams if stream.name == "a"]
    wait_for(lambda: a.inference.input.priority == 3)
    count = len(run.opened["a"][0][1].detections)
    wait_for(lambda: any(found.is_reused for found in run.opened["a"][0][1].detections[count:]))
    assert len(run.opened["a"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "source: {a: one", "sauce: {a: one}\n", "source: []\n", "source: [a=one, a=two]\n", "", "\n", "conf: 0.5\n",
        "source:\n", "source: {}\n", "a\0b\n", "source: {a: {uri: one, priority: high}}\n", "source: {a: one, a: 2}\n",
        "source: {a: one}\nwishes: {c: {priority: 1}}\n", f"source: {{a: one}} #{'x' * (1 << 20)}\n",
    ],
    ids=lambda text: text[:50],
)  # fmt: skip
def test_a_wrong_file_changes_nothing_and_is_told(text: str, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write(text)
    wait_for(lambda: any("can't be followed" in line for line in caplog.messages))
    run.flows("a")
    run.flows("b")
    assert run.names == ["a", "b"]
    run.write("source: {b: two}\n")
    wait_for(lambda: run.names == ["b"])


def test_a_file_that_is_away_for_a_moment_changes_nothing(run: Run) -> None:
    run.path.unlink()
    for _ in range(20):
        run.flows("a")
    assert run.names == ["a", "b"]
    run.write("source: {a: one}\n")
    wait_for(lambda: run.names == ["a"])


def in_its_place(run: Run, make: Callable[[Path], object]) -> None:
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
    make: Callable[[Path], object], says: str, run: Run, caplog: pytest.LogCaptureFixture
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


def test_a_read_that_hangs_holds_up_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(watched_file, "_HANGS_S", 0.05)
    gate, state = threading.Event(), watched_file._state
    monkeypatch.setattr(watched_file, "_state", lambda path: gate.wait(20) and state(path))
    wait_for(lambda: any("can't be read for 0.05 s" in line for line in caplog.messages))
    run.flows("a")
    run.write("source: {b: two}\n")
    gate.set()
    wait_for(lambda: run.names == ["b"])


def test_a_run_ends_while_a_read_hangs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hangs = threading.Event(), threading.Event()

    def hanging(path: Path) -> None:
        hangs.set()
        gate.wait(20)

    monkeypatch.setattr(watched_file, "_state", hanging)
    assert hangs.wait(20)
    run.pipeline.stop()
    run.thread.join(20)
    assert not run.thread.is_alive()
    gate.set()


def test_links_may_be_swapped_and_the_file_written_in_place(run: Run, tmp_path: Path) -> None:
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


def test_an_edit_before_the_run_began_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_S", 0.01)
    path = tmp_path / "fleet.yaml"
    path.write_text("source: {a: one, b: two}\n")
    run = Run(path, meanwhile="source: {b: two}\n")
    wait_for(lambda: run.names == ["b"])
    end(run)


def test_a_source_that_is_put_back_while_it_drains(run: Run) -> None:
    gate, writes = threading.Event(), threading.Event()

    def blocked(_: int) -> None:
        writes.set()
        gate.wait(20)

    run.sinks["drains"] = MemorySink(before=blocked)
    run.write("source: {a: drains, b: two}\n")
    assert writes.wait(20)
    run.write("source: {b: two}\n")
    (a,) = [stream for stream in run.pipeline.streams if stream.name == "a"]
    wait_for(lambda: a.is_removed)
    assert run.names == ["a", "b"]  # what it had captured is still being written
    run.write("source: {a: {uri: again, priority: 2}, b: two}\n")
    for _ in range(20):
        run.flows("b")
    gate.set()
    wait_for(lambda: len(run.opened["a"]) == 3)
    run.flows("a")
    assert [stream.inference.input.priority for stream in run.pipeline.streams if stream.name == "a"] == [2]


def test_a_priority_that_changes_while_the_source_is_opened(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one, b: two, c: {uri: slow, priority: 4, detect_every: 3}}\n")
    wait_for(lambda: any("source 'c' has changed" in line for line in caplog.messages))
    run.gate.set()
    wait_for(lambda: run.names == ["a", "b", "c"])
    (c,) = [stream for stream in run.pipeline.streams if stream.name == "c"]
    assert (c.inference.input.priority, c.inference.detect_every) == (4, 3)
    assert len(run.opened["c"]) == 1


def test_an_entry_that_changes_there_and_back_while_it_is_opened(run: Run) -> None:
    run.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: sum(thread.name == "open c" for thread in threading.enumerate()) == 1)
    run.write("source: {a: one, b: two}\n")
    wait_for(lambda: "c" in run.forgotten)
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: sum(thread.name == "open c" for thread in threading.enumerate()) == 2)
    run.gate.set()
    wait_for(lambda: len(run.opened.get("c", ())) == 2 and any(sink.closed for _, sink in run.opened["c"]))
    assert run.names == ["a", "b", "c"]
    assert sum(sink.closed for _, sink in run.opened["c"]) == 1


def test_what_is_said_for_all_sources_holds_for_each(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: {uri: two, detect_every: 5}}\ndetect_every: 2\n")
    streams = {stream.name: stream for stream in run.pipeline.streams}
    wait_for(lambda: (streams["a"].inference.detect_every, streams["b"].inference.detect_every) == (2, 5))
    run.write("source: {a: one, b: two}\n")
    wait_for(lambda: (streams["a"].inference.detect_every, streams["b"].inference.detect_every) == (1, 1))
    assert not any("can't change" in line for line in caplog.messages)
    assert len(run.opened["a"]) == len(run.opened["b"]) == 1


def test_names_may_be_exchanged(run: Run) -> None:
    run.write("source: {a: two, b: one}\n")
    wait_for(lambda: len(run.opened["a"]) == len(run.opened["b"]) == 2)
    assert (run.opened["a"][1][0], run.opened["b"][1][0]) == ("two", "one")
    run.flows("a")
    run.flows("b")


def test_an_opening_that_breaks_ends_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two, c: broken}\n")
    wait_for(lambda: any("'c' can't be added: ValueError: no such thing" in line for line in caplog.messages))
    run.flows("a")
    run.write("source: {a: one, b: two, c: {uri: broken, priority: 1}}\n")  # any change has it tried again
    wait_for(lambda: sum("'c' can't be added" in line for line in caplog.messages) == 2)
    assert run.names == ["a", "b"]


def test_what_cannot_change_is_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two}\nmodel: other\nconf: 0.9\n")
    wait_for(lambda: any("conf, model can't change" in line for line in caplog.messages))
    assert run.names == ["a", "b"]


def test_a_source_that_cannot_be_opened_is_told_and_may_be_mended(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two, c: refused}\n")
    wait_for(lambda: any("'c' can't be added" in line for line in caplog.messages))
    run.flows("a")
    assert [error.where for error in run.pipeline.report().errors] == ["c"]
    run.write("source: {a: one, b: two, c: three}\n")
    wait_for(lambda: run.names == ["a", "b", "c"])
    assert not run.pipeline.report().errors


def test_a_source_that_cannot_be_opened_again_fails_the_run(run: Run) -> None:
    run.write("source: {a: refused, b: two}\n")
    wait_for(lambda: [error.where for error in run.pipeline.report().errors] == ["a"])
    assert "source 'a' can't be added: source 'refused' refused" in run.pipeline.report().errors[0].what
    run.write("source: {b: two, c: refused}\n")  # `a` isn't wanted any more
    wait_for(lambda: [error.where for error in run.pipeline.report().errors] == ["c"])
    run.pipeline.stop()
    run.thread.join(20)
    assert isinstance(run.result[0], SourceError) and run.result[0].exit_code == 1


def test_a_source_that_could_not_be_added_is_tried_again_when_another_goes(run: Run, caplog: Any) -> None:
    """The one that goes may be what was in its way."""
    refused = {"three"}
    open_plan = run.watcher._open

    def refusing(config: StreamConfig, spec: SourceSpec, is_wanted: Callable[[], bool]) -> StreamSpec:
        if str(spec) in refused and len(config.source) > 1:
            raise ConfigError("several sources can't share it")
        return open_plan(config, spec, is_wanted)

    run.watcher._open = refusing
    run.write("source: {a: one, b: two, c: three}\n")
    wait_for(lambda: "several sources can't share it" in caplog.text)
    run.write("source: {c: three}\n")
    wait_for(lambda: run.names == ["c"])
    run.flows("c")


def test_an_entry_that_changes_while_it_is_opened(run: Run) -> None:
    run.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one, b: two, c: quick}\n")
    wait_for(lambda: run.names == ["a", "b", "c"])
    run.gate.set()
    wait_for(lambda: len(run.opened.get("c", ())) == 2)
    (slow,) = [sink for uri, sink in run.opened["c"] if uri == "slow"]
    wait_for(lambda: slow.closed)
    assert not slow.indices
    (quick,) = [sink for uri, sink in run.opened["c"] if uri == "quick"]
    count = len(quick.indices)
    wait_for(lambda: len(quick.indices) > count)


def test_one_that_is_taken_back_before_it_could_begin(run: Run) -> None:
    run.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one}\n")
    wait_for(lambda: run.names == ["a"])
    run.gate.set()
    wait_for(lambda: run.opened.get("c") and run.opened["c"][0][1].closed)
    assert run.names == ["a"]


def test_a_source_that_ended_may_be_begun_again(run: Run) -> None:
    run.write("source: {a: one, c: short}\n")
    wait_for(lambda: run.opened.get("c") and run.opened["c"][0][1].closed)
    run.write("source: {a: one}\n")
    wait_for(lambda: run.names == ["a"])
    run.write("source: {a: one, c: short}\n")
    wait_for(lambda: len(run.opened["c"]) == 2 and run.opened["c"][1][1].closed)
    assert [sink.indices for _, sink in run.opened["c"]] == [[0, 1, 2]] * 2


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (4, 4, 4), (5, 5, 5), (5, 5, 5), (5, 5, 5), (5, 5, 5)])
    monkeypatch.setattr(watched_file, "_state", lambda path: next(states))
    read: list[str] = []
    file = WatchedFile(tmp_path / "c.yaml", lambda: read.append("read") or "content")
    assert [file.look() for _ in range(4)] == [None] * 4
    assert read == []
    assert file.look() is None  # it changed while it was read
    assert read == ["read"]
    assert [file.look(), file.look()] == [None, "content"]
    assert read == ["read"] * 2


def test_a_pipe_that_the_run_began_with_is_no_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    file = WatchedFile(tmp_path / "c.yaml", lambda: pytest.fail("read"))
    assert [file.look() for _ in range(4)] == [None] * 4


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
    assert [file.look(), file.look()] == [None, "content"]
    path.write_text("a: 12")
    assert file.look() is None
    with pytest.raises(ConfigError, match="lost"):
        file.look()
    assert file.look() is None  # it was said before
    assert file.look() == "again"


def lost() -> ConfigError:
    error = ConfigError("lost")
    error.__cause__ = OSError(5, "lost")
    return error
