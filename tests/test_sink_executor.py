"""The threads that write for many streams: nothing is lost, no task runs twice at once, none is delayed for long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.runtime.sink_executor import SinkExecutor
from tests.fakes import WAIT_S, wait_for

LONG_S = 3600.0


class Tray:
    """Does what lies in it, and ends once it is closed; `during` is called with each item and may raise or wait.

    Attributes:
        queue: the pending items.
        done: what was done, in order.
        served: how often it ran.
        names: of the threads on which it ran.
        overlapped: whether it ever ran on two threads at once.
    """

    def __init__(self, *items: object, name: str = "tray", during: Callable[[object], object] | None = None) -> None:
        self.name = name
        self.items = items
        self.done: list[object] = []
        self.served = 0
        self.names: list[str] = []
        self.overlapped = False
        self._during = during
        self._busy = threading.Lock()
        self.queue: BoundedQueue[Any]

    def has_done(self, count: int) -> Callable[[], bool]:
        """Returns what tells whether so much is done."""
        return lambda: len(self.done) == count

    def run_pending(self) -> bool:
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            return False
        try:
            self.served += 1
            self.names.append(threading.current_thread().name)
            while (item := self.queue.get(timeout_s=0)) is not None:
                if self._during is not None:
                    self._during(item)
                self.done.append(item)
            time.sleep(0)  # what comes now must not be lost
            return False
        except Closed:
            return True
        finally:
            self._busy.release()


class Crew:
    """An executor, its threads, the failures that it reported, and a gate at which tasks may wait."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self.gate = threading.Event()
        self.executor = SinkExecutor(self._start, self.failures.append)
        self.executor.blocked_s = LONG_S

    def add(self, *trays: Tray) -> None:
        """Adds trays with their first items."""
        for tray in trays:
            tray.queue = BoundedQueue(1000, OverflowPolicy.BLOCK, self.executor.selector)
            self.executor.add(tray)
        for tray in trays:
            for item in tray.items:
                tray.queue.put(item)

    def add_blocked(self, *items: object) -> Tray:
        """Adds a tray and has it run until it waits at the gate, as it does at each of its items."""
        entered = threading.Event()

        def wait(_: object) -> None:
            entered.set()
            self.gate.wait(WAIT_S)

        blocked = Tray(*items, name="blocked", during=wait)
        self.add(blocked)
        assert entered.wait(WAIT_S)
        return blocked

    def poll(self) -> bool:
        """Does what a run does a few dozen times a second; returns True."""
        self.executor.ensure_worker()
        return True

    def end(self) -> None:
        """Opens the gate and ends the threads, and makes sure that they do."""
        self.gate.set()
        self.executor.close()
        for thread in self.threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in self.threads)

    def _start(self, name: str, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()


@pytest.fixture
def crew() -> Iterator[Crew]:
    """An executor whose threads have to end with the test."""
    made = Crew()
    yield made
    made.end()


@pytest.fixture(scope="module", autouse=True)
def _frequent_switches() -> Iterator[None]:
    """Makes the interpreter switch threads as often as it can."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


# --- one at a time, and all of it ---


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=3), min_size=1, max_size=5), st.booleans())
def test_nothing_is_lost_and_no_task_runs_twice_at_once(counts: list[list[int]], crowded: bool) -> None:
    """For each task, each thread that gives it something, how much."""
    crew = Crew()
    crew.executor.blocked_s = 0.0 if crowded else LONG_S  # many threads, or one
    trays = [Tray(during=lambda _: time.sleep(0)) for _ in counts]
    crew.add(*trays)

    def bring(tray: Tray, giver: int, count: int) -> None:
        for number in range(count):
            tray.queue.put((giver, number))

    threads = [
        threading.Thread(target=bring, args=(tray, giver, count))
        for tray, shares in zip(trays, counts, strict=True)
        for giver, count in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        crew.executor.ensure_worker()
    for tray, shares in zip(trays, counts, strict=True):
        wait_for(tray.has_done(sum(shares)))
        tray.queue.close()
    wait_for(lambda: not crew.executor.unfinished)
    crew.end()
    assert not crew.failures
    for tray, shares in zip(trays, counts, strict=True):
        assert not tray.overlapped
        for giver, count in enumerate(shares):
            mine = [item for item in tray.done if isinstance(item, tuple) and item[0] == giver]
            assert mine == [(giver, number) for number in range(count)]
    assert crowded or len(crew.threads) == 1


def test_tasks_run_in_the_order_in_which_they_became_ready(crew: Crew) -> None:
    order: list[object] = []
    trays = [Tray(name=str(number), during=order.append) for number in range(5)]
    crew.add_blocked(1)
    crew.add(*trays)
    for number in (3, 0, 4, 3, 1, 2, 0):
        trays[number].queue.put(number)
    crew.gate.set()
    wait_for(lambda: len(order) == 7)
    assert order == [3, 3, 0, 0, 4, 1, 2]
    assert [tray.names for tray in trays] == [[f"serve {tray.name}"] for tray in trays]


# --- one that blocks ---


def test_a_task_that_blocks_delays_no_other_for_long(crew: Crew) -> None:
    blocked, other = crew.add_blocked(1), Tray(1)
    crew.executor.blocked_s = 0.001
    crew.add(other)
    wait_for(lambda: crew.poll() and other.done)
    assert not blocked.done
    assert len(crew.threads) == 2
    crew.executor.blocked_s = LONG_S
    other.queue.put(2)
    wait_for(other.has_done(2))  # on the same thread
    assert len(crew.threads) == 2


def test_a_thread_is_added_only_once_a_task_takes_too_long(crew: Crew) -> None:
    blocked, other = crew.add_blocked(1), Tray(1)
    crew.add(other)
    crew.executor.ensure_worker()
    assert len(crew.threads) == 1
    crew.executor.blocked_s = 0.0
    crew.executor.ensure_worker()
    wait_for(lambda: other.done)
    assert not blocked.done
    assert len(crew.threads) == 2


def test_no_thread_is_added_where_nothing_is_ready(crew: Crew) -> None:
    blocked = crew.add_blocked(1)
    crew.executor.blocked_s = 0.0
    crew.add(Tray())
    blocked.queue.put(2)  # its own thread does that
    crew.executor.ensure_worker()
    assert len(crew.threads) == 1


def test_no_thread_is_added_for_one_that_is_only_being_woken(crew: Crew) -> None:
    crew.executor.blocked_s = LONG_S
    tray = Tray()
    crew.add(tray, Tray(), Tray())
    for number in range(200):
        tray.queue.put(number)
        crew.executor.ensure_worker()
    wait_for(tray.has_done(200))
    assert len(crew.threads) == 1


def test_polls_at_once_add_one_thread_together(crew: Crew) -> None:
    other = Tray(1)
    crew.add_blocked(1)
    crew.add(other, *(Tray() for _ in range(8)))
    crew.executor.blocked_s = 0.0
    with crew.executor.selector.lock:  # all begin at once, and the new thread comes last
        polls = [threading.Thread(target=crew.executor.ensure_worker) for _ in range(6)]
        for poll in polls:
            poll.start()
    for poll in polls:
        poll.join(WAIT_S)
    wait_for(lambda: other.done)
    assert len(crew.threads) == 2


# --- the end, of a task and of all ---


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_task_that_raises_has_ended_and_the_others_go_on(crew: Crew, error: BaseException) -> None:
    def fail(item: object) -> None:
        if item == 2:
            raise error

    wrong, other = Tray(1, 2, 3, during=fail), Tray()
    crew.add(wrong, other)
    wait_for(lambda: crew.executor.unfinished == (other,))
    assert crew.failures == [error]
    wrong.queue.put(4)
    other.queue.put("a")
    wait_for(lambda: other.done == ["a"])
    assert wrong.done == [1]
    assert len(crew.threads) == 1


def test_a_queue_that_is_closed_ends_its_task_alone(crew: Crew) -> None:
    ended, other = Tray(1), Tray()
    crew.add(ended, other)
    assert crew.executor.unfinished == (ended, other)
    ended.queue.close()
    wait_for(lambda: crew.executor.unfinished == (other,))
    other.queue.put(1)
    wait_for(lambda: other.done)
    assert ended.done == [1]
    assert not crew.failures
    assert not crew.executor.selector.closed


def test_a_queue_that_is_closed_while_its_task_runs_ends_it(crew: Crew) -> None:
    ended = crew.add_blocked(1)
    ended.queue.close()
    crew.gate.set()
    wait_for(lambda: not crew.executor.unfinished)
    assert (ended.done, ended.served) == ([1], 1)


def test_closing_ends_threads_that_wait(crew: Crew) -> None:
    tray = Tray(1)
    crew.add(tray)
    wait_for(lambda: tray.done)
    crew.end()
    assert crew.executor.unfinished == (tray,)


def test_closing_leaves_nothing_undone_that_is_ready(crew: Crew) -> None:
    crew.add_blocked(1).queue.close()
    others = [Tray(1) for _ in range(3)]
    crew.add(*others)
    for other in others:
        other.queue.close()
    crew.executor.close()
    crew.end()
    assert [other.done for other in others] == [[1]] * 3
    assert crew.executor.unfinished == ()
