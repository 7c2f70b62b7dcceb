"""The start of a recording and the length of a run: frames from when they flow, counted from the first."""

from __future__ import annotations

import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.app.cli import main
from streamer.common.queues import BoundedQueue, OverflowPolicy
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.run_clock import RunClock
from streamer.sources.live import LiveSource
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers.pool import DecoderPool, is_possible
from tests.fakes import CountingSource, MemorySink, SlowDetector, wait_for
from tests.live_server import Server, breaks_at, live, well
from tests.media import number_of
from tests.pipelines import run_bounded
from tests.rtsp.camera import Camera
from tests.rtsp.code import Code, read_code
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

POLICIES = [OverflowPolicy.BLOCK, OverflowPolicy.DROP_OLDEST]


def held(server: Server, policy: OverflowPolicy) -> LiveSource:
    source = live(server, overflow_policy=policy)
    source.wait_ready()
    source.hold()
    return source


@pytest.mark.parametrize("policy", POLICIES)
def test_a_source_that_is_held_begins_with_a_fresh_frame(policy: OverflowPolicy) -> None:
    reached = threading.Event()
    go_on = threading.Event()

    def plan(index: int) -> None:
        if index == 500:
            reached.set()
            go_on.wait(60)

    with held(Server(plan), policy) as source:
        assert reached.wait(60)  # also where no frame may be dropped: none is wanted yet
        frames = iter(source)
        go_on.set()
        first, second = islice(frames, 2)
    assert (first.index, first.pts_s) == (0, 0.0)
    assert first.captured_at_s <= second.captured_at_s
    assert second.pts_s == pytest.approx((second.index - first.index) / 30)


def test_what_came_before_is_not_counted_as_dropped() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def plan(index: int) -> None:
        if index == 100:
            reached.set()
            go_on.wait(60)

    with held(Server(plan), OverflowPolicy.BLOCK) as source:
        assert reached.wait(60)
        before = source.dropped
        frames = iter(source)
        go_on.set()
        assert [frame.index for frame in islice(frames, 20)] == list(range(20))
        assert before > 90 and source.dropped == 0


def test_a_source_that_is_lost_while_it_is_held_begins_once_it_is_back() -> None:
    server = Server(breaks_at(3), well)
    with held(server, OverflowPolicy.BLOCK) as source:
        wait_for(lambda: server.connections[0].closed)
        frames = list(islice(source, 5))
    assert [frame.index for frame in frames] == list(range(5))
    assert frames[0].pts_s == 0.0


@pytest.mark.parametrize("policy", POLICIES)
def test_what_came_is_kept_of_a_source_that_ends_for_good_while_it_is_held(policy: OverflowPolicy) -> None:
    server = Server(well, count=30)
    with live(server, overflow_policy=policy, reconnect=0) as source:
        source.wait_ready()
        source.hold()
        wait_for(lambda: server.connections[0].closed)
        frames = list(source)
    assert 1 <= len(frames) <= 2
    assert (frames[0].index, frames[0].pts_s) == (0, 0.0)


def test_holding_a_file_on_a_server_loses_nothing() -> None:
    with held(Server(well, live=False, count=50), OverflowPolicy.DROP_OLDEST) as source:
        assert [frame.index for frame in source] == list(range(50))


def test_a_queue_that_is_restarted_is_empty_and_wakes_its_producer() -> None:
    queue = BoundedQueue[int](1, OverflowPolicy.BLOCK)
    queue.put(1)
    producer = threading.Thread(target=lambda: [queue.put(number) for number in (2, 3, 4)])
    producer.start()
    queue.restart(OverflowPolicy.DROP_OLDEST)
    producer.join(60)
    assert not producer.is_alive()
    assert queue.get() == 4
    assert queue.dropped == 2


def test_a_run_is_counted_from_its_first_frame() -> None:
    now_s = 100.0
    clock = RunClock(lambda: now_s)
    assert not clock.is_over(has_more=False)
    assert clock.end_pts_s(0.0, 100.0) is None
    clock = RunClock(lambda: now_s)
    clock.start(8.0)
    now_s = 105.0
    assert not clock.is_over(has_more=False)
    assert clock.end_pts_s(1.0, 105.0) == pytest.approx(9.0)
    assert clock.end_pts_s(0.0, 107.0) == pytest.approx(6.0)  # a source that comes later
    now_s = 112.9
    assert not clock.is_over(has_more=False)
    now_s = 113.0
    assert clock.is_over(has_more=False) and not clock.is_over(has_more=True)
    now_s = 118.0
    assert clock.is_over(has_more=True)


def test_a_run_without_a_frame_is_counted_from_its_start() -> None:
    now_s = 100.0
    clock = RunClock(lambda: now_s)
    clock.start(8.0)
    now_s = 108.0
    assert clock.is_over(has_more=False)


def test_a_live_source_ends_by_the_times_of_its_frames() -> None:
    source, sink = CountingSource(10**9, live=True), MemorySink()
    run_bounded(Pipeline([StreamSpec(source, [("keep", sink)], OverflowPolicy.BLOCK)], SlowDetector()), duration_s=0.5)
    assert sink.indices == list(range(15))


@pytest.fixture
def camera() -> Any:
    with Camera((320, 180), fps=25, key_interval=25) as camera:
        yield camera


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_recording_has_the_length_asked_for_and_no_hole(
    ending: str, camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading_s: list[float] = []

    def load(model: str, **wanted: Any) -> SlowDetector:
        loading_s.append(time.monotonic())
        threading.Event().wait(1.0)  # as long as a model may take
        return SlowDetector()

    monkeypatch.setattr("streamer.detector.open_detector", load)
    path = tmp_path / f"out{ending}"
    arguments = ["--source", camera.url, "--output", str(path), "--policy", "every-frame", "--duration", "2"]
    assert main([*arguments, "--quality", "best", "--no-overlay"]) == 0
    codes, times_s = codes_and_times(path)
    assert codes[0].sent_s > loading_s[0] + 0.5
    assert [code.number - codes[0].number for code in codes] == list(range(len(codes)))
    assert times_s[0] == 0.0 and times_s[-1] < 2.0
    made_s = np.array([code.sent_s - codes[0].sent_s for code in codes])
    assert np.abs(np.array(times_s) - made_s).max() < 0.5  # no hole that the camera hasn't made
    assert len(codes) >= 40 or made_s[-1] > 1.5


def codes_and_times(path: Path) -> tuple[list[Code], list[float]]:
    codes, times_s = [], []
    with av.open(str(path)) as opened:
        for frame in opened.decode(video=0):
            code = read_code(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8))
            if code is not None:
                codes.append(code)
                times_s.append(frame.time)
    return codes, times_s


@pytest.mark.skipif(not is_possible(), reason="no decoding processes on this system")
def test_a_source_in_another_process_is_held_too() -> None:
    options = SourceOptions(overflow_policy=OverflowPolicy.BLOCK, stall_timeout_s=30.0)
    with (
        RtspServer(Loop(fps=30)) as server,
        DecoderPool(1) as pool,
        pool.open(SourceSpec.parse(server.url), options) as source,
    ):
        source.wait_ready()
        source.hold()
        wait_for(lambda: server.sent >= 20)
        first, second = islice(source, 2)
    assert number_of(first.image) >= 10
    assert (first.index, first.pts_s) == (0, 0.0) and second.index == 1
