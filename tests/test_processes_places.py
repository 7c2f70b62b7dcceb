"""What becomes of a source, and of its process's others, when the process is gone; without any process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import SourceInfo
from streamer.sources.workers import DecoderPool, pool
from streamer.sources.workers.messages import Begin, LetGo, Open, Status
from streamer.sources.workers.remote import Place, RemoteSource
from tests.test_processes import CPU, Kept

GONE = SourceError("gone")


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
    source, consumer = remote(options), Kept()
    assert source.settle(somewhere.place)
    source.opened(source.info, Status())
    source.start(consumer, paced=False)
    return source, consumer


def test_frames_of_the_last_process_are_not_counted_in_the_next() -> None:
    first, second = Somewhere(1), Somewhere(2)
    source, consumer = settled(first)
    for index in range(3):
        source.arrive(frame(index, index), 1.0)
    source.acknowledge()
    assert first.taken[1] == 1
    assert source.lose(GONE)
    source.acknowledge()  # while it is nowhere
    assert source.settle(second.place)
    source.arrive(frame(0, 10.0), 1.0)
    source.acknowledge()  # the last of the first process's
    assert second.taken[2] == 0
    source.acknowledge()
    assert second.taken[2] == 1
    assert first.taken[1] == 1
    assert [f.index for f in consumer.frames] == [0, 1, 2, 3]
    assert [f.pts_s for f in consumer.frames] == [0.0, 0.1, 0.2, 10.0]


def test_what_earlier_processes_said_of_it_adds_up() -> None:
    source, _ = settled(Somewhere())
    source.told(source.info, Status(None, 2, 30, 4, ("4 damaged packets",)))
    assert source.skipped == ("4 damaged packets",)
    source.arrive(frame(0, 0.0), 1.0)
    assert source.lose(GONE)
    assert (source.reconnects, source.dropped, source.damaged) == (2, 30, 4)
    assert source.settle(Somewhere().place)
    source.told(source.info, Status(None, 1, 5, 1, ("1 damaged packet",)))
    source.arrive(frame(0, 1.0), 1.0)
    assert (source.reconnects, source.dropped, source.damaged) == (4, 35, 5)
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


def test_one_that_never_gave_a_frame_is_reached_and_not_back(caplog: pytest.LogCaptureFixture) -> None:
    source, _ = settled(Somewhere())
    assert source.lose(GONE)
    assert source.settle(Somewhere().place)
    source.arrive(frame(0, time.perf_counter()), 1.0)
    assert source.reconnects == 0
    assert "source 'door' is reached after" in caplog.text


def test_attempts_without_a_frame_between_are_limited() -> None:
    source, consumer = settled(Somewhere(), SourceOptions(reconnect=2))
    for _ in range(3):  # a frame each time: they aren't in a row
        assert source.lose(GONE)
        assert source.settle(Somewhere().place)
        source.arrive(frame(0, 0.0), 1.0)
    for _ in range(2):
        assert source.lose(GONE)
        assert source.settle(Somewhere().place)
    assert not source.lose(GONE)
    assert consumer.ends == [GONE]
    assert not source.settle(Somewhere().place)


def test_one_that_is_not_begun_yet_is_begun_where_it_is_by_then() -> None:
    first, second = Somewhere(1), Somewhere(2)
    source = remote()
    assert source.settle(first.place)
    source.refused(source.info, SourceError("refused"))
    with pytest.raises(SourceError, match="refused"):
        source.wait_ready()
    assert source.lose(GONE)
    consumer = Kept()
    source.start(consumer, paced=False)
    assert source.settle(second.place)
    assert [type(said) for said in first.said] == [Open]
    assert second.said == [Open(2, "rtsp://u:p@door/live", "door", CPU), Begin(2, False)]
    source.close()
    assert second.said[2:] == [LetGo(2)]
    assert not source.lose(GONE)
    assert consumer.ends == [None]  # it was let go: no failure


# --- who follows ---


class Dead:
    """A process that is gone, and the sources it leaves behind."""

    def __init__(self, deaths: int, sources: int) -> None:
        self.deaths, self.sources = deaths, list(range(sources))

    def leave(self) -> list[int]:
        return self.sources


@pytest.fixture
def undertaker(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[tuple[int, int, float]]]:
    """Returns what follows a process: sources, deaths and rest of each."""
    monkeypatch.setattr(pool.time, "perf_counter", lambda: 100.0)
    processes = DecoderPool.__new__(DecoderPool)
    processes._lock, processes._processes, processes._most = threading.Lock(), [], 3

    def bury(deaths: int, sources: int) -> list[tuple[int, int, float]]:
        processes._awaited = []
        processes._bury(Dead(deaths, sources))  # type: ignore[arg-type]
        return [(len(each.sources), each.deaths, each.due_s - 100) for each in processes._awaited]

    bury.processes = processes  # type: ignore[attr-defined]
    return bury


def test_each_death_soon_after_another_is_followed_by_a_longer_rest(undertaker: Any) -> None:
    assert [undertaker(deaths, 1)[0][2] for deaths in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [undertaker(deaths, 1)[0][1] for deaths in range(3)] == [1, 2, 3]


def test_sources_are_parted_only_so_far(undertaker: Any) -> None:
    assert undertaker(0, 5) == [(5, 1, 0)]
    assert undertaker(1, 5) == [(3, 2, 1), (2, 2, 1)]
    assert undertaker(1, 1) == [(1, 2, 1)]
    undertaker.processes._processes = [Dead(0, 0)]
    assert len(undertaker(1, 5)) == 2
    undertaker.processes._processes *= 2
    assert undertaker(1, 5) == [(5, 2, 1)]
