"""Live connections whose library hangs, by fakes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.sources.base import Source
from streamer.sources.live import Connect, LiveSource
from streamer.sources.options import SourceOptions
from tests.fakes import wait_for
from tests.live_server import SOON, Server, breaks_at, hangs_at, live, well


def test_silence_is_noticed_and_the_hanging_connection_left_behind(forever: threading.Event) -> None:
    server = Server(hangs_at(2, forever), well)
    with live(server, stall_timeout_s=0.2) as source:
        assert [frame.index for frame in islice(source, 6)] == list(range(6))
        assert source.reconnects == 1
        assert not server.connections[0].closed
        forever.set()
        wait_for(lambda: server.connections[0].closed)


def test_a_connection_that_hangs_before_its_first_frame(forever: threading.Event) -> None:
    timeouts = {"open_timeout_s": 0.1, "key_frame_timeout_s": 0.1, "stall_timeout_s": 0.1}
    with live(Server(hangs_at(0, forever), well), **timeouts) as source:
        with pytest.raises(SourceError, match="gave no picture"):
            source.wait_ready()
        assert next(iter(source)).index == 0


def test_an_attempt_is_given_more_time_after_each_that_timed_out(forever: threading.Event) -> None:
    def answers_too_late(_: int) -> None:
        forever.wait(0.5)
        raise SourceError("did not answer")

    plans = (breaks_at(1), *[answers_too_late] * 2, SourceError("refused"), answers_too_late, breaks_at(1), well)
    server = Server(*plans)
    backoff = replace(SOON, min_timeout_s=0.1, timeout_factor=0.0)
    with live(server, backoff, open_timeout_s=0.4, key_frame_timeout_s=1.0, stall_timeout_s=60.0) as source:
        assert [frame.index for frame in islice(source, 3)] == [0, 1, 2]
    assert [options.open_timeout_s for options in server.options] == [0.4, 0.1, 0.2, 0.4, 0.4, 0.4, 0.1]


def hanging(server: Server, until: threading.Event) -> Callable[[SourceOptions], Source]:
    """Returns a connect that hangs after the server's first connection, as a driver does."""

    def connect(options: SourceOptions) -> Source:
        if server.options:
            server.options.append(options)
            until.wait(60)
            raise SourceError("gone")
        return server(options)

    return connect


NO_PATIENCE = SourceOptions(
    overflow_policy=OverflowPolicy.BLOCK,
    open_timeout_s=0.01,
    key_frame_timeout_s=0.01,
    stall_timeout_s=0.01,
    reconnect=None,
)


def impatient(connect: Connect, isolated: Connect | None = None) -> LiveSource:
    return LiveSource(connect, name="door", uri="0", options=NO_PATIENCE, backoff=SOON, connect_isolated=isolated)


def test_attempts_that_hang_are_bounded(forever: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(breaks_at(1))
    source = impatient(hanging(server, forever))
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    wait_for(lambda: "3 attempts to open it hang" in caplog.text)
    assert len(server.options) == 4
    server.options.clear()
    server.plans += [well]
    forever.set()  # the library returns
    wait_for(lambda: source.reconnects == 1)
    source.close()
    reader.join(20)
    assert not reader.is_alive()


def test_after_attempts_that_hang_the_next_is_isolated(forever: threading.Event) -> None:
    server, other = Server(breaks_at(1)), Server(SourceError("refused"), breaks_at(1), well)
    with LiveSource(
        hanging(server, forever), name="door", uri="0", options=NO_PATIENCE, backoff=SOON, connect_isolated=other
    ) as source:
        assert [frame.index for frame in islice(source, 3)] == [0, 1, 2]
        assert source.reconnects == 2
    assert len(server.options) == 4 and len(other.options) == 3


def test_isolated_attempts_are_bounded_too(forever: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    server, other = Server(breaks_at(1)), Server()
    other.options.append(NO_PATIENCE)
    source = LiveSource(
        hanging(server, forever),
        name="door",
        uri="0",
        options=NO_PATIENCE,
        backoff=SOON,
        connect_isolated=hanging(other, forever),
    )
    reader = threading.Thread(target=lambda: list(source))
    reader.start()
    wait_for(lambda: "6 attempts to open it hang" in caplog.text)
    source.close()
    reader.join(20)
    assert not reader.is_alive()
    assert (len(server.options), len(other.options)) == (4, 4)


def test_letting_a_connection_go_interrupts_it(forever: threading.Event) -> None:
    server = Server(hangs_at(1, forever))
    source = live(server)
    source.wait_ready()
    connection = server.connections[0]
    connection.interrupt = forever.set  # type: ignore[method-assign]
    source.close()
    assert forever.is_set()
    wait_for(lambda: connection.closed)
