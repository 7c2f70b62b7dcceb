"""Reconnecting: connections that fail, end and return, by fakes."""

from __future__ import annotations

import logging
import threading
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources.backoff import Backoff
from streamer.sources.base import Source
from streamer.sources.live import LiveSource
from streamer.sources.options import SourceOptions
from tests.fakes import wait_for
from tests.live_server import Server, breaks_at, hangs_at, live, well


class Recorded(Backoff):
    """Keeps the delays that it is asked for, and waits for none of them."""

    def __init__(self, **values: float) -> None:
        super().__init__(**values)
        object.__setattr__(self, "delays_s", [])

    def delay_s(self, attempt: int, outage_s: float) -> float:
        self.delays_s.append(super().delay_s(attempt, outage_s))  # type: ignore[attr-defined]
        return 0.0


def test_frames_go_on_across_connections() -> None:
    server = Server(breaks_at(3), breaks_at(2), well)
    with live(server) as source:
        source.wait_ready()
        assert source.info.live and source.info.name == "door" and source.info.size_wh == (32, 24)
        frames = list(islice(source, 8))
        assert source.reconnects == 2
        assert source.dropped == 3 * 2
        assert source.skipped == ("3 damaged packets",)
        assert source.lost_s is None
    assert [frame.index for frame in frames] == list(range(8))
    pts_s = [frame.pts_s for frame in frames]
    assert pts_s == sorted(pts_s)
    for last, first in ((2, 3), (4, 5)):  # time passes while it is away
        away_s = frames[first].captured_at_s - frames[0].captured_at_s
        assert pts_s[first] == pytest.approx(max(away_s, pts_s[last]))
    wait_for(lambda: all(connection.closed for connection in server.connections))


def test_a_late_reader_gets_the_newest_frame() -> None:
    given = threading.Event()
    server = Server(lambda index: given.set() if index == 500 else None, count=501)
    with live(server, overflow_policy=OverflowPolicy.DROP_OLDEST) as source:
        source.wait_ready()
        wait_for(lambda: source.dropped >= 499)
        frames = list(source)
        assert source.dropped == 2 + 501 - len(frames)
    assert frames[-1].index == 500
    assert len(frames) <= 3  # the first, the newest, and one that was on its way


def test_a_file_on_a_server_is_given_whole() -> None:
    with live(Server(well, live=False, count=100), overflow_policy=OverflowPolicy.DROP_OLDEST) as source:
        source.wait_ready()
        assert [frame.index for frame in source] == list(range(100))


def test_an_end_of_a_live_connection_without_a_word_is_the_end() -> None:
    with live(Server(well, count=3)) as source:
        assert [frame.index for frame in source] == [0, 1, 2]


def test_a_file_on_a_server_is_not_opened_again() -> None:
    with live(Server(breaks_at(3), live=False)) as source:
        frames = iter(source)
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        assert not source.info.live
        with pytest.raises(SourceError, match="cut"):
            next(frames)


def test_lost_s_grows_while_it_is_lost(forever: threading.Event) -> None:
    server = Server(breaks_at(2), hangs_at(0, forever))
    with live(server) as source:
        got: list[int] = []
        reader = threading.Thread(target=lambda: got.extend(frame.index for frame in islice(source, 4)))
        reader.start()
        wait_for(lambda: len(server.options) == 2)
        first_s = source.lost_s
        assert first_s is not None
        wait_for(lambda: (source.lost_s or 0) > first_s)
        forever.set()
        reader.join(20)
        assert got == [0, 1, 2, 3]
        assert source.lost_s is None


def test_nothing_is_counted_twice_while_it_is_lost() -> None:
    source = live(Server(breaks_at(2)), Backoff(first_delay_s=60.0, max_delay_s=60.0))
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    wait_for(lambda: source.lost_s is not None)
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    assert source.dropped == 2
    assert source.damaged == 1


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_attempts_are_bounded_when_asked(limit: int) -> None:
    server = Server(breaks_at(1), *[SourceError("refused")] * 5)
    with live(server, reconnect=limit) as source:
        frames = iter(source)
        assert next(frames).index == 0
        with pytest.raises(SourceError, match=r"^cut$" if not limit else f"refused .tried again {limit} time"):
            next(frames)
    assert len(server.options) == 1 + limit


def test_attempts_are_counted_in_a_row() -> None:
    refused = SourceError("refused")
    server = Server(breaks_at(1), refused, breaks_at(1), refused, well)
    with live(server, reconnect=2) as source:
        assert [frame.index for frame in islice(source, 4)] == list(range(4))


def test_a_failed_start_raises_and_iterating_goes_on_trying() -> None:
    server = Server(SourceError("refused"), SourceError("refused"), well)
    with live(server) as source:
        with pytest.raises(SourceError, match="refused"):
            source.wait_ready()
        assert source.info.live
        assert [frame.index for frame in islice(source, 2)] == [0, 1]
        assert source.reconnects == 0  # it was never lost


def test_a_source_that_answered_once_is_given_less_time_on_return() -> None:
    server = Server(breaks_at(1), SourceError("refused"), well)
    with live(server, open_timeout_s=10.0) as source:
        list(islice(source, 2))
    assert [options.open_timeout_s for options in server.options] == [10.0, 1.5, 1.5]


def test_delays_grow_while_connections_are_short() -> None:
    recorded = Recorded(jitter=0.0)
    with live(Server(*[breaks_at(1)] * 5, well), recorded) as source:
        list(islice(source, 6))
    assert recorded.delays_s == [0.25, 0.5, 1.0, 1.0, 1.0]  # type: ignore[attr-defined]


def test_delays_start_again_after_a_connection_that_lasted() -> None:
    recorded = Recorded(jitter=0.0, stable_s=0.0)
    with live(Server(*[breaks_at(1)] * 3, well), recorded) as source:
        list(islice(source, 4))
    assert recorded.delays_s == [0.25] * 3  # type: ignore[attr-defined]


def test_delays_are_longer_in_a_long_outage_and_bounded() -> None:
    """By a clock that each attempt advances by 20 s."""
    now_s = [0.0]

    def refused_later(options: SourceOptions) -> Source:
        now_s[0] += 20.0
        raise SourceError("refused")

    recorded = Recorded(jitter=0.0)
    source = LiveSource(
        refused_later,
        name="door",
        uri="rtsp://door/***",
        options=SourceOptions(reconnect=12),
        backoff=recorded,
        clock=lambda: now_s[0],
    )
    with source, pytest.raises(SourceError, match="refused .tried again 12 times"):
        next(iter(source))
    delays_s: list[float] = recorded.delays_s  # type: ignore[attr-defined]
    assert delays_s[:3] == [0.25, 0.5, 1.0]  # 60 s
    assert delays_s[3:] == [2.0, 4.0] + [6.0] * 7


@given(attempt=st.integers(0, 10**9), outage_s=st.floats(0, 1e9))
def test_frames_are_back_soon_after_any_outage(attempt: int, outage_s: float) -> None:
    """A promise: 2 s after a short outage, 10 s after a long one, connecting included."""
    assert 0.0 < Backoff().delay_s(attempt, outage_s) <= (1.0 if outage_s <= 60 else 6.0)


def test_a_bug_is_an_outage_of_that_source() -> None:
    with live(Server(breaks_at(1, ZeroDivisionError("a bug"))), reconnect=0) as source:
        frames = iter(source)
        next(frames)
        with pytest.raises(SourceError, match="source 'door' failed: ZeroDivisionError: a bug"):
            next(frames)


@pytest.mark.parametrize("while_lost", [False, True])
def test_closing_ends_the_iteration_at_once(while_lost: bool, forever: threading.Event) -> None:
    server = Server(breaks_at(1) if while_lost else hangs_at(1, forever), *[SourceError("refused")] * 1000)
    source = live(server)
    frames = iter(source)
    next(frames)
    rest: list[Frame] = []
    reader = threading.Thread(target=lambda: rest.extend(frames))
    reader.start()
    if while_lost:
        wait_for(lambda: source.lost_s is not None)
    source.close()
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    assert rest == []


def test_the_log_says_lost_and_back_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamer")
    refused = SourceError("refused")
    with live(Server(breaks_at(1), refused, refused, refused, well)) as source:
        list(islice(source, 2))
    told = [(record.levelname, record.getMessage().split(" after")[0]) for record in caplog.records]
    assert told == [
        ("WARNING", "cut; connecting again"),
        ("INFO", "refused; trying again"),
        ("INFO", "source 'door' is back"),
    ]
