"""Live sources outlive the process that reads them: another takes over, and who kills every process is soon alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from streamer.common.errors import ConfigError, EngineError, SourceError
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import PushSource, SourceInfo
from streamer.sources.workers import DecoderPool, pool, worker_process
from streamer.sources.workers.remote import RemoteSource
from tests.fakes import wait_for
from tests.rtsp_server import RtspServer
from tests.test_processes import CPU, LONG, Kept, opened
from tests.test_processes_faults import within

GONE = SourceError("gone")


def pids(processes: DecoderPool) -> list[int]:
    return [each._popen.pid for each in processes._processes if each.is_alive]


def kill(processes: DecoderPool) -> None:
    """Kills all of them, and waits until their sources know."""
    killed = set(processes._processes)
    for pid in pids(processes):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: killed.isdisjoint(processes._processes))


def fed(source: PushSource) -> Kept:
    """Has a source bring its frames; returns who takes them, once there is one."""
    consumer = Kept(source)
    source.start(consumer, paced=False)
    wait_for(lambda: consumer.frames)
    return consumer


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has processes followed at once, however many died before."""
    monkeypatch.setattr(pool, "_LONGEST_REST_S", 0.0)


def test_a_camera_outlives_its_process(one_process: DecoderPool) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door", SourceOptions(freshest=False)) as source:
        consumer = Kept(source)
        source.start(consumer, paced=False)
        wait_for(lambda: len(consumer.frames) >= 5)
        (before,) = pids(one_process)
        assert source.lost_s is None
        kill(one_process)
        count = len(consumer.frames)
        assert source.lost_s is not None and source.lost_s > 0
        assert source.info.size_wh == (96, 64)
        wait_for(lambda: len(consumer.frames) >= count + 5)
        assert source.lost_s is None
        assert source.reconnects == 1
        assert source.info.size_wh == (96, 64)
        assert pids(one_process) != [before] and len(one_process._processes) == 1
        assert consumer.ends == []
    wait_for(lambda: consumer.ends == [None])
    indices, pts_s, at_s = ([getattr(f, n) for f in consumer.frames] for n in ("index", "pts_s", "captured_at_s"))
    assert indices == list(range(len(indices)))
    assert pts_s == sorted(pts_s)
    away_s = at_s[count] - at_s[count - 1]
    assert pts_s[count] - pts_s[count - 1] == pytest.approx(away_s, abs=0.2)  # the outage is in the time axis


def test_a_camera_that_is_away_is_reached_in_the_next_process(one_process: DecoderPool) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        consumer = fed(source)
        camera.freeze()
        kill(one_process)
        count = len(consumer.frames)
        wait_for(lambda: pids(one_process) and one_process._processes[0]._has_spoken)
        assert source.lost_s is not None
        assert source.info.size_wh == (96, 64)  # known, though not in the new process
        camera.thaw()
        wait_for(lambda: len(consumer.frames) > count)
        assert source.reconnects >= 1
        assert consumer.ends == []


def test_files_of_the_process_end_and_it_takes_new_ones(one_process: DecoderPool, long_clip: Path) -> None:
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


def test_one_is_started_when_it_is_needed_where_none_lives(one_process: DecoderPool, long_clip: Path) -> None:
    assert len(list(opened(one_process, long_clip))) == LONG
    kill(one_process)
    wait_for(lambda: one_process._processes == [])  # and nobody needs another
    assert len(list(opened(one_process, long_clip))) == LONG


@pytest.mark.usefixtures("hasty")
def test_sources_of_processes_that_die_soon_are_parted(one_process: DecoderPool) -> None:
    with ExitStack() as stack:
        cameras = [stack.enter_context(RtspServer()) for _ in range(3)]
        sources = [stack.enter_context(opened(one_process, camera.url, f"c{n}")) for n, camera in enumerate(cameras)]
        consumers = [Kept(source) for source in sources]
        for source, consumer in zip(sources, consumers, strict=True):
            source.start(consumer, paced=False)

        def all_are_back(times: int) -> bool:
            return all(source.reconnects == times and source.lost_s is None for source in sources)

        wait_for(lambda: all(consumer.frames for consumer in consumers))
        for death, loads in enumerate(([3], [1, 2], [1, 1, 1], [1, 1, 1]), 1):
            kill(one_process)
            wait_for(lambda death=death: all_are_back(death))  # type: ignore[misc]
            assert sorted(each.load for each in one_process._processes) == loads
        assert [consumer.ends for consumer in consumers] == [[], [], []]


def test_a_process_that_lived_for_a_minute_counts_as_the_first(
    one_process: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alive,) = one_process._processes
    alive._deaths = 5
    assert alive.deaths == 5
    alive._started_s -= 60
    assert alive.deaths == 0


def test_without_reconnecting_a_camera_ends_with_its_process(one_process: DecoderPool) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door", SourceOptions(reconnect=0)) as source:
        consumer = fed(source)
        kill(one_process)
        wait_for(lambda: consumer.ends)
    assert re.search(r"broke off: the process that decoded it was killed by SIGKILL", str(consumer.ends[0]))


def test_a_camera_that_has_not_answered_is_told_of_and_tried_again(one_process: DecoderPool) -> None:
    with RtspServer() as camera:
        camera.freeze()
        source = one_process.open(camera.url, name="door", options=CPU)
        assert isinstance(source, PushSource)
        wait_for(lambda: one_process._processes[0]._has_spoken)
        kill(one_process)
        with pytest.raises(SourceError, match="was killed by SIGKILL"):
            source.wait_ready()
        consumer = Kept(source)
        with source:
            source.start(consumer, paced=False)
            camera.thaw()
            wait_for(lambda: consumer.frames)
            assert source.reconnects == 0  # it was never there


def test_a_process_that_starts_slowly_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        started = popen(*args, **kwargs)
        os.kill(started.pid, signal.SIGSTOP)
        return started

    with ExitStack() as stack:
        processes = stack.enter_context(DecoderPool(2))
        cameras = [stack.enter_context(RtspServer()) for _ in range(2)]
        sources = [stack.enter_context(opened(processes, camera.url, f"c{n}")) for n, camera in enumerate(cameras)]
        consumers = [Kept(source) for source in sources]
        for source, consumer in zip(sources, consumers, strict=True):
            source.start(consumer, paced=False)
        wait_for(lambda: all(consumer.frames for consumer in consumers))
        monkeypatch.setattr(worker_process.subprocess, "Popen", start)
        dead, other = processes._processes
        os.kill(dead._popen.pid, signal.SIGKILL)
        wait_for(lambda: len(processes._processes) == 2 and dead not in processes._processes)
        (follower,) = set(processes._processes) - {other}
        assert (follower.load, len(follower._sources)) == (1, 0)  # it is told nothing yet: that might wait
        count = len(consumers[1].frames)
        wait_for(lambda: len(consumers[1].frames) > count + 5)
        os.kill(follower._popen.pid, signal.SIGCONT)
        wait_for(lambda: sources[0].reconnects == 1)
    assert [consumer.ends for consumer in consumers] == [[None], [None]]


def test_a_new_source_goes_where_none_died(one_process: DecoderPool, long_clip: Path) -> None:
    assert one_process._start(deaths=2)
    assert one_process._start()
    first, suspect, last = one_process._processes
    for _ in range(2):
        one_process.open(str(long_clip), name="a", options=CPU)
    assert (first.load, suspect.load, last.load) == (1, 0, 1)


@pytest.fixture
def nobody_follows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """Has successors wait until the list holds something."""
    may: list[Any] = []
    follow = DecoderPool._follow

    def wait(self: DecoderPool, successor: pool._Successor) -> None:
        if may or self._is_closing:
            follow(self, successor)
        else:
            self._awaited.append(successor)

    monkeypatch.setattr(DecoderPool, "_follow", wait)
    yield may


@pytest.mark.usefixtures("nobody_follows")
def test_opening_between_two_processes(one_process: DecoderPool, long_clip: Path) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        source.start(Kept(source), paced=False)
        kill(one_process)
        assert len(list(opened(one_process, long_clip))) == LONG


def test_opening_in_a_process_that_just_ended(one_process: DecoderPool, long_clip: Path) -> None:
    """It lived a moment ago, when it was chosen."""
    (dead,) = one_process._processes
    kill(one_process)
    source = RemoteSource(str(long_clip), SourceInfo("a", str(long_clip)), CPU)
    dead.adopt(source)
    with pytest.raises(SourceError, match="was killed by SIGKILL; start the run again"):
        within(source.wait_ready, 3)
    assert dead.load == 0


def test_letting_go_a_camera_between_two_processes(one_process: DecoderPool, nobody_follows: list[Any]) -> None:
    with RtspServer() as camera:
        source = opened(one_process, camera.url, "door")
        consumer = fed(source)
        kill(one_process)
        wait_for(lambda: one_process._awaited)
        assert consumer.ends == []
        source.close()
        assert consumer.ends == [None]
        nobody_follows.append(True)
        wait_for(lambda: not one_process._awaited)
        assert one_process._processes == []


def test_letting_go_a_camera_whose_process_is_starting(
    one_process: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RemoteSource("rtsp://door/live", SourceInfo("door", "rtsp://door/live", live=True), CPU)
    assert one_process._start(sources=[source])
    source.close()
    with source:
        consumer = Kept()
        source.start(consumer, paced=False)
        assert consumer.ends == [None]
    started = one_process._processes[1]
    wait_for(lambda: started._has_spoken and started.load == 0)


@pytest.mark.usefixtures("nobody_follows")
def test_closing_between_two_processes(one_process: DecoderPool) -> None:
    with RtspServer() as camera:
        source = opened(one_process, camera.url, "door")
        consumer = fed(source)
        kill(one_process)
        wait_for(lambda: one_process._awaited)
        one_process.close()
        assert consumer.ends == [None]
        late = one_process.open(camera.url, name="late", options=CPU)
        within(late.wait_ready, 3)
        assert list(late) == []
        assert not one_process._thread.is_alive()


def test_no_room_for_a_process_is_said_and_tried_again(
    one_process: DecoderPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "_AGAIN_S", 0.0)
    refusals = [OSError(11, "Resource temporarily unavailable")] * 2
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return popen(*args, **kwargs)

    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        fed(source)
        monkeypatch.setattr(worker_process.subprocess, "Popen", start)
        kill(one_process)
        wait_for(lambda: source.reconnects == 1)
    assert caplog.text.count("no decoding process can be started ([Errno 11] Resource temporarily unavailable)") == 2


def test_no_room_for_any_process(monkeypatch: pytest.MonkeyPatch, one_process: DecoderPool) -> None:
    def start(*_: Any, **__: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    kill(one_process)
    wait_for(lambda: not one_process._processes)
    monkeypatch.setattr(worker_process.subprocess, "Popen", start)
    with pytest.raises(ConfigError, match="no decoding process can be started .*: use --decode-processes 0"):
        DecoderPool(2)
    source = one_process.open("rtsp://user:secret@door/live", name="door", options=CPU)
    with pytest.raises(SourceError, match="'rtsp://[*]+@door/live' can't be opened: no process can be started"):
        source.wait_ready()


def test_a_process_has_only_so_much_room(
    monkeypatch: pytest.MonkeyPatch, one_process: DecoderPool, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_process, "SOURCES", 0)
    with pytest.raises(ConfigError, match="use more --decode-processes"):
        one_process.open(str(tmp_path), name="a", options=CPU)


# --- errors on this side ---


class Refusing(Kept):
    """Can't take what comes."""

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
        wait_for(lambda: one_process._processes[0].load == 1)  # over there too
        assert (source.reconnects, consumer.ends) == (0, [])
    (error,) = refusing.ends
    assert str(error) == "CUDA failed to map a picture: out of memory"


def test_what_a_process_says_of_itself_may_not_be_right(one_process: DecoderPool, long_clip: Path) -> None:
    source, consumer = opened(one_process, long_clip), Kept()
    source.start(consumer, paced=False)
    (alive,) = one_process._processes
    alive._take_of_itself = lambda message: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    wait_for(lambda: consumer.ends)
    assert "can't be taken: ZeroDivisionError" in str(consumer.ends[0])
    wait_for(lambda: not one_process._processes)
    assert len(list(opened(one_process, long_clip))) == LONG


@pytest.mark.usefixtures("nobody_follows")
def test_all_end_where_nobody_hears_any_more(one_process: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with RtspServer() as camera:
        source, consumer = opened(one_process, camera.url, "door"), Kept()
        source.start(consumer, paced=False)
        monkeypatch.setattr(worker_process.Process, "hear", lambda _: 1 / 0)
        wait_for(lambda: consumer.ends)
    assert "decoding processes can't be heard: ZeroDivisionError" in str(consumer.ends[0])
