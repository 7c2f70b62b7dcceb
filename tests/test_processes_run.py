"""Runs whose sources other processes decode: the pipeline and the command line don't know the difference."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.common.errors import EngineError, SinkError, StreamerError
from streamer.common.queues import OverflowPolicy
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.report import RunReport
from streamer.sources import Source, SourceOptions, SourceSpec
from streamer.sources.workers import DecoderPool
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED
from tests.fakes import MemorySink, SlowDetector, wait_for
from tests.media import number_of, write_clip
from tests.rtsp.server import RtspServer
from tests.test_cli import lines_in
from tests.test_pipeline import fail_at, run_bounded
from tests.test_pipeline_streams import running
from tests.test_processes import LONG, WAIT_S, loads, opened
from tests.test_processes_faults import state_of, within
from tests.tiny import write_tiny


@pytest.fixture
def two() -> Iterator[DecoderPool]:
    """Two processes, which have nothing to decode any more at the end."""
    with DecoderPool(2) as processes:
        yield processes
        wait_for(lambda: loads(processes) == [0, 0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.onnx")


# --- the pipeline ---


def run(plans: list[StreamSpec], **options: int) -> RunReport:
    return run_bounded(Pipeline(plans, SlowDetector(depth=8, batch=4), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("drawn", [False, True])
def test_every_frame_reaches_its_sink(two: DecoderPool, long_clip: Path, drawn: bool) -> None:
    sinks = [MemorySink(needs_pixels=drawn) for _ in range(3)]
    sources = [opened(two, long_clip, name) for name in "abc"]
    report = run([StreamSpec(source, [("out", sink)]) for source, sink in zip(sources, sinks, strict=True)])
    for sink, part, name in zip(sinks, report.sources, "abc", strict=True):
        assert sink.indices == list(range(LONG))
        assert {frame.source for frame in sink.frames} == {name}
        assert drawn or [number_of(frame.image) for frame in sink.frames] == list(range(LONG))
        assert sink.closed == 1
        assert (part.name, part.frames_captured, part.frames_processed, part.frames_dropped) == (name, LONG, LONG, 0)
    assert report.errors == ()
    assert {"capture", "write out"} <= set(report.stages_ms)


@pytest.mark.parametrize("count", [1, MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED + 5])
def test_so_many_frames_and_no_more(two: DecoderPool, long_clip: Path, count: int) -> None:
    sinks = [MemorySink(), MemorySink()]
    plans = [StreamSpec(opened(two, long_clip, name), [("out", sink)]) for name, sink in zip("ab", sinks, strict=True)]
    report = run(plans, max_frames=count)
    assert [sink.indices for sink in sinks] == [list(range(count))] * 2
    assert [part.frames_processed for part in report.sources] == [count] * 2


def test_a_sink_that_fails_ends_its_stream_alone(two: DecoderPool, long_clip: Path) -> None:
    full = MemorySink(before=fail_at(5, SinkError("the disk is full")))
    other = MemorySink()
    plans = [StreamSpec(opened(two, long_clip, name), [(name, sink)]) for name, sink in (("a", full), ("b", other))]
    with pytest.raises(SinkError, match="the disk is full"):
        run(plans)
    assert full.indices == list(range(5))
    assert other.indices == list(range(LONG))


@pytest.mark.parametrize("policy", list(OverflowPolicy))
def test_frames_beyond_the_budget_make_room_too(two: DecoderPool, long_clip: Path, policy: OverflowPolicy) -> None:
    sink = MemorySink()
    (part,) = run([StreamSpec(opened(two, long_clip), [("out", sink)], policy, max_fps=3)]).sources  # of 30
    wanted = list(range(0, LONG, 10))
    assert set(sink.indices) <= set(wanted)
    assert policy is OverflowPolicy.DROP_OLDEST or sink.indices == wanted
    assert part.frames_captured == LONG


def test_boxes_are_held_between(two: DecoderPool, long_clip: Path) -> None:
    sink = MemorySink()
    run([StreamSpec(opened(two, long_clip), [("out", sink)], detect_every=4)])
    assert sink.indices == list(range(LONG))
    assert [found.is_reused for found in sink.detections] == [index % 4 != 0 for index in range(LONG)]


def test_frames_wait_for_their_own_time(two: DecoderPool, tmp_path: Path) -> None:
    source, sink = opened(two, write_clip(tmp_path / "slow.mp4", 6, fps=10)), MemorySink()
    began_s = time.perf_counter()
    run([StreamSpec(source, [("out", sink)], OverflowPolicy.BLOCK, paced=True)])
    assert sink.indices == list(range(6))
    assert all(frame.captured_at_s >= began_s + frame.pts_s - 0.001 for frame in sink.frames)


def test_a_busy_detector_holds_up_no_word_of_the_processes(long_clip: Path) -> None:
    gate, sink = threading.Event(), MemorySink()

    def wait(_: int) -> None:
        gate.wait(WAIT_S)

    with DecoderPool(1) as processes:
        plan = StreamSpec(opened(processes, long_clip), [("out", sink)])
        pipeline = Pipeline([plan], SlowDetector(during=wait))
        (stream,) = pipeline.streams
        with running(pipeline) as result:
            wait_for(lambda: len(stream.inference.input.queue) == MAX_UNACKNOWLEDGED)
            within(lambda: opened(processes, long_clip, "b"))
            gate.set()
            wait_for(lambda: result)
    assert sink.indices == list(range(LONG))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), EngineError("out of page-locked memory")])
def test_a_detector_that_cannot_take_a_frame_ends_the_run(long_clip: Path, error: Exception) -> None:
    class Refusing(SlowDetector):
        def prepare(self, frame: Frame) -> None:
            if frame.index == 3:
                raise error

    with DecoderPool(2) as processes:
        plans = [StreamSpec(opened(processes, long_clip, name), [("out", MemorySink())]) for name in "ab"]
        with pytest.raises(StreamerError, match=str(error)):
            run_bounded(Pipeline(plans, Refusing(depth=4)))


# --- the command line ---


def arguments(folder: Path, model: Path, processes: int, *sources: str) -> list[str]:
    named = [part for name, uri in zip("abcdef", sources, strict=False) for part in ("--source", f"{name}={uri}")]
    return [
        *named, "--output", f"{folder}/{{source}}.jsonl", "--model", str(model), "--engine", "openvino", "--batch", "1",
        "--conf", "0.05", "--decode", "cpu", "--decode-processes", str(processes), "--no-progress",
    ]  # fmt: skip


class Watched(DecoderPool):
    """Decoding processes as they are; which were first, and the names of the sources that they were given."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.first = [worker.pid for worker in self.status()]
        self.names: list[str] = []

    def open(self, spec: SourceSpec, options: SourceOptions) -> Source:
        self.names.append(spec.name)
        return super().open(spec, options)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """What the program starts."""
    found: list[Watched] = []

    def start(count: int) -> Watched:
        found.append(Watched(count))
        return found[-1]

    monkeypatch.setattr("streamer.sources.workers.DecoderPool", start)
    return found


def test_the_lines_are_the_same(tmp_path: Path, model: Path, started: list[Watched]) -> None:
    clips = [str(write_clip(tmp_path / f"{n}.mp4", LONG + n, size_wh=(96 + 32 * n, 64))) for n in range(4)]
    written = []
    for processes in (0, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        assert main(arguments(folder, model, processes, *clips)) == 0
        written.append([(folder / f"{name}.jsonl").read_text() for name in "abcd"])
    here, there = written
    assert [(len(each.first), each.names) for each in started] == [(2, list("abcd"))]
    assert [state_of(pid) for pid in started[0].first] == ["Z", "Z"]
    assert there == here
    lines = [[json.loads(line) for line in text.splitlines()] for text in here]
    assert [len(each) for each in lines] == [LONG + number for number in range(4)]
    assert all(any(line["detections"] for line in each) for each in lines)


def kill_first(started: list[Watched], when: Callable[[], bool]) -> threading.Thread:
    """Kills the first of the processes at some moment; returns the thread that does."""

    def kill() -> None:
        wait_for(when)
        os.kill(started[0].first[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


def test_a_process_that_is_killed_fails_the_run_and_the_rest_is_written(
    tmp_path: Path, model: Path, started: list[Watched], capsys: pytest.CaptureFixture[str]
) -> None:
    cut, whole = write_clip(tmp_path / "cut.mp4", 20 * LONG), write_clip(tmp_path / "whole.mp4", LONG)
    lines = {name: tmp_path / f"{name}.jsonl" for name in "ab"}
    killer = kill_first(started, lambda: lines_in(lines["a"]) > 2 and lines_in(lines["b"]) == LONG)
    assert (
        main([*arguments(tmp_path, model, 2, str(cut), str(whole)), "--pace", "source", "--policy", "every-frame"]) == 1
    )
    killer.join()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(cut) in errors[0] and "was killed by SIGKILL" in errors[0]
    assert [json.loads(line)["index"] for line in lines["b"].read_text().splitlines()] == list(range(LONG))
    assert lines["a"].read_text().endswith("}\n")


def test_a_camera_goes_on_after_its_process_was_killed(tmp_path: Path, model: Path, started: list[Watched]) -> None:
    lines, report = tmp_path / "a.jsonl", tmp_path / "report.json"
    killer = kill_first(started, lambda: lines_in(lines) > 2)
    with RtspServer() as camera:
        wanted = ["--max-frames", str(2 * LONG), "--report", str(report)]
        assert main([*arguments(tmp_path, model, 2, camera.url), *wanted]) == 0
        killer.join()
    indices = [json.loads(line)["index"] for line in lines.read_text().splitlines()]
    assert len(indices) == 2 * LONG
    assert indices == sorted(set(indices))
    (part,) = json.loads(report.read_text())["sources"]
    assert (part["reconnects"], part["frames_processed"]) == (1, 2 * LONG)


@pytest.mark.parametrize("wrong", ["-1", "65", "few", "1.5"])
def test_what_is_no_number_of_processes(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--source", "sample", "--output", "null", f"--decode-processes={wrong}"]) == 2
    assert "decode_processes" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_told_as_ever(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for processes in (0, 2):
        assert main(arguments(tmp_path, model, processes, str(tmp_path / "missing.mp4"))) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "missing.mp4" in said[0]
