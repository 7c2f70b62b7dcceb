"""What ends when a part of a run fails: the part alone, or all of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from streamer.common.errors import EngineError, SinkError, SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.report import RunError
from tests.fakes import WAIT_S, CountingSource, MemorySink, SlowDetector, no_fault
from tests.pipelines import fail_at, run_bounded


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("source", SourceError("camera gone")),
        ("detector", EngineError("engine gone")),
        ("sink", ZeroDivisionError("a bug")),
        ("main sink", ZeroDivisionError("a bug")),
        ("draw", RuntimeError("a bug")),
    ],
)
def test_failure_in_any_thread_ends_the_run_with_its_cause(
    where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = fail_at(4, error)
    if where == "draw":
        monkeypatch.setattr(
            "streamer.frames.draw.Annotator.annotate", lambda self, frame, *_, **__: fault(frame.index) or frame
        )
    source = CountingSource(10_000_000, before=fault if where == "source" else no_fault)
    sinks = [
        MemorySink(before=fault if where == "sink" else no_fault, needs_pixels=True),
        MemorySink(before=fault if where == "main sink" else no_fault, main_thread=True),
        MemorySink(),
    ]
    detector = SlowDetector(during=fault if where == "detector" else no_fault)
    pipeline = Pipeline([StreamSpec(source, [(str(i), sink) for i, sink in enumerate(sinks)])], detector)
    with pytest.raises(type(error), match=str(error)):
        run_bounded(pipeline)
    assert [sink.closed >= 1 for sink in sinks] == [True] * 3
    assert source.closed >= 1
    for sink in sinks:
        assert sink.indices == list(range(len(sink.indices)))


def test_failure_ends_the_run_though_another_sink_and_the_source_hang() -> None:
    forever = threading.Event()
    try:
        source = CountingSource(100, before=lambda i: forever.wait(WAIT_S) if i == 3 else None)
        failing = MemorySink(before=fail_at(2, ZeroDivisionError("a bug")))
        hanging = MemorySink(before=lambda i: forever.wait(WAIT_S) if i == 1 else None)
        pipeline = Pipeline([StreamSpec(source, [("f", failing), ("h", hanging)])], SlowDetector())
        with pytest.raises(ZeroDivisionError, match="a bug"):
            run_bounded(pipeline)
    finally:
        forever.set()


@pytest.mark.parametrize("main_thread", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_an_output_that_fails_ends_alone(main_thread: bool, live: bool) -> None:
    failing = MemorySink(before=fail_at(5, SinkError("disk full")), main_thread=main_thread)
    going_on = MemorySink(needs_pixels=True)
    source = CountingSource(40, live=live)
    spec = StreamSpec(source, [("bad.mp4", failing), ("good.mp4", going_on)], policy=OverflowPolicy.BLOCK)
    pipeline = Pipeline([spec], SlowDetector())
    with pytest.raises(SinkError, match="disk full"):
        run_bounded(pipeline)
    assert failing.indices == list(range(5))
    assert going_on.indices == list(range(40))
    assert failing.closed >= 1
    assert going_on.closed == 1
    report = pipeline.report()
    assert report.errors == (RunError("bad.mp4", "disk full"),)
    assert report.sources[0].frames_processed == 40


@pytest.mark.parametrize("main_thread", [False, True])
def test_without_an_output_left_the_run_ends(main_thread: bool) -> None:
    sink = MemorySink(before=fail_at(5, SinkError("disk full")), main_thread=main_thread)
    pipeline = Pipeline([StreamSpec(CountingSource(10_000_000), [("m", sink)])], SlowDetector())
    with pytest.raises(SinkError, match="disk full"):
        run_bounded(pipeline)
    assert pipeline.report().sources[0].frames_processed == 5


def test_a_source_without_an_output_left_ends_though_it_says_nothing() -> None:
    forever = threading.Event()
    try:
        source = CountingSource(100, live=True, before=lambda i: forever.wait(WAIT_S) if i == 1 else None)
        sink = MemorySink(before=fail_at(0, SinkError("disk full")))
        with pytest.raises(SinkError, match="disk full"):
            run_bounded(Pipeline([StreamSpec(source, [("m", sink)])], SlowDetector()))
    finally:
        forever.set()


def test_a_source_that_fails_ends_alone() -> None:
    sinks = [MemorySink(), MemorySink()]
    lost = CountingSource(100, name="lost", before=fail_at(3, SourceError("camera gone")))
    well = CountingSource(100, name="well")
    pipeline = Pipeline([StreamSpec(s, [("m", k)]) for s, k in zip((lost, well), sinks, strict=True)], SlowDetector())
    with pytest.raises(SourceError, match="camera gone"):
        run_bounded(pipeline)
    assert sinks[0].indices == [0, 1, 2]
    assert sinks[1].indices == list(range(100))
    assert pipeline.report().errors == (RunError("lost", "camera gone"),)


class FaultySource(CountingSource):
    """Fails where `where` says, with an error that isn't this package's."""

    def __init__(self, where: str) -> None:
        super().__init__(100, name="faulty", before=fail_at(3, ValueError("a bug")) if where == "next" else no_fault)
        self.where = where

    def __iter__(self) -> Iterator[Frame]:
        if self.where == "iter":
            raise ValueError("a bug")
        return super().__iter__()

    def interrupt(self) -> None:
        if self.where == "interrupt":
            raise ValueError("a bug")

    def close(self) -> None:
        super().close()
        if self.where == "close":
            raise ValueError("a bug")


@pytest.mark.parametrize(("where", "given"), [("iter", 0), ("next", 3), ("close", 100), ("interrupt", 100)])
def test_whatever_a_source_raises_ends_it_alone(where: str, given: int) -> None:
    sinks = [MemorySink(), MemorySink()]
    faulty, well = FaultySource(where), CountingSource(100, name="well")
    specs = [StreamSpec(s, [("m", k)]) for s, k in zip((faulty, well), sinks, strict=True)]
    pipeline = Pipeline(specs, SlowDetector())
    if where == "interrupt":
        pipeline.add(StreamSpec(CountingSource(1), [("m", MemorySink())]))
        pipeline.remove("faulty")
    with pytest.raises(SourceError, match=r"source 'faulty' failed: ValueError: a bug") as caught:
        run_bounded(pipeline)
    assert isinstance(caught.value.__cause__, ValueError)
    assert sinks[0].indices == list(range(0 if where == "interrupt" else given))
    assert sinks[1].indices == list(range(100))
    assert [error.where for error in pipeline.report().errors] == ["faulty"]
