"""Streams of one run: none stalls another, and they come, change and go while the run goes on."""

from __future__ import annotations

import threading

import pytest

from streamer.common.errors import ConfigError, SinkError, SourceError
from streamer.common.queues import Closed
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.report import RunReport
from tests.fakes import WAIT_S, CountingSource, MemorySink, SlowDetector, wait_for
from tests.pipelines import running

ENDLESS = 10_000_000


def stream_of(
    name: str, count: int = ENDLESS, *, live: bool = False, **options: object
) -> tuple[StreamSpec, MemorySink]:
    sink = MemorySink()
    return StreamSpec(CountingSource(count, name=name, live=live), [(f"{name}.out", sink)], **options), sink  # type: ignore[arg-type]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_blocked_output_stalls_no_other_stream(live: bool, depth: int) -> None:
    gate = threading.Event()
    stuck = MemorySink(before=lambda i: gate.wait(WAIT_S) if i == 3 else None)  # type: ignore[arg-type, return-value]
    source = CountingSource(ENDLESS, name="stuck", live=live)
    (other, sink) = stream_of("other", 300)
    pipeline = Pipeline([StreamSpec(source, [("stuck.out", stuck)]), other], SlowDetector(depth=depth))
    with running(pipeline):
        wait_for(lambda: len(sink.indices) == 300 and sink.closed)
        gate.set()
    assert sink.indices == list(range(300))
    assert stuck.indices == sorted(stuck.indices)
    if not live:
        assert stuck.indices == list(range(len(stuck.indices)))


def test_a_blocked_output_with_a_number_of_frames_stalls_no_other_stream() -> None:
    gate = threading.Event()
    stuck = MemorySink(before=lambda i: gate.wait(WAIT_S))  # type: ignore[arg-type, return-value]
    other, sink = stream_of("other", 100)
    first = StreamSpec(CountingSource(ENDLESS, name="stuck", live=True), [("stuck.out", stuck)])
    pipeline = Pipeline([first, other], SlowDetector(), max_frames=50)
    with running(pipeline):
        wait_for(lambda: len(sink.indices) == 50)
        gate.set()
        wait_for(lambda: len(stuck.indices) == 50)


def test_a_blocked_output_is_no_leak() -> None:
    gate = threading.Event()
    stuck = MemorySink(before=lambda i: gate.wait(WAIT_S))  # type: ignore[arg-type, return-value]
    source = CountingSource(ENDLESS, name="stuck")
    other, sink = stream_of("other", 200)
    pipeline = Pipeline([StreamSpec(source, [("stuck.out", stuck)]), other], SlowDetector(depth=2))
    with running(pipeline):
        wait_for(lambda: len(sink.indices) == 200)
        (stream,) = [stream for stream in pipeline.streams if stream.name == "stuck"]
        # In flight, captured, in the sink's queue; one being drawn, one being written, one on its way.
        assert stream.stats.captured <= stream.inference.input.limit.capacity + 2 + 2 + 3
        gate.set()


def test_batches_are_of_several_streams() -> None:
    specs = [stream_of(f"s{number}", 40)[0] for number in range(4)]
    detector = SlowDetector(depth=8, batch=4)
    pipeline: Pipeline
    waited = threading.Event()

    def all_offer(_: int) -> None:
        if not waited.is_set():
            wait_for(lambda: all(len(stream.inference.input.queue) == 2 for stream in pipeline.streams))
            waited.set()

    detector.during = all_offer
    pipeline = Pipeline(specs, detector, batch_timeout_s=1.0)
    with running(pipeline) as result:
        wait_for(lambda: result)
    assert isinstance(result[0], RunReport)
    assert [part.frames_processed for part in result[0].sources] == [40] * 4
    assert sum(map(len, detector.batches)) == 160
    assert max(map(len, detector.batches)) == 4
    assert ["s0", "s1", "s2", "s3"] in [sorted(batch) for batch in detector.batches]


def test_frames_that_reuse_boxes_join_no_batch() -> None:
    specs = [stream_of(f"s{number}", 30, detect_every=3) for number in range(3)]
    pipeline = Pipeline([each for each, _ in specs], SlowDetector(depth=6, batch=3))
    with running(pipeline) as result:
        wait_for(lambda: result)
    for _, sink in specs:
        assert sink.indices == list(range(30))
        assert [found.is_reused for found in sink.detections] == [index % 3 != 0 for index in range(30)]


def test_streams_are_added_and_removed_while_others_run() -> None:
    first, first_sink = stream_of("first")
    pipeline = Pipeline([first], SlowDetector())
    with running(pipeline):
        wait_for(lambda: len(first_sink.indices) > 5)
        second, second_sink = stream_of("second")
        pipeline.add(second)
        wait_for(lambda: len(second_sink.indices) > 5)
        pipeline.remove("first")
        wait_for(lambda: len(pipeline.streams) == 1)
        assert first_sink.closed == 1
        assert first.source.closed >= 1  # type: ignore[attr-defined]
        count = len(second_sink.indices)
        wait_for(lambda: len(second_sink.indices) > count + 5)
        again, again_sink = stream_of("first")
        pipeline.add(again)
        wait_for(lambda: len(again_sink.indices) > 5)
    assert second_sink.indices == list(range(len(second_sink.indices)))
    report = pipeline.report()
    assert [part.name for part in report.sources] == ["first", "second", "first"]
    assert report.sources[0].frames_processed == len(first_sink.indices)
    assert report.fps * report.wall_s == pytest.approx(sum(part.frames_processed for part in report.sources))


def test_names_are_used_once_at_a_time() -> None:
    pipeline = Pipeline([stream_of("door")[0]], SlowDetector())
    with pytest.raises(ConfigError, match="'door' already"):
        pipeline.add(stream_of("door")[0])
    for call in (pipeline.remove, pipeline.change):
        with pytest.raises(ConfigError, match="no stream named 'gate'"):
            call("gate")
    pipeline.stop()
    with pytest.raises(Closed):
        pipeline.add(stream_of("gate")[0])


def test_the_last_stream_may_be_exchanged() -> None:
    old, old_sink = stream_of("old")
    pipeline = Pipeline([old], SlowDetector())
    with running(pipeline) as result:
        wait_for(lambda: old_sink.indices)
        with pipeline.expecting():
            pipeline.remove("old")
            wait_for(lambda: not pipeline.streams)
            new, new_sink = stream_of("new", 10)
            pipeline.add(new)
        wait_for(lambda: result)
        assert isinstance(result[0], RunReport)
        assert new_sink.indices == list(range(10))
        with pytest.raises(Closed):
            pipeline.add(stream_of("late")[0])


def test_a_stream_that_never_gave_a_frame_may_be_removed() -> None:
    silent = threading.Event()
    source = CountingSource(1, name="silent", live=True, before=lambda _: silent.wait(WAIT_S) and None)
    other, sink = stream_of("other")
    pipeline = Pipeline([StreamSpec(source, [("s", MemorySink())]), other], SlowDetector())
    with running(pipeline) as result:
        wait_for(lambda: sink.indices)
        pipeline.remove("silent")
        silent.set()
        wait_for(lambda: len(pipeline.streams) == 1)
    assert isinstance(result[0], RunReport)


def test_what_a_removed_stream_failed_with_is_still_told() -> None:
    def fail(index: int) -> None:
        if index == 2:
            raise SinkError("disk full")

    bad = StreamSpec(CountingSource(ENDLESS, name="bad"), [("bad.out", MemorySink(before=fail))])
    other, sink = stream_of("other")
    pipeline = Pipeline([bad, other], SlowDetector())
    with running(pipeline) as result:
        wait_for(lambda: pipeline.report().errors)
        pipeline.remove("bad")
        wait_for(lambda: len(pipeline.streams) == 1)
        count = len(sink.indices)
        wait_for(lambda: len(sink.indices) > count)
    assert isinstance(result[0], SinkError)
    assert [error.where for error in pipeline.report().errors] == ["bad.out"]


def test_many_that_come_and_go_leave_little() -> None:
    stays, sink = stream_of("stays", live=True)
    pipeline = Pipeline([stays], SlowDetector())
    with running(pipeline):
        wait_for(lambda: sink.indices)
        threads = threading.active_count()
        for number in range(300):
            pipeline.add(stream_of(f"n{number}", 3)[0])
            wait_for(
                lambda: (
                    not [s for s in pipeline.streams if s.name != "stays" and not s.inference.input.queue.is_finished]
                )
            )
            pipeline.remove(f"n{number}")
        wait_for(lambda: len(pipeline.streams) == 1)
        assert len(pipeline.report().sources) == 256 + 1
        wait_for(lambda: threading.active_count() <= threads)
        assert pipeline.status().threads <= threads
        wait_for(lambda: pipeline.status().detecting == 1)


def test_priority_and_budget_change_at_run_time() -> None:
    door, sink = stream_of("door", live=True)
    pipeline = Pipeline([door], SlowDetector())
    with running(pipeline):
        wait_for(lambda: sink.indices)
        pipeline.change("door", priority=7, detect_every=2)
        (stream,) = pipeline.streams
        assert stream.inference.input.priority == 7
        count = len(sink.indices)
        wait_for(lambda: any(found.is_reused for found in sink.detections[count:]))


def test_the_lowest_priority_is_preempted_first_and_its_overlay_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector is slower than both live streams together, so one must lose frames."""
    drawn: list[str] = []
    monkeypatch.setattr(Annotator, "annotate", lambda self, frame, found, lines, **_: drawn.extend(lines) or frame)
    pipeline: Pipeline

    def both_may_go() -> bool:
        return all(stream.inference.input.is_ready for stream in pipeline.streams)

    def both_offer(_: int) -> None:
        wait_for(lambda: both_may_go() or pipeline.status().is_stopping)

    important, important_sink = stream_of("important", live=True, priority=1)
    low_view = MemorySink(live_view=True, needs_pixels=True)
    low = StreamSpec(CountingSource(ENDLESS, name="low", live=True), [("low.out", low_view)])
    detector = SlowDetector(during=both_offer)
    pipeline = Pipeline([important, low], detector)
    with running(pipeline):
        wait_for(lambda: len(important_sink.indices) > 50)
        (_, low_stream) = pipeline.streams
        wait_for(lambda: low_stream.status().preempted > 0)
        wait_for(lambda: low_view.frames)
        wait_for(lambda: any("preempted" in line for line in drawn))  # on the last picture, as it gets no turn
    parts = {part.name: part for part in pipeline.report().sources}
    assert parts["low"].gave_way > 0
    assert parts["important"].gave_way == 0
    assert parts["low"].frames_processed < parts["important"].frames_processed / 2
    content = {part["name"]: part for part in pipeline.report().to_json()["sources"]}
    assert "gave_way" in content["low"]
    assert "gave_way" not in content["important"]


def test_a_failing_source_among_added_ones_ends_alone() -> None:
    def fail(index: int) -> None:
        if index == 1:
            raise SourceError("camera gone")

    stays, sink = stream_of("stays")
    pipeline = Pipeline([stays], SlowDetector())
    with running(pipeline) as result:
        wait_for(lambda: sink.indices)
        pipeline.add(StreamSpec(CountingSource(5, name="bad", before=fail), [("b", MemorySink())]))
        wait_for(lambda: pipeline.report().errors)
        count = len(sink.indices)
        wait_for(lambda: len(sink.indices) > count)
    assert isinstance(result[0], SourceError)


def test_files_beside_a_camera_lose_nothing_and_the_camera_is_next() -> None:
    """Two files offer frames all the time: a camera's frame that waits too gets its turn after two of theirs."""
    pipeline: Pipeline
    waits = [0]
    detector = SlowDetector()
    submit = detector.submit

    def noted(frame: Frame) -> None:
        submit(frame)
        (at_camera,) = [stream for stream in pipeline.streams if stream.name == "camera"]
        has_waited = frame.source != "camera" and at_camera.inference.input.is_ready
        waits.append(waits[-1] + 1 if has_waited else 0)

    detector.submit = noted  # type: ignore[method-assign]
    files = [stream_of(f"file{number}", 200) for number in range(2)]
    camera = CountingSource(100, name="camera", live=True, before=lambda i: wait_for(lambda: len(waits) > 2 * i))
    sink = MemorySink()
    pipeline = Pipeline([StreamSpec(camera, [("c", sink)]), *(each for each, _ in files)], detector)
    with running(pipeline) as result:
        wait_for(lambda: result)
    assert isinstance(result[0], RunReport)
    for _, file_sink in files:
        assert file_sink.indices == list(range(200))
    assert sink.indices
    assert max(waits) <= 2
