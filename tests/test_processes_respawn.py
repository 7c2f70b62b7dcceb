"""Live sources outlive their worker: another takes them over, and one that crashes every worker is isolated."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamer.common.errors import ConfigError, EngineError, SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import PushSource
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool, worker_process
from streamer.sources.workers.remote import RemoteSource
from streamer.sources.workers.worker_process import WorkerLimits, WorkerProcess
from tests.fakes import wait_for
from tests.rtsp.server import RtspServer
from tests.test_processes import CPU, LONG, Kept, loads, opened
from tests.test_processes_faults import within


def pids(processes: DecoderPool) -> list[int]:
    return [worker.pid for worker in processes.status()]


def kill(processes: DecoderPool) -> None:
    """Kills all of them, and waits until the pool knows."""
    killed = set(pids(processes))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: killed.isdisjoint(pids(processes)))


def started(source: PushSource) -> Kept:
    """Starts a source; returns its consumer, once it has a frame."""
    consumer = Kept(source)
    source.start(consumer, paced=False)
    wait_for(lambda: consumer.frames)
    return consumer


class Launches:
    """Starts workers as `launch` does, unless told otherwise.

    Attributes:
        are_refused: the system has no room for another process.
        are_slow: workers are suspended as soon as they are started.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.are_refused = self.are_slow = False
        self._launch: Callable[..., subprocess.Popen[bytes]] = worker_process.launch
        monkeypatch.setattr(worker_process, "launch", self)

    def __call__(self, channel: int, counters: int) -> subprocess.Popen[bytes]:
        if self.are_refused:
            raise OSError(11, "Resource temporarily unavailable")
        process = self._launch(channel, counters)
        if self.are_slow:
            os.kill(process.pid, signal.SIGSTOP)
        return process


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """How workers are started."""
    return Launches(monkeypatch)


def test_a_camera_outlives_its_worker(one_process: DecoderPool) -> None:
    with (
        RtspServer() as camera,
        opened(one_process, camera.url, "door", SourceOptions(overflow_policy=OverflowPolicy.BLOCK)) as source,
    ):
        consumer = Kept(source)
        source.start(consumer, paced=False)
        wait_for(lambda: len(consumer.frames) >= 5)
        (before,) = pids(one_process)
        assert source.lost_s is None
        kill(one_process)
        wait_for(lambda: source.lost_s is not None or source.reconnects)
        count = len(consumer.frames)
        assert source.info.size_wh == (96, 64)
        wait_for(lambda: len(consumer.frames) >= count + 5)
        assert source.lost_s is None
        assert source.reconnects == 1
        assert source.info.size_wh == (96, 64)
        assert len(pids(one_process)) == 1 and pids(one_process) != [before]
        assert consumer.ends == []
    wait_for(lambda: consumer.ends == [None])
    indices, pts_s, at_s = ([getattr(f, n) for f in consumer.frames] for n in ("index", "pts_s", "captured_at_s"))
    assert indices == list(range(len(indices)))
    assert pts_s == sorted(pts_s)
    # The outage is part of the timeline.
    assert pts_s[-1] - pts_s[0] == pytest.approx(at_s[-1] - at_s[0], abs=0.5)


def test_a_camera_that_is_away_is_reached_by_the_next_worker(one_process: DecoderPool) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        consumer = started(source)
        camera.freeze()
        kill(one_process)
        count = len(consumer.frames)
        wait_for(lambda: any(worker.is_ready for worker in one_process.status()))
        assert source.lost_s is not None
        assert source.info.size_wh == (96, 64)  # known, though not in the new worker
        camera.thaw()
        wait_for(lambda: len(consumer.frames) > count)
        assert source.reconnects >= 1
        assert consumer.ends == []


def test_files_of_the_worker_end_and_the_next_takes_new_ones(one_process: DecoderPool, long_clip: Path) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        consumer, cut = Kept(source), Kept()
        source.start(consumer, paced=False)
        opened(one_process, long_clip, "file").start(cut, paced=False)
        wait_for(lambda: consumer.frames and cut.frames)
        kill(one_process)
        wait_for(lambda: cut.ends)
        assert "was killed by SIGKILL; start the run again" in str(cut.ends[0])
        wait_for(lambda: pids(one_process))
        assert len(list(opened(one_process, long_clip, "again"))) == LONG
        wait_for(lambda: source.reconnects == 1)


def test_a_worker_is_started_on_demand_where_none_is_left(one_process: DecoderPool, long_clip: Path) -> None:
    assert len(list(opened(one_process, long_clip))) == LONG
    kill(one_process)
    assert pids(one_process) == []
    assert len(list(opened(one_process, long_clip))) == LONG


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (WorkerLimits(max_backoff_s=0.0), ([3], [1, 2], [1, 1, 1], [1, 1, 1])),
        (WorkerLimits(max_backoff_s=0.0, max_extra_workers=1), ([3], [1, 2], [1, 2])),
        (WorkerLimits(stable_s=0.0), ([3], [3], [3])),  # each crash is the first in a row
    ],
    ids=["until each is isolated", "as far as there is room", "only for crashes in a row"],
)
def test_sources_of_workers_that_crash_are_split(limits: WorkerLimits, expected: tuple[list[int], ...]) -> None:
    with ExitStack() as stack:
        processes = stack.enter_context(DecoderPool(1, limits))
        cameras = [stack.enter_context(RtspServer()) for _ in range(3)]
        sources = [stack.enter_context(opened(processes, camera.url, f"c{n}")) for n, camera in enumerate(cameras)]
        consumers = [Kept(source) for source in sources]
        for source, consumer in zip(sources, consumers, strict=True):
            source.start(consumer, paced=False)
        wait_for(lambda: all(consumer.frames for consumer in consumers))
        for crash, wanted in enumerate(expected, 1):
            kill(processes)
            for source in sources:
                wait_for(lambda source=source, crash=crash: source.reconnects == crash and source.lost_s is None)
            assert sorted(loads(processes)) == wanted
        assert [consumer.ends for consumer in consumers] == [[], [], []]


def test_each_crash_in_a_row_is_followed_by_a_longer_delay() -> None:
    assert [WorkerLimits().backoff_s(crashes) for crashes in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_without_reconnecting_a_camera_ends_with_its_worker(one_process: DecoderPool) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door", SourceOptions(reconnect=0)) as source:
        consumer = started(source)
        kill(one_process)
        wait_for(lambda: consumer.ends)
    assert re.search(r"broke off: the process that decoded it was killed by SIGKILL", str(consumer.ends[0]))


def test_a_camera_that_has_not_answered_fails_to_open_and_is_tried_again(one_process: DecoderPool) -> None:
    with RtspServer() as camera:
        camera.freeze()
        source = one_process.open(SourceSpec.parse(camera.url, name="door"), CPU)
        assert isinstance(source, PushSource)
        wait_for(lambda: one_process.status()[0].is_ready)
        kill(one_process)
        with pytest.raises(SourceError, match="was killed by SIGKILL"):
            source.wait_ready()
        consumer = Kept(source)
        with source:
            source.start(consumer, paced=False)
            camera.thaw()
            wait_for(lambda: consumer.frames)
            assert source.reconnects == 0  # it was never there


def test_a_worker_that_starts_slowly_delays_no_other(launches: Launches) -> None:
    with ExitStack() as stack:
        processes = stack.enter_context(DecoderPool(2))
        cameras = [stack.enter_context(RtspServer()) for _ in range(2)]
        sources = [stack.enter_context(opened(processes, camera.url, f"c{n}")) for n, camera in enumerate(cameras)]
        consumers = [started(source) for source in sources]
        launches.are_slow = True
        crashed, other = pids(processes)
        os.kill(crashed, signal.SIGKILL)
        wait_for(lambda: len(pids(processes)) == 2 and crashed not in pids(processes))
        (successor,) = (worker for worker in processes.status() if worker.pid != other)
        wait_for(lambda: [worker.load for worker in processes.status()] == [1, 1])
        assert not successor.is_ready
        count = len(consumers[1].frames)
        wait_for(lambda: len(consumers[1].frames) > count + 5)
        os.kill(successor.pid, signal.SIGCONT)
        wait_for(lambda: sources[0].reconnects == 1)
    assert [consumer.ends for consumer in consumers] == [[None], [None]]


def test_a_new_source_goes_to_a_worker_without_crashes(long_clip: Path) -> None:
    with DecoderPool(2) as processes, RtspServer() as camera, opened(processes, camera.url, "door") as source:
        started(source)
        stable = processes.status()[1].pid
        os.kill(processes.status()[0].pid, signal.SIGKILL)
        wait_for(lambda: source.reconnects == 1)
        kept = [opened(processes, long_clip, name) for name in "ab"]
        assert [(worker.pid == stable, worker.crashes, worker.load) for worker in processes.status()] == [
            (True, 0, 2),
            (False, 1, 1),
        ]
        for each in kept:
            each.close()


# --- between two workers ---

AGAIN_SOON = WorkerLimits(retry_s=0.01)


@contextmanager
def between_workers(launches: Launches) -> Iterator[tuple[DecoderPool, PushSource]]:
    """A camera whose worker was killed, and whose next one can't be started until `launches.are_refused` is False."""
    with (
        DecoderPool(1, AGAIN_SOON) as processes,
        RtspServer() as camera,
        opened(processes, camera.url, "door") as source,
    ):
        started(source)
        launches.are_refused = True
        kill(processes)
        yield processes, source


def test_opening_between_two_workers(launches: Launches, long_clip: Path) -> None:
    with between_workers(launches) as (processes, _):
        launches.are_refused = False
        assert len(list(opened(processes, long_clip))) == LONG


def test_attaching_to_a_worker_that_has_just_exited(long_clip: Path) -> None:
    """It was alive when it was chosen."""
    worker = WorkerProcess()
    os.kill(worker.status().pid, signal.SIGKILL)
    worker.run()
    assert worker.release() == []
    source = RemoteSource(SourceSpec.parse(str(long_clip), name="a"), CPU)
    worker.attach(source)
    with pytest.raises(SourceError, match="was killed by SIGKILL; start the run again"):
        within(source.wait_ready, 3)
    assert worker.load == 0


def test_closing_a_camera_between_two_workers(launches: Launches) -> None:
    with DecoderPool(1, AGAIN_SOON) as processes, RtspServer() as camera:
        source = opened(processes, camera.url, "door")
        consumer = started(source)
        launches.are_refused = True
        kill(processes)
        assert consumer.ends == []
        source.close()
        wait_for(lambda: consumer.ends == [None])
        launches.are_refused = False
        assert pids(processes) == []


def test_closing_a_camera_whose_worker_is_starting(launches: Launches) -> None:
    launches.are_slow = True
    with DecoderPool(1) as processes:
        source = processes.open(SourceSpec.parse("rtsp://door/live", name="door"), CPU)
        assert isinstance(source, PushSource)
        source.close()
        consumer = Kept()
        source.start(consumer, paced=False)
        assert consumer.ends == [None]
        os.kill(pids(processes)[0], signal.SIGCONT)
        wait_for(lambda: processes.status()[0].is_ready and loads(processes) == [0])


def test_closing_the_pool_between_two_workers(launches: Launches) -> None:
    with DecoderPool(1) as processes, RtspServer() as camera:
        source = opened(processes, camera.url, "door")
        consumer = started(source)
        launches.are_refused = True
        kill(processes)
        processes.close()
        assert consumer.ends == [None]
        late = processes.open(SourceSpec.parse(camera.url, name="late"), CPU)
        within(late.wait_ready, 3)
        assert list(late) == []
        assert not [thread for thread in threading.enumerate() if thread.name == "decoding worker"]


def test_no_room_for_a_process_is_logged_and_tried_again(
    launches: Launches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = "no decoding process can be started ([Errno 11] Resource temporarily unavailable)"
    with between_workers(launches) as (_, source):
        wait_for(lambda: caplog.text.count(said) >= 2)
        launches.are_refused = False
        wait_for(lambda: source.reconnects == 1)


def test_no_room_for_any_process(launches: Launches, one_process: DecoderPool) -> None:
    kill(one_process)
    launches.are_refused = True
    with pytest.raises(ConfigError, match="no decoding process can be started .*: use --decode-processes 0"):
        DecoderPool(2)
    source = one_process.open(SourceSpec.parse("rtsp://user:secret@door/live", name="door"), CPU)
    with pytest.raises(SourceError, match="'rtsp://[*]+@door/live' can't be opened: no process can be started"):
        source.wait_ready()


def test_a_worker_takes_a_limited_number_of_sources(
    monkeypatch: pytest.MonkeyPatch, one_process: DecoderPool, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_process, "SOURCES", 0)
    with pytest.raises(ConfigError, match="use more --decode-processes"):
        one_process.open(SourceSpec.parse(str(tmp_path), name="a"), CPU)


class Refusing(Kept):
    """Fails to take a frame."""

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        raise EngineError("CUDA failed to map a picture: out of memory")


def test_a_source_whose_frames_cannot_be_taken_ends_alone(one_process: DecoderPool, long_clip: Path) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        consumer, refusing = Kept(source), Refusing()
        source.start(consumer, paced=False)
        opened(one_process, long_clip, "bad").start(refusing, paced=False)
        wait_for(lambda: refusing.ends)
        count = len(consumer.frames)
        wait_for(lambda: len(consumer.frames) > count + 3)
        wait_for(lambda: loads(one_process) == [1])  # in the worker too
        assert (source.reconnects, consumer.ends) == (0, [])
    (error,) = refusing.ends
    assert str(error) == "CUDA failed to map a picture: out of memory"


def test_a_camera_is_not_reconnected_by_a_pool_that_is_closed(one_process: DecoderPool) -> None:
    with RtspServer() as camera:
        consumer: Any = started(opened(one_process, camera.url, "door"))
        one_process.close()
    assert consumer.ends == [None]
    assert pids(one_process) == []
