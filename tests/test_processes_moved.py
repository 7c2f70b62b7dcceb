"""Live sources outlive the process that reads them: another takes over, and who kills every process is soon alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.errors import ConfigError, SourceError
from streamer.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import SourceInfo
from streamer.sources.processes import DecodingProcesses, pool, process
from streamer.sources.processes.messages import Begin, LetGo, Open, Status
from streamer.sources.processes.remote import Place, RemoteSource
from tests.fakes import wait_for
from tests.rtsp_server import RtspServer
from tests.test_processes import CPU, LONG, Kept, opened
from tests.test_processes_faults import within

GONE = SourceError("gone")


def pids(processes: DecodingProcesses) -> list[int]:
    return [each._popen.pid for each in processes._processes if each.is_alive]


def kill(processes: DecodingProcesses) -> None:
    """Kills all of them, and waits until their sources know."""
    killed = list(processes._processes)
    for pid in pids(processes):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: all(each.fileno() == -1 for each in killed))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has processes followed at once, however many died before."""
    monkeypatch.setattr(process, "LONGEST_REST_S", 0.0)


def test_a_camera_outlives_its_process(one_process: DecodingProcesses) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door", SourceOptions(freshest=False)) as source:
        taker = Kept(source)
        source.feed(taker, paced=False)
        wait_for(lambda: len(taker.frames) >= 5)
        (before,) = pids(one_process)
        assert source.lost_s is None
        kill(one_process)
        count = len(taker.frames)
        assert source.lost_s is not None and source.lost_s > 0
        assert source.info.size_wh == (96, 64)
        wait_for(lambda: len(taker.frames) >= count + 5)
        assert source.lost_s is None
        assert source.reconnects == 1
        assert source.info.size_wh == (96, 64)
        assert pids(one_process) != [before] and len(one_process._processes) == 1
        assert taker.ends == []
    wait_for(lambda: taker.ends == [None])
    indices, pts_s, at_s = ([getattr(f, n) for f in taker.frames] for n in ("index", "pts_s", "captured_at_s"))
    assert indices == list(range(len(indices)))
    assert pts_s == sorted(pts_s)
    away_s = at_s[count] - at_s[count - 1]
    assert pts_s[count] - pts_s[count - 1] == pytest.approx(away_s, abs=0.2)  # the outage is in the time axis


def test_a_camera_that_is_away_is_reached_in_the_next_process(one_process: DecodingProcesses) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        taker = Kept(source)
        source.feed(taker, paced=False)
        wait_for(lambda: taker.frames)
        camera.freeze()
        kill(one_process)
        count = len(taker.frames)
        wait_for(lambda: pids(one_process) and one_process._processes[0]._has_spoken)
        assert source.lost_s is not None
        assert source.info.size_wh == (96, 64)  # known, though not in the new process
        camera.thaw()
        wait_for(lambda: len(taker.frames) > count)
        assert source.reconnects >= 1
        assert taker.ends == []


def test_files_of_the_process_end_and_it_takes_new_ones(one_process: DecodingProcesses, long_clip: Path) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        taker, cut = Kept(source), Kept()
        source.feed(taker, paced=False)
        opened(one_process, long_clip, "file").feed(cut, paced=False)
        wait_for(lambda: taker.frames and cut.frames)
        kill(one_process)
        wait_for(lambda: cut.ends)
        assert "was killed by SIGKILL; start the run again" in str(cut.ends[0])
        wait_for(lambda: pids(one_process))
        assert len(list(opened(one_process, long_clip, "again"))) == LONG
        wait_for(lambda: source.reconnects == 1)


def test_a_process_without_live_sources_is_followed_too(one_process: DecodingProcesses, long_clip: Path) -> None:
    assert len(list(opened(one_process, long_clip))) == LONG
    kill(one_process)
    wait_for(lambda: pids(one_process))
    assert len(list(opened(one_process, long_clip))) == LONG


@pytest.mark.usefixtures("hasty")
def test_sources_of_processes_that_die_soon_are_parted(one_process: DecodingProcesses) -> None:
    with ExitStack() as stack:
        cameras = [stack.enter_context(RtspServer()) for _ in range(3)]
        sources = [stack.enter_context(opened(one_process, camera.url, f"c{n}")) for n, camera in enumerate(cameras)]
        takers = [Kept(source) for source in sources]
        for source, taker in zip(sources, takers, strict=True):
            source.feed(taker, paced=False)

        def all_are_back(times: int) -> bool:
            return all(source.reconnects == times and source.lost_s is None for source in sources)

        wait_for(lambda: all(taker.frames for taker in takers))
        for death, loads in enumerate(([3], [1, 2], [1, 1, 1], [1, 1, 1]), 1):
            kill(one_process)
            wait_for(lambda death=death: all_are_back(death))  # type: ignore[misc]
            assert sorted(each.load for each in one_process._processes) == loads
        assert [taker.ends for taker in takers] == [[], [], []]


def test_what_dies_soon_rests_longer_each_time_and_what_lived_long_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(process.time, "perf_counter", lambda: now_s[0])
    rests = []
    for deaths in range(9):
        dead = process.Process.__new__(process.Process)
        dead._ending, dead._has_spoken, dead._homeless = False, True, []
        dead._deaths, dead._started_s = deaths, now_s[0] - 1
        (follower,) = dead.successors()
        rests.append(follower.due_s - now_s[0])
        assert follower.deaths == deaths + 1
        dead._started_s = now_s[0] - 60
        (follower,) = dead.successors()
        assert (follower.deaths, follower.due_s) == (1, now_s[0])
    assert rests == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_without_reconnecting_a_camera_ends_with_its_process(one_process: DecodingProcesses) -> None:
    with RtspServer() as camera, opened(one_process, camera.url, "door", SourceOptions(reconnect=0)) as source:
        taker = Kept(source)
        source.feed(taker, paced=False)
        wait_for(lambda: taker.frames)
        kill(one_process)
        wait_for(lambda: taker.ends)
    assert re.search(r"broke off: the process that decoded it was killed by SIGKILL", str(taker.ends[0]))


def test_a_camera_that_has_not_answered_ends_with_its_process(one_process: DecodingProcesses) -> None:
    """Nobody would be told that it can't be opened, where processes can't even start."""
    with RtspServer() as camera:
        camera.freeze()
        source = one_process.open(camera.url, name="door", options=CPU)
        wait_for(lambda: one_process._processes[0]._has_spoken)
        kill(one_process)
        with pytest.raises(SourceError, match="was killed by SIGKILL"):
            source.wait_ready()


@pytest.fixture
def nobody_follows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """Has successors wait until the list holds something."""
    may: list[Any] = []
    follow = DecodingProcesses._follow

    def wait(self: DecodingProcesses, successor: process.Successor) -> None:
        if may or self._is_closing:
            follow(self, successor)
        else:
            self._awaited.append(successor)

    monkeypatch.setattr(DecodingProcesses, "_follow", wait)
    yield may


@pytest.mark.usefixtures("nobody_follows")
@pytest.mark.parametrize("seen", [True, False])
def test_opening_between_two_processes(
    one_process: DecodingProcesses, long_clip: Path, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection ends a moment before the system says that its process has."""
    kill(one_process)
    if not seen:
        monkeypatch.setattr(one_process._processes[0]._popen, "poll", lambda: None)
    source = one_process.open(str(long_clip), name="a", options=CPU)
    with pytest.raises(SourceError, match="was killed by SIGKILL; start the run again"):
        within(source.wait_ready, 3)


def test_letting_go_a_camera_between_two_processes(one_process: DecodingProcesses, nobody_follows: list[Any]) -> None:
    with RtspServer() as camera:
        source, taker = opened(one_process, camera.url, "door"), Kept()
        source.feed(taker, paced=False)
        wait_for(lambda: taker.frames)
        kill(one_process)
        source.close()
        assert taker.ends == []
        nobody_follows.append(True)
        wait_for(lambda: taker.ends == [None])
        wait_for(lambda: pids(one_process))
        assert one_process._processes[0].load == 0


@pytest.mark.usefixtures("nobody_follows")
def test_closing_between_two_processes(one_process: DecodingProcesses) -> None:
    with RtspServer() as camera:
        source, taker = opened(one_process, camera.url, "door"), Kept()
        source.feed(taker, paced=False)
        wait_for(lambda: taker.frames)
        kill(one_process)
        one_process.close()
        assert taker.ends == [None]
        assert not one_process._thread.is_alive()


def test_no_room_for_a_process_is_said_and_tried_again(
    one_process: DecodingProcesses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "LONGEST_REST_S", 0.0)
    refusals = [OSError(11, "Resource temporarily unavailable")] * 2
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return popen(*args, **kwargs)

    with RtspServer() as camera, opened(one_process, camera.url, "door") as source:
        taker = Kept(source)
        source.feed(taker, paced=False)
        wait_for(lambda: taker.frames)
        monkeypatch.setattr(process.subprocess, "Popen", start)
        kill(one_process)
        wait_for(lambda: source.reconnects == 1)
    assert caplog.text.count("no decoding process can be started ([Errno 11] Resource temporarily unavailable)") == 2


# --- a source and its places, without processes ---


class Somewhere:
    """A process that only listens.

    Attributes:
        said: what it was told.
        taken: what it reads.
    """

    def __init__(self, number: int = 1) -> None:
        self.said: list[object] = []
        self.taken = np.full(4, 99, np.uint64)
        self.place = Place(number, self.said.append, self.taken)


def remote(options: SourceOptions = CPU) -> RemoteSource:
    return RemoteSource("rtsp://u:p@door/live", SourceInfo("door", "rtsp://u:***@door/live", live=True), options)


def frame(index: int, at_s: float) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), "door", index, index / 10, at_s)


def settled(somewhere: Somewhere, options: SourceOptions = CPU) -> tuple[RemoteSource, Kept]:
    """A source that was opened in a process and begun."""
    source, taker = remote(options), Kept()
    assert source.settle(somewhere.place)
    source.opened(source.info, Status())
    source.feed(taker, paced=False)
    return source, taker


def test_frames_of_the_last_process_are_not_counted_in_the_next() -> None:
    first, second = Somewhere(1), Somewhere(2)
    source, taker = settled(first)
    for index in range(3):
        source.arrive(frame(index, index), 1.0)
    source.count_taken()
    assert first.taken[1] == 1
    assert source.lose(GONE)
    source.count_taken()  # while it is nowhere
    assert source.settle(second.place)
    source.arrive(frame(0, 10.0), 1.0)
    source.count_taken()  # the last of the first process's
    assert second.taken[2] == 0
    source.count_taken()
    assert second.taken[2] == 1
    assert first.taken[1] == 1
    assert [f.index for f in taker.frames] == [0, 1, 2, 3]
    assert [f.pts_s for f in taker.frames] == [0.0, 0.1, 0.2, 10.0]


def test_what_earlier_processes_said_of_it_adds_up() -> None:
    source, _ = settled(Somewhere())
    source.told(source.info, Status(None, 2, 30, 4, ("4 damaged packets",)))
    assert source.skipped == ("4 damaged packets",)
    source.arrive(frame(0, 0.0), 1.0)
    assert source.lose(GONE)
    assert (source.reconnects, source.passed_over, source.damaged) == (2, 30, 4)
    assert source.settle(Somewhere().place)
    source.told(source.info, Status(None, 1, 5, 1, ("1 damaged packet",)))
    source.arrive(frame(0, 1.0), 1.0)
    assert (source.reconnects, source.passed_over, source.damaged) == (4, 35, 5)
    assert source.skipped == ("5 damaged packets",)


def test_it_is_lost_since_its_last_frame_or_since_its_process_said_so() -> None:
    source, _ = settled(Somewhere())
    now_s = time.perf_counter()
    source.arrive(frame(0, now_s - 50), 1.0)
    assert source.lose(GONE)
    assert source.lost_s == pytest.approx(50, abs=5)
    assert source.settle(Somewhere().place)
    source.told(source.info, Status(now_s - 1))  # the new process counts from its own beginning
    assert source.lost_s == pytest.approx(50, abs=5)
    source.arrive(frame(0, now_s), 1.0)
    source.told(source.info, Status(now_s - 20))
    assert source.lose(GONE)
    assert source.lost_s == pytest.approx(20, abs=5)


def test_attempts_without_a_frame_between_are_limited() -> None:
    source, taker = settled(Somewhere(), SourceOptions(reconnect=2))
    for _ in range(3):  # a frame each time: they aren't in a row
        assert source.lose(GONE)
        assert source.settle(Somewhere().place)
        source.arrive(frame(0, 0.0), 1.0)
    for _ in range(2):
        assert source.lose(GONE)
        assert source.settle(Somewhere().place)
    assert not source.lose(GONE)
    assert taker.ends == [GONE]
    assert not source.settle(Somewhere().place)


def test_one_that_is_not_begun_yet_is_begun_where_it_is_by_then() -> None:
    first, second = Somewhere(1), Somewhere(2)
    source = remote()
    assert source.settle(first.place)
    source.refused(source.info, SourceError("refused"))
    assert source.lose(GONE)
    taker = Kept()
    source.feed(taker, paced=False)
    assert source.settle(second.place)
    assert [type(said) for said in first.said] == [Open]
    assert second.said == [Open(2, "rtsp://u:p@door/live", "door", CPU), Begin(2, False)]
    source.close()
    assert second.said[2:] == [LetGo(2)]
    assert not source.lose(GONE)
    assert taker.ends == [None]  # it was let go: no failure


def test_a_process_has_only_so_much_room(monkeypatch: pytest.MonkeyPatch, one_process: DecodingProcesses) -> None:
    monkeypatch.setattr(process, "SOURCES", 0)
    with pytest.raises(ConfigError, match="use more --decode-processes"):
        one_process._processes[0].adopt(remote())
