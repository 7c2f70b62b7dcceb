"""Several detectors in one run: which one a stream gets, and what happens when one fails, hangs, or is the last."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from streamer.common.errors import EngineError
from streamer.common.stats import StageTimes
from streamer.frames.frame import DevicePixels, Frame
from streamer.frames.yuv import Yuv420
from streamer.runtime import lanes
from streamer.runtime.lanes import load_of
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sources.base import SourceInfo
from tests.fakes import WAIT_S, CountingSource, MemorySink, SlowDetector, no_fault, wait_for
from tests.pipelines import run_bounded


class GpuDetector(SlowDetector):
    """One of several: `fail` makes every later call raise, as after a CUDA error."""

    def __init__(self, gpu: int, *, depth: int = 4, batch: int = 2, during: Callable[[int], None] = no_fault) -> None:
        super().__init__(depth=depth, batch=batch, during=during)
        self.gpu = gpu
        self.failure: Exception | None = None
        self.fails_at = -1
        self.calls = 0

    def fail(self, error: Exception | None = None) -> None:
        self.failure = error or EngineError("CUDA failed to compute a frame: an illegal memory access")

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            self.fail()
        if self.failure is not None:
            raise self.failure

    def prepare(self, frame: Frame) -> None:
        if self.failure is not None:
            raise self.failure

    def submit(self, frame: Frame) -> None:
        self._call()
        super().submit(frame)

    def collect(self) -> Any:
        self._call()
        return super().collect()


class MovableSource(CountingSource):
    """Notes where it was moved to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.moves: list[int] = []

    def move_to_gpu(self, gpu: int) -> None:
        self.moves.append(gpu)


def specs_of(sources: list[Any], **options: Any) -> tuple[list[StreamSpec], list[MemorySink]]:
    sinks = [MemorySink() for _ in sources]
    return [StreamSpec(s, [(f"out-{s.info.name}", k)], **options) for s, k in zip(sources, sinks, strict=True)], sinks


def endless(count: int, **options: Any) -> list[Any]:
    return [MovableSource(10_000_000, name=f"s{number}", live=True, **options) for number in range(count)]


def lanes_of(pipeline: Pipeline) -> dict[str, list[str]]:
    return {gpu.name: sorted(gpu.sources) for gpu in pipeline.report().gpus}


# --- spreading ---


@pytest.mark.parametrize(
    ("size_wh", "fps", "load"),
    [((1920, 1080), 30.0, 1.0), ((3840, 2160), 30.0, 4.0), ((1920, 1080), 15.0, 0.5), (None, 30.0, 1.0)],
)
def test_a_streams_load_is_its_pixels_a_second(size_wh: Any, fps: float, load: float) -> None:
    assert load_of(SourceInfo("s", "s", size_wh, fps)) == pytest.approx(load)
    assert load_of(SourceInfo("s", "s", size_wh, None)) == 1.0


def test_streams_are_spread_by_load() -> None:
    sources = [CountingSource(1, name=f"s{number}") for number in range(5)]
    for source, width in zip(sources, (3840, 960, 960, 960, 960), strict=True):
        source.info = SourceInfo(source.info.name, "fake:", (width, width // 16 * 9), 30.0)
    specs, _ = specs_of(sources)
    pipeline = Pipeline(specs, [GpuDetector(0), GpuDetector(1)])
    assert lanes_of(pipeline) == {"cuda:0": ["s0"], "cuda:1": ["s1", "s2", "s3", "s4"]}
    assert pipeline.least_loaded_gpu([]) == 1
    assert pipeline.least_loaded_gpu([1, 1, 1]) == 0
    run_bounded(pipeline)


def test_a_stream_gets_the_detector_of_the_gpu_that_decodes_it() -> None:
    specs, _ = specs_of([CountingSource(3, name=f"s{number}") for number in range(3)], gpu=1)
    detectors = [GpuDetector(0), GpuDetector(1)]
    report = run_bounded(Pipeline(specs, detectors))
    assert [len(detector.submitted) for detector in detectors] == [0, 9]
    assert [(gpu.name, gpu.sources, gpu.failed) for gpu in report.gpus] == [
        ("cuda:0", (), False),
        ("cuda:1", ("s0", "s1", "s2"), False),
    ]


def test_every_frame_of_many_files_reaches_its_sink_in_order() -> None:
    specs, sinks = specs_of([CountingSource(40, name=f"s{number}") for number in range(7)])
    detectors = [GpuDetector(number) for number in range(3)]
    report = run_bounded(Pipeline(specs, detectors))
    assert all(sink.indices == list(range(40)) for sink in sinks)
    assert all(detector.submitted for detector in detectors)
    assert sum(source.frames_dropped for source in report.sources) == 0
    assert [gpu["name"] for gpu in report.to_json()["gpus"]] == ["cuda:0", "cuda:1", "cuda:2"]
    assert "fallbacks" not in report.to_json()["gpus"][0]["engine"]


def test_one_detector_has_no_part_of_its_own_in_the_report() -> None:
    specs, _ = specs_of([CountingSource(1)])
    assert "gpus" not in run_bounded(Pipeline(specs, GpuDetector(0))).to_json()


def test_a_lane_whose_streams_have_ended_gets_a_new_one() -> None:
    pipeline: Pipeline
    first, second = MovableSource(1, name="first"), *endless(1)
    specs, sinks = specs_of([first, second])
    pipeline = Pipeline(specs, [GpuDetector(0), GpuDetector(1)])
    with_added = StreamSpec(CountingSource(5, name="later"), [("later", MemorySink())])

    def steer() -> None:
        wait_for(lambda: sinks[0].closed)
        pipeline.add(with_added)
        wait_for(lambda: pipeline.processed > 50)
        pipeline.stop()

    thread = threading.Thread(target=steer)
    thread.start()
    report = run_bounded(pipeline)
    thread.join(WAIT_S)
    assert {gpu.name: set(gpu.sources) for gpu in report.gpus} == {"cuda:0": {"first", "later"}, "cuda:1": {"s0"}}
    assert next(s for s in report.sources if s.name == "later").frames_processed == 5


# --- failing ---


def failing_run(
    detectors: list[GpuDetector], sources: list[Any], fault: Callable[[], None], more: int = 30, **options: Any
) -> tuple[Pipeline, list[MemorySink], BaseException]:
    """Runs until every stream has `more` frames after the fault; returns what the run raised."""
    specs, sinks = specs_of(sources, **options)
    pipeline = Pipeline(specs, detectors)

    def steer() -> None:
        wait_for(lambda: all(len(sink.frames) > 5 for sink in sinks))
        fault()
        wait_for(lambda: pipeline.failed_detectors)
        before = [len(sink.frames) for sink in sinks]
        wait_for(lambda: all(len(sink.frames) > seen + more for sink, seen in zip(sinks, before, strict=True)))
        pipeline.stop()

    thread = threading.Thread(target=steer)
    thread.start()
    with pytest.raises(EngineError) as caught:
        run_bounded(pipeline)
    thread.join(WAIT_S)
    return pipeline, sinks, caught.value


@pytest.mark.parametrize("error", [None, RuntimeError("device lost")])
def test_a_gpu_that_fails_moves_its_streams(error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    detectors, sources = [GpuDetector(0), GpuDetector(1)], endless(6)
    pipeline, sinks, raised = failing_run(detectors, sources, lambda: detectors[1].fail(error))
    assert lanes_of(pipeline) == {"cuda:0": [f"s{number}" for number in range(6)], "cuda:1": []}
    assert "illegal memory access" in str(raised) or "RuntimeError: device lost" in str(raised)
    report = pipeline.report()
    assert [(found.where, found.what) for found in report.errors] == [("cuda:1", str(raised))]
    assert [gpu.failed for gpu in report.gpus] == [False, True]
    for sink, source in zip(sinks, report.sources, strict=True):
        assert sink.indices == sorted(set(sink.indices))
        assert sink.closed == 1
        assert source.frames_processed == len(sink.frames)
        assert source.frames_captured == source.frames_processed + source.frames_dropped
    for stream in pipeline.streams:
        assert stream.dropped == stream.stats.captured - stream.stats.processed
        limit = stream.inference.input.limit
        assert limit.in_flight == 0
    (warning,) = [record.getMessage() for record in caplog.records if "has failed" in record.getMessage()]
    assert warning.startswith("cuda:1 has failed: ")
    assert warning.endswith("its streams move: 3 to cuda:0")


@pytest.mark.parametrize("fails_at", [1, 2, 3, 5, 8, 13, 40])
def test_frames_in_a_detector_that_fails_are_dropped_and_no_others(fails_at: int) -> None:
    sources = [CountingSource(60, name=f"s{number}") for number in range(4)]
    specs, sinks = specs_of(sources)
    detectors = [GpuDetector(0), GpuDetector(1)]
    detectors[1].fails_at = fails_at
    pipeline = Pipeline(specs, detectors)
    with pytest.raises(EngineError):
        run_bounded(pipeline)
    report = pipeline.report()
    lost = [source.frames_dropped for source in report.sources]
    assert lost[0] == lost[2] == 0
    assert 1 <= lost[1] + lost[3] <= detectors[1].depth
    for source, sink in zip(report.sources, sinks, strict=True):
        assert source.frames_captured == 60
        assert len(sink.indices) == 60 - source.frames_dropped
        assert sink.indices == sorted(set(sink.indices))
    assert [stream.dropped for stream in pipeline.streams] == lost


def test_the_streams_of_a_gpu_are_spread_over_several_others() -> None:
    detectors, sources = [GpuDetector(number) for number in range(3)], endless(9)
    pipeline, _, _ = failing_run(detectors, sources, detectors[0].fail)
    assert sorted(len(names) for names in lanes_of(pipeline).values()) == [0, 4, 5]


def test_one_after_another_and_the_last_ends_the_run() -> None:
    detectors, sources = [GpuDetector(number) for number in range(3)], endless(6)
    specs, sinks = specs_of(sources)
    pipeline = Pipeline(specs, detectors)

    def steer() -> None:
        for failed, detector in enumerate(detectors):
            seen = [len(sink.frames) for sink in sinks]
            wait_for(lambda seen=seen: all(len(k.frames) > n + 5 for k, n in zip(sinks, seen, strict=True)))
            detector.fail(EngineError(f"GPU {failed} is lost"))

    thread = threading.Thread(target=steer)
    thread.start()
    with pytest.raises(EngineError, match="GPU 2 is lost"):
        run_bounded(pipeline)
    thread.join(WAIT_S)
    errors = {found.where: found.what for found in pipeline.report().errors}
    assert errors == {"run": "GPU 2 is lost", "cuda:0": "cuda:0 has failed: GPU 0 is lost"} | {
        "cuda:1": "cuda:1 has failed: GPU 1 is lost"
    }
    assert all(sink.closed == 1 for sink in sinks)


def test_one_gpu_alone_ends_the_run_as_before() -> None:
    detector = GpuDetector(0)
    detector.fails_at = 9
    specs, sinks = specs_of(endless(2))
    pipeline = Pipeline(specs, [detector])
    with pytest.raises(EngineError, match="illegal memory access"):
        run_bounded(pipeline)
    assert [found.where for found in pipeline.report().errors] == ["run"]
    assert pipeline.failed_detectors == ()
    assert all(sink.closed == 1 for sink in sinks)


def test_a_gpu_that_hangs_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "STALLED_S", 1.0)
    released, hung = threading.Event(), threading.Event()

    def hang(index: int) -> None:
        if hung.is_set():
            released.wait(WAIT_S)

    detectors, sources = [GpuDetector(0), GpuDetector(1, during=hang)], endless(4)
    pipeline, sinks, raised = failing_run(detectors, sources, hung.set)
    assert "no answer for" in str(raised)
    seen = [len(sink.frames) for sink in sinks]
    released.set()
    wait_for(lambda: all("detect" not in thread.name for thread in threading.enumerate()))
    assert [len(sink.frames) for sink in sinks] == seen, "a lane that was given up delivers no frame"
    assert all(sink.indices == sorted(set(sink.indices)) for sink in sinks)
    assert pipeline.failed_detectors == (detectors[1],)


@pytest.mark.parametrize("every", [2, 3])
def test_reused_boxes_survive_a_failure(every: int) -> None:
    detectors, sources = [GpuDetector(0), GpuDetector(1)], endless(2)
    _, sinks, _ = failing_run(detectors, sources, detectors[1].fail, detect_every=every)
    for sink in sinks:
        assert all(len(found) == 1 for found in sink.detections)


def test_max_frames_stays_exact_where_a_gpu_fails() -> None:
    specs, sinks = specs_of(endless(2))
    detectors = [GpuDetector(0), GpuDetector(1)]
    detectors[1].fails_at = 8
    pipeline = Pipeline(specs, detectors, max_frames=200)
    with pytest.raises(EngineError):
        run_bounded(pipeline)
    assert [len(sink.frames) for sink in sinks] == [200, 200]


def test_a_stream_that_was_decoded_by_the_gpu_moves_its_decoder_too() -> None:
    detectors, sources = [GpuDetector(0), GpuDetector(1)], endless(3)
    failing_run(detectors, sources, detectors[1].fail, gpu=1)
    assert [source.moves for source in sources] == [[0]] * 3
    others = endless(3)
    detectors = [GpuDetector(0), GpuDetector(1)]
    failing_run(detectors, others, detectors[1].fail)
    assert [source.moves for source in others] == [[]] * 3


class LostPixels(DevicePixels):
    """A picture in the memory of a GPU that has failed."""

    size_wh = (32, 24)
    gpu = 1

    def to_host(self) -> Yuv420:
        raise EngineError("its GPU has failed")


class LostFrames(MovableSource):
    """Its first frames are on GPU 1, until it has moved and for three more."""

    def __iter__(self) -> Any:
        late = itertools.count()
        for frame in super().__iter__():
            if self.moves and next(late) >= 3:
                yield frame
            else:
                yield Frame(LostPixels(), frame.source, frame.index, frame.pts_s, frame.captured_at_s)


def test_frames_in_the_memory_of_a_failed_gpu_are_dropped() -> None:
    detectors = [GpuDetector(0), GpuDetector(1)]
    seen: list[Frame] = []
    detectors[0].prepare = lambda frame: None  # type: ignore[method-assign]
    submit = detectors[0].submit
    detectors[0].submit = lambda frame: (seen.append(frame), submit(frame))[1]  # type: ignore[method-assign, func-returns-value]
    source = LostFrames(10_000_000, name="s", live=True)
    pipeline, sinks, _ = failing_run(detectors, [source], detectors[1].fail, gpu=1)
    assert seen
    assert all(isinstance(frame.pixels, np.ndarray) for frame in seen)
    (report,) = pipeline.report().sources
    assert report.frames_captured == len(sinks[0].frames) + report.frames_dropped


def test_streams_come_and_go_while_gpus_fail() -> None:
    detectors = [GpuDetector(number) for number in range(3)]
    specs, sinks = specs_of(endless(3))
    pipeline = Pipeline(specs, detectors)
    added: list[MemorySink] = []

    def steer() -> None:
        for number in range(12):
            sink = MemorySink()
            added.append(sink)
            source = MovableSource(10_000_000, name=f"x{number}", live=True)
            pipeline.add(StreamSpec(source, [(f"x{number}", sink)]))
            wait_for(lambda sink=sink: len(sink.frames) > 2)
            if number in (3, 7):
                detectors[number // 4].fail()
            if number % 2:
                pipeline.remove(f"x{number}")
        wait_for(lambda: all(sink.closed for sink in added[1::2]))
        pipeline.stop()

    thread = threading.Thread(target=steer)
    thread.start()
    with pytest.raises(EngineError):
        run_bounded(pipeline)
    thread.join(WAIT_S)
    assert len(pipeline.failed_detectors) == 2
    assert all(sink.closed == 1 for sink in [*sinks, *added])
    assert all(sink.indices == sorted(set(sink.indices)) for sink in [*sinks, *added])


def test_a_pause_of_the_whole_program_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(lanes.time, "perf_counter", lambda: now_s[0])
    made = lanes.Lanes([GpuDetector(0), GpuDetector(1)], 0.0, StageTimes())
    second = made.all[1].inference
    second._waiting_since_s = 99.0
    for _ in range(3):  # as after SIGSTOP
        now_s[0] += 60.0
        assert not made.stalled()
    for _ in range(40):
        now_s[0] += 0.1
        assert not made.stalled()
        second._waiting_since_s = now_s[0]  # it answers, and is asked again
    for _ in range(80):
        now_s[0] += 0.1
        found = made.stalled()
    ((lane, error),) = found
    assert lane is made.all[1]
    assert str(error) == "no answer for 6 s"


def test_a_capture_thread_that_still_prepares_for_a_failed_lane_ends_nothing() -> None:
    made = lanes.Lanes([GpuDetector(0), GpuDetector(1)], 0.0, StageTimes())
    failed, last = made.all
    for lane in made.all:
        lane.detector.fail()  # type: ignore[attr-defined]
    assert made.give_up(failed, EngineError("lost"))
    failed.prepare(next(iter(CountingSource(1))))
    with pytest.raises(EngineError):
        last.prepare(next(iter(CountingSource(1))))
    assert not made.give_up(last, EngineError("lost"))


def test_a_run_waits_for_a_stream_that_is_expected_while_a_gpu_fails() -> None:
    detectors = [GpuDetector(0), GpuDetector(1)]
    detectors[0].fails_at = 3
    specs, _ = specs_of([CountingSource(20, name="first")])
    pipeline = Pipeline(specs, detectors)
    later = MemorySink()

    def steer() -> None:
        with pipeline.expecting():
            ready.set()
            wait_for(lambda: pipeline.failed_detectors and pipeline.streams[0].sinks[0].sink.closed)  # type: ignore[attr-defined]
            pipeline.add(StreamSpec(CountingSource(5, name="later"), [("later", later)]))

    ready = threading.Event()
    thread = threading.Thread(target=steer)
    thread.start()
    assert ready.wait(WAIT_S)
    with pytest.raises(EngineError, match="cuda:0 has failed"):
        run_bounded(pipeline)
    thread.join(WAIT_S)
    assert later.indices == list(range(5))
