"""A run that follows its configuration file: a real pipeline and real files, made-up sources and sinks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer import watch
from streamer.config import StreamConfig, read_config
from streamer.errors import SourceError
from streamer.pipeline import Pipeline, StreamPlan
from streamer.report import RunReport
from streamer.sources.uri import split_name
from streamer.watch import Watcher
from tests.fakes import CountingSource, MemorySink, SlowDetector, wait_for

ENDLESS = 10_000_000


class Run:
    """A pipeline that follows a file; every source opened is kept by name, with its sink."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: dict[str, list[tuple[str, MemorySink]]] = {}
        self.forgotten: list[str] = []
        self.gate: threading.Event | None = None
        self.result: list[RunReport | BaseException] = []
        config = read_config(path, {})
        self.watcher = Watcher(path, config, lambda: read_config(path, {}), self.open, self.forgotten.append)
        plans = [self.open(config, argument) for argument in config.source]
        self.pipeline = Pipeline(plans, SlowDetector(), on_poll=self.watcher.poll)
        self.thread = threading.Thread(target=self._body, daemon=True)
        self.thread.start()
        wait_for(lambda: self.pipeline._is_running)

    def open(self, config: StreamConfig, argument: str) -> StreamPlan:
        name, uri = split_name(argument)
        assert name is not None
        if "refused" in uri:
            raise SourceError(f"source {uri!r} refused the connection")
        if self.gate is not None and "slow" in uri:
            assert self.gate.wait(20)
        sink = MemorySink()
        self.opened.setdefault(name, []).append((uri, sink))
        wishes = config.wishes_of(name)
        source = CountingSource(3 if "short" in uri else ENDLESS, name=name)
        return StreamPlan(
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
    yield started
    started.pipeline.stop()
    started.thread.join(20)
    assert not started.thread.is_alive()


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
    wait_for(lambda: a.lane.priority == 3)
    count = len(run.opened["a"][0][1].detections)
    wait_for(lambda: any(found.is_held for found in run.opened["a"][0][1].detections[count:]))
    assert len(run.opened["a"]) == 1


@pytest.mark.parametrize(
    "text", ["source: {a: one", "sauce: {a: one}\n", "source: []\n", "source: [a=one, a=two]\n", ""]
)
def test_a_wrong_file_changes_nothing_and_is_told(text: str, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    if not text:
        text = "source: {a: {uri: one, priority: high}}\n"
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


def test_what_cannot_change_is_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two}\nmodel: other\nconf: 0.9\n")
    wait_for(lambda: any("conf, model can't change" in line for line in caplog.messages))
    assert run.names == ["a", "b"]


def test_a_source_that_cannot_be_opened_is_told_and_may_be_mended(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two, c: refused}\n")
    wait_for(lambda: any("'c' can't be added" in line for line in caplog.messages))
    run.flows("a")
    run.write("source: {a: one, b: two, c: three}\n")
    wait_for(lambda: run.names == ["a", "b", "c"])


def test_an_entry_that_changes_while_it_is_opened(run: Run) -> None:
    run.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one, b: two, c: quick}\n")
    wait_for(lambda: run.names == ["a", "b", "c"])
    run.gate.set()
    wait_for(lambda: len(run.opened["c"]) == 2)
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
    monkeypatch.setattr(watch, "_LOOK_S", 0.0)
    states = iter([(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (4, 4, 4), (4, 4, 4)])
    monkeypatch.setattr(watch, "_state", lambda path: next(states))
    config = StreamConfig(source=("a=one",))
    read: list[str] = []

    def reading() -> StreamConfig:
        read.append("read")
        return config

    pipeline = Pipeline([StreamPlan(CountingSource(1, name="a"), [("o", MemorySink())])], SlowDetector())
    watcher = Watcher(tmp_path / "c.yaml", config, reading, lambda config, argument: pytest.fail("none"), read.append)
    for _ in range(3):
        watcher.poll(pipeline)
        assert read == []
    watcher.poll(pipeline)
    watcher.poll(pipeline)
    assert read == ["read"]  # once, when it had stayed the same
