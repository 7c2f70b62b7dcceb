"""A run from its first frame to the report: order, drops, pace, priority, and its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sinks.base import LiveFigures, StopRequested
from streamer.sources.pacing import RateLimiter
from tests.fakes import WAIT_S, CountingSource, MemorySink, SlowDetector, wait_for
from tests.pipelines import fail_at, run_bounded, until_frames_wait


@pytest.mark.parametrize("depth", [1, 3])
def test_every_frame_reaches_every_sink_in_order(depth: int) -> None:
    pipeline: Pipeline
    source, sinks = CountingSource(100), [MemorySink(), MemorySink(needs_pixels=True)]
    detector = SlowDetector(depth=depth, during=lambda _: until_frames_wait(pipeline, 2))
    spec = StreamSpec(source, [("a", sinks[0]), ("b", sinks[1])])
    pipeline = Pipeline([spec], detector)
    report = run_bounded(pipeline)
    for sink in sinks:
        assert sink.indices == list(range(100))
        assert sink.closed == 1
        assert all(len(found) == 1 for found in sink.detections)
    assert source.closed >= 1
    assert detector.most_in_flight == depth
    (part,) = report.sources
    assert (part.frames_captured, part.frames_processed, part.frames_dropped) == (100, 100, 0)
    assert report.fps == pytest.approx(100 / report.wall_s)
    assert set(report.stages_ms) == {"capture", "preprocess", "inference", "postprocess", "draw", "write a", "write b"}
    assert report.stages_ms["inference"]["p95"] == 2.0
    assert report.latency_ms is not None
    assert report.latency_ms["p50"] <= report.latency_ms["p95"] <= report.latency_ms["max"]


def test_only_sinks_that_need_pixels_get_drawn_frames() -> None:
    plain, drawn = MemorySink(), MemorySink(needs_pixels=True)
    run_bounded(Pipeline([StreamSpec(CountingSource(1), [("p", plain), ("d", drawn)])], SlowDetector()))
    assert (plain.frames[0].image == 0).all()
    assert (drawn.frames[0].image != 0).any()


def test_nothing_is_drawn_where_no_sink_needs_it() -> None:
    report = run_bounded(Pipeline([StreamSpec(CountingSource(3), [("p", MemorySink())])], SlowDetector()))
    assert "draw" not in report.stages_ms


def test_freshest_drops_and_counts_and_ends_with_the_newest() -> None:
    captured_all = threading.Event()
    source = CountingSource(50, live=True, before=lambda i: captured_all.set() if i == 49 else None)
    detector = SlowDetector(during=lambda i: None if i else captured_all.wait(WAIT_S))
    sink = MemorySink()
    report = run_bounded(Pipeline([StreamSpec(source, [("m", sink)])], detector))
    assert sink.indices == sorted(sink.indices)
    assert sink.indices[-1] == 49
    assert len(sink.indices) < 50
    (part,) = report.sources
    assert part.frames_captured == 50
    assert part.frames_processed == len(sink.indices)
    assert part.frames_dropped == 50 - len(sink.indices)


def test_policy_may_be_asked_for() -> None:
    sink = MemorySink()
    spec = StreamSpec(CountingSource(50, live=True), [("m", sink)], policy=OverflowPolicy.BLOCK)
    run_bounded(Pipeline([spec], SlowDetector()))
    assert sink.indices == list(range(50))


@pytest.mark.parametrize("live", [False, True])
def test_max_frames_is_exact(live: bool) -> None:
    sink = MemorySink()
    source = CountingSource(10_000_000, live=live)
    report = run_bounded(Pipeline([StreamSpec(source, [("m", sink)])], SlowDetector(), max_frames=7))
    assert len(sink.indices) == 7
    assert report.sources[0].frames_processed == 7


def test_stop_ends_an_endless_run_in_good_order() -> None:
    pipeline: Pipeline
    sink = MemorySink(before=lambda i: pipeline.stop() if i == 5 else None)
    pipeline = Pipeline([StreamSpec(CountingSource(10_000_000), [("m", sink)])], SlowDetector())
    report = run_bounded(pipeline)
    assert sink.closed == 1
    assert sink.indices == list(range(len(sink.indices)))
    assert report.sources[0].frames_processed == len(sink.indices) > 5


def test_duration_ends_a_source_that_says_nothing() -> None:
    silent = threading.Event()
    try:
        source = CountingSource(10, live=True, before=lambda i: silent.wait(WAIT_S) if i == 3 else None)
        sink = MemorySink()
        spec = StreamSpec(source, [("m", sink)], policy=OverflowPolicy.BLOCK)
        run_bounded(Pipeline([spec], SlowDetector()), duration_s=0.2)
        assert sink.closed == 1
        assert sink.indices == [0, 1, 2]
    finally:
        silent.set()


def test_a_time_that_is_no_number_is_the_source_that_gives_it() -> None:
    with pytest.raises(ValueError, match="wanted a finite pts_s, got nan"):
        Frame(np.zeros((2, 2, 3), np.uint8), "x", 0, float("nan"), 0.0)


def test_frames_passed_over_count_for_the_rate_too() -> None:
    class PassingOver(CountingSource):
        dropped = 100

    report = run_bounded(Pipeline([StreamSpec(PassingOver(100), [("m", MemorySink())])], SlowDetector())).sources[0]
    assert (report.frames_captured, report.frames_processed) == (200, 100)
    assert report.fps_captured == pytest.approx(report.fps_processed * 199 / 99)


def test_a_slow_recorder_of_a_live_source_loses_frames_of_its_own() -> None:
    held = threading.Event()
    shown = MemorySink(before=lambda i: held.set() if i == 49 else None)
    slow = MemorySink(before=lambda i: held.wait(WAIT_S) if i == 0 else None)
    pipeline: Pipeline
    source = CountingSource(
        50, live=True, before=lambda i: wait_for(lambda: not pipeline.streams[0].inference.input.queue)
    )
    pipeline = Pipeline([StreamSpec(source, [("shown", shown), ("slow", slow)])], SlowDetector())
    report = run_bounded(pipeline)
    assert shown.indices == list(range(50))
    assert slow.indices[0] == 0
    assert slow.indices[-1] == 49
    assert len(slow.indices) < 50
    part = report.sources[0]
    assert part.frames_processed == len(slow.indices)
    assert part.frames_dropped == pipeline.streams[0].dropped == 50 - len(slow.indices)


def test_an_outage_is_shown_to_live_views_and_counts_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def annotate(self: Annotator, frame: Frame, found: Detections, lines: Sequence[str], **_: object) -> Frame:
        written.extend(lines[:1])
        return frame

    monkeypatch.setattr(Annotator, "annotate", annotate)

    def lose(index: int) -> None:
        if index == 1:
            wait_for(lambda: window.frames)
            source.lost_for_s = 12.3
            wait_for(lambda: len(window.frames) >= 3)
            source.lost_for_s = None

    source = CountingSource(2, live=True, before=lose)
    window, recorder = MemorySink(needs_pixels=True, live_view=True), MemorySink(needs_pixels=True)
    window.live_figures = LiveFigures.BY_DEFAULT
    report = run_bounded(Pipeline([StreamSpec(source, [("w", window), ("r", recorder)])], SlowDetector()))
    assert recorder.indices == [0, 1]
    assert window.indices[:3] == [0, 0, 0]
    assert written[0] == "starting"
    assert "reconnecting (12 s)" in written
    assert "reconnecting (12 s)" not in written[-1]
    assert report.sources[0].frames_processed == 2


def test_main_thread_sink_is_written_polled_and_closed_by_the_caller() -> None:
    sink = MemorySink(main_thread=True)
    pipeline = Pipeline([StreamSpec(CountingSource(5), [("w", sink)])], SlowDetector())
    pipeline.run()
    assert sink.thread is threading.current_thread()
    assert sink.polls > 0
    assert sink.closed >= 1


def test_a_sink_that_lingers_holds_the_run_open() -> None:
    sink = MemorySink(main_thread=True)
    sink.linger_polls = 5
    run_bounded(Pipeline([StreamSpec(CountingSource(1), [("w", sink)])], SlowDetector()))
    assert sink.linger_polls <= 0
    sink.linger_polls = 10**9
    run_bounded(Pipeline([StreamSpec(CountingSource(1), [("w", sink)])], SlowDetector()), duration_s=0.2)


def test_closing_the_window_is_no_failure() -> None:
    window = MemorySink(main_thread=True, before=fail_at(3, StopRequested()))
    other = MemorySink()
    report = run_bounded(
        Pipeline([StreamSpec(CountingSource(10_000_000), [("w", window), ("m", other)])], SlowDetector())
    )
    assert window.closed >= 1
    assert other.closed == 1
    part = report.sources[0]
    assert part.frames_captured == part.frames_processed + part.frames_dropped


def test_source_without_a_frame() -> None:
    with pytest.raises(SourceError, match="before its first frame"):
        run_bounded(Pipeline([StreamSpec(CountingSource(0), [("m", MemorySink())])], SlowDetector()))


def test_streams_share_the_detector_and_keep_apart() -> None:
    sinks = [MemorySink() for _ in range(3)]
    specs = [
        StreamSpec(CountingSource(count, name=f"s{count}"), [("m", sink)])
        for count, sink in zip((5, 30, 60), sinks, strict=True)
    ]
    report = run_bounded(Pipeline(specs, SlowDetector(depth=2)))
    for count, sink in zip((5, 30, 60), sinks, strict=True):
        assert sink.indices == list(range(count))
        assert {frame.source for frame in sink.frames} == {f"s{count}"}
    assert [part.frames_processed for part in report.sources] == [5, 30, 60]


def test_outputs_of_a_stream_that_ends_are_finished_while_others_go_on() -> None:
    short, long = MemorySink(), MemorySink()
    going_on = CountingSource(50, name="long", before=lambda i: wait_for(lambda: short.closed) if i == 40 else None)
    specs = [StreamSpec(CountingSource(5, name="short"), [("m", short)]), StreamSpec(going_on, [("m", long)])]
    run_bounded(Pipeline(specs, SlowDetector(depth=2)))
    assert (short.indices, short.closed) == (list(range(5)), 1)
    assert long.indices == list(range(50))


def test_streams_take_turns() -> None:
    order: list[str] = []
    pipeline: Pipeline

    sinks = [MemorySink(before=lambda _, name=name: order.append(name)) for name in "abc"]
    specs = [StreamSpec(CountingSource(20, name=n), [("m", s)]) for n, s in zip("abc", sinks, strict=True)]
    detector = SlowDetector(during=lambda _: until_frames_wait(pipeline, 1))
    pipeline = Pipeline(specs, detector)
    run_bounded(pipeline)
    submitted = detector.submitted
    # The first frames may come from either stream; from then on all offer one at every turn.
    for position in range(3, 50):
        assert set(submitted[position : position + 3]) == set("abc")
    assert len(order) == 60


def test_a_paced_source_drops_frames() -> None:
    spec = StreamSpec(CountingSource(3), [("m", MemorySink())], paced=True)
    assert spec.overflow_policy is OverflowPolicy.DROP_OLDEST


def test_paced_frames_are_captured_at_their_own_time() -> None:
    sink = MemorySink()
    spec = StreamSpec(CountingSource(4), [("m", sink)], policy=OverflowPolicy.BLOCK, paced=True)
    run_bounded(Pipeline([spec], SlowDetector()))
    times = np.array([frame.captured_at_s for frame in sink.frames])
    assert (times - times[0] >= np.arange(4) / 30 - 1e-3).all()


def test_a_rate_limit_thins_frames_by_their_own_time() -> None:
    sink = MemorySink()
    spec = StreamSpec(CountingSource(90), [("m", sink)], max_fps=10.0)  # 30 a second
    report = run_bounded(Pipeline([spec], SlowDetector()))
    assert sink.indices == list(range(0, 90, 3))
    part = report.sources[0]
    assert (part.frames_captured, part.frames_processed, part.frames_dropped) == (90, 30, 60)


@pytest.mark.parametrize(("max_fps", "kept"), [(20.0, 60), (29.0, 87), (30.0, 90), (100.0, 90), (0.5, 2)])
def test_a_rate_limit_is_kept_on_average(max_fps: float, kept: int) -> None:
    limiter = RateLimiter(max_fps)
    assert sum(limiter.allows(number / 30) for number in range(90)) == pytest.approx(kept, abs=1)


@pytest.mark.parametrize("depth", [1, 3])
def test_detecting_every_nth_frame_reuses_the_boxes_between(depth: int) -> None:
    seen: list[int] = []
    sink = MemorySink()
    spec = StreamSpec(CountingSource(20), [("m", sink)], detect_every=4)
    report = run_bounded(Pipeline([spec], SlowDetector(depth=depth, during=seen.append)))
    assert seen == list(range(0, 20, 4))
    assert sink.indices == list(range(20))
    assert [found.is_reused for found in sink.detections] == [index % 4 != 0 for index in range(20)]
    assert all(len(found) == 1 for found in sink.detections)
    assert report.sources[0].frames_processed == 20


def test_streams_with_and_without_reused_boxes_keep_their_order() -> None:
    sinks = [MemorySink() for _ in range(3)]
    specs = [
        StreamSpec(CountingSource(50, name=f"s{every}"), [("m", sink)], detect_every=every)
        for every, sink in zip((1, 2, 7), sinks, strict=True)
    ]
    run_bounded(Pipeline(specs, SlowDetector(depth=2)))
    for every, sink in zip((1, 2, 7), sinks, strict=True):
        assert sink.indices == list(range(50))
        assert [found.is_reused for found in sink.detections] == [index % every != 0 for index in range(50)]


def test_higher_priority_is_served_first() -> None:
    pipeline: Pipeline
    specs = [
        StreamSpec(CountingSource(20, name=name), [("m", MemorySink())], priority=priority)
        for name, priority in (("low", 0), ("high", 1))
    ]
    detector = SlowDetector(during=lambda _: until_frames_wait(pipeline, 1))
    pipeline = Pipeline(specs, detector)
    run_bounded(pipeline)
    submitted = detector.submitted
    assert submitted[1:20].count("high") >= 18  # the first may come from either stream
    assert submitted.count("low") == submitted.count("high") == 20


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_a_stream_whose_output_waits_for_another_stream_does_not_stall_it(depth: int, first: int) -> None:
    done = threading.Event()

    def until_the_other_is_done(index: int) -> None:
        assert index < 1 or done.wait(WAIT_S), "the other stream was stalled"

    waiting = MemorySink(before=until_the_other_is_done)
    going_on = MemorySink(before=lambda index: done.set() if index == 199 else None)
    specs = [
        StreamSpec(CountingSource(200, name="waits"), [("wall", waiting)]),
        StreamSpec(CountingSource(200, name="goes on"), [("wall", going_on)]),
    ]
    run_bounded(Pipeline(specs[first:] + specs[:first], SlowDetector(depth=depth)))
    assert waiting.indices == going_on.indices == list(range(200))
