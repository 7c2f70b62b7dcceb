"""The threads that finish streams' frames: nothing is lost, and no job is served twice at once or held up for long."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.runtime import sink_executor as writers
from streamer.runtime.sink_executor import SerialTask, SinkExecutor
from tests.fakes import WAIT_S, wait_for

FOR_EVER_S = 3600.0


class Tray(SerialTask):
    """Does what lies in it, and ends with a `None`; `during` is called with each item and may raise or wait.

    Attributes:
        inbox: what is to be done.
        done: what was done, in order.
        served: how often it was served.
        names: of the threads that served it.
        overlapped: whether two threads ever served it at once.
    """

    def __init__(self, *items: object, name: str = "tray", during: Callable[[object], object] | None = None) -> None:
        self.name = name
        self.inbox: deque[object] = deque(items)
        self.done: list[object] = []
        self.served = 0
        self.names: list[str] = []
        self.overlapped = False
        self._during = during
        self._busy = threading.Lock()

    def has_done(self, count: int) -> Callable[[], bool]:
        """Returns what tells whether so much is done."""
        return lambda: len(self.done) == count

    def serve(self) -> bool:
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            return False
        try:
            self.served += 1
            self.names.append(threading.current_thread().name)
            while self.inbox:
                item = self.inbox.popleft()
                if self._during is not None:
                    self._during(item)
                self.done.append(item)
                if item is None:
                    return True
            time.sleep(0)  # who brings something now has to be heard
            return False
        finally:
            self._busy.release()


class Crew:
    """Writers, the threads that they started, the failures that they told of, and a gate that jobs may wait at."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self.gate = threading.Event()
        self.writers = SinkExecutor(self._start, self.failures.append)

    def take_on(self, *jobs: SerialTask) -> None:
        for job in jobs:
            self.writers.add(job)

    def hold_up(self, *items: object) -> Tray:
        """Takes on a job, and has it served until it waits at the gate, as it does at each of its items."""
        entered = threading.Event()

        def wait(_: object) -> None:
            entered.set()
            self.gate.wait(WAIT_S)

        stuck = Tray(*items, name="stuck", during=wait)
        self.take_on(stuck)
        self.writers.ready(stuck)
        assert entered.wait(WAIT_S)
        return stuck

    def looks_after(self) -> bool:
        """Does what a run does a few dozen times a second; returns True."""
        self.writers.ensure_worker()
        return True

    def end(self) -> None:
        """Opens the gate and has the threads end, and makes sure that they do."""
        self.gate.set()
        self.writers.close()
        for thread in self.threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in self.threads)

    def _start(self, name: str, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body, name=name, daemon=True)
        self.threads.append(thread)
        thread.start()


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Writers whose threads have to end with the test."""
    made = Crew()
    yield made
    made.end()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long a job may take before it counts as one that holds up the others; at first for ever."""

    def is_held_up_after(seconds: float) -> None:
        monkeypatch.setattr(writers, "_HELD_UP_S", seconds)

    is_held_up_after(FOR_EVER_S)
    return is_held_up_after


# --- one at a time, and all of it ---


@pytest.fixture(scope="module", autouse=True)
def _hasty_threads() -> Iterator[None]:
    """Has the interpreter change threads as often as it can."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=3), min_size=1, max_size=5), st.booleans())
def test_nothing_is_lost_and_no_job_is_served_twice_at_once(counts: list[list[int]], crowded: bool) -> None:
    """For each job, each thread that gives it something, how much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "_HELD_UP_S", 0.0 if crowded else FOR_EVER_S)  # many threads, or one
        crew = Crew()
        trays = [Tray(during=lambda _: time.sleep(0)) for _ in counts]
        crew.take_on(*trays)

        def bring(tray: Tray, who: int, count: int) -> None:
            for number in range(count):
                tray.inbox.append((who, number))
                crew.writers.ready(tray)

        threads = [
            threading.Thread(target=bring, args=(tray, who, count))
            for tray, shares in zip(trays, counts, strict=True)
            for who, count in enumerate(shares)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            crew.writers.ensure_worker()
        for tray, shares in zip(trays, counts, strict=True):
            wait_for(tray.has_done(sum(shares)))  # without another word
            tray.inbox.append(None)
            crew.writers.ready(tray)
        wait_for(lambda: not crew.writers.unfinished)
        crew.end()
    assert not crew.failures
    for tray, shares in zip(trays, counts, strict=True):
        assert not tray.overlapped
        assert tray.done[-1] is None
        for who, count in enumerate(shares):
            mine = [item for item in tray.done[:-1] if isinstance(item, tuple) and item[0] == who]
            assert mine == [(who, number) for number in range(count)]
    assert crowded or len(crew.threads) == 1


def test_what_becomes_ready_while_it_is_served_is_served_once_more(crew: Crew) -> None:
    stuck, after = crew.hold_up(1), Tray(1)
    for _ in range(5):
        crew.writers.ready(stuck)
    crew.gate.set()
    wait_for(lambda: stuck.served == 2)
    crew.take_on(after)
    crew.writers.ready(after)
    wait_for(lambda: after.done)
    assert stuck.served == 2


@pytest.mark.usefixtures("patience")
def test_jobs_are_served_in_the_order_in_which_they_became_ready(crew: Crew) -> None:
    order: list[object] = []
    trays = [Tray(number, name=str(number), during=order.append) for number in range(5)]
    crew.hold_up(1)
    crew.take_on(*trays)
    for number in (3, 0, 4, 3, 1, 2, 0):
        crew.writers.ready(trays[number])
    crew.gate.set()
    wait_for(lambda: len(order) == 5)
    assert order == [3, 0, 4, 1, 2]
    assert [tray.names for tray in trays] == [[f"serve {tray.name}"] for tray in trays]


# --- one that holds up the others ---


def test_a_job_that_blocks_holds_up_nobody_for_long(crew: Crew) -> None:
    stuck, other = crew.hold_up(1), Tray(1)
    crew.take_on(other)
    crew.writers.ready(other)
    wait_for(lambda: crew.looks_after() and other.done)
    assert not stuck.done
    assert len(crew.threads) == 2
    other.inbox.append(2)
    crew.writers.ready(other)
    wait_for(other.has_done(2))  # by the same thread
    assert len(crew.threads) == 2


def test_a_thread_is_added_only_once_a_job_takes_too_long(crew: Crew, patience: Callable[[float], None]) -> None:
    stuck, others = crew.hold_up(1), [Tray(1) for _ in range(2)]
    crew.take_on(*others)
    crew.writers.ready(others[0])
    crew.writers.ensure_worker()
    assert len(crew.threads) == 1
    patience(0.0)
    crew.writers.ensure_worker()
    wait_for(lambda: others[0].done)
    patience(FOR_EVER_S)
    crew.writers.ready(others[1])
    wait_for(lambda: others[1].done)
    assert not stuck.done
    assert len(crew.threads) == 2


def test_what_becomes_ready_after_that_need_not_wait_for_a_look(crew: Crew, patience: Callable[[float], None]) -> None:
    patience(0.0)
    stuck, other = crew.hold_up(1), Tray(1)
    crew.take_on(other)
    crew.writers.ensure_worker()
    assert len(crew.threads) == 1  # nothing waits
    crew.writers.ready(other)
    wait_for(lambda: other.done)
    assert not stuck.done


def test_no_thread_is_added_for_one_that_is_only_being_woken(crew: Crew, patience: Callable[[float], None]) -> None:
    patience(0.0)
    tray = Tray()
    crew.take_on(tray, Tray(), Tray())
    for number in range(200):
        tray.inbox.append(number)
        crew.writers.ready(tray)
        crew.writers.ensure_worker()
    wait_for(tray.has_done(200))
    assert len(crew.threads) == 1


class Lingering(threading.Condition):
    """A condition whose holder rests after it let go: whatever others can do in between, they do."""

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        time.sleep(0.005)


def test_who_look_at_once_add_one_thread_together(crew: Crew, patience: Callable[[float], None]) -> None:
    crew.writers._work = Lingering(threading.Lock())
    other = Tray(1)
    crew.hold_up(1)
    crew.take_on(other, *(Tray() for _ in range(8)))
    crew.writers.ready(other)
    patience(0.0)
    lookers = [threading.Thread(target=crew.writers.ensure_worker) for _ in range(6)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join(WAIT_S)
    wait_for(lambda: other.done)
    assert len(crew.threads) == 2


# --- the end, of a job and of all ---


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_job_that_raises_has_ended_and_the_others_go_on(crew: Crew, error: BaseException) -> None:
    def fail(item: object) -> None:
        if item == 2:
            raise error

    wrong, other = Tray(1, 2, 3, during=fail), Tray("a")
    crew.take_on(wrong, other)
    crew.writers.ready(wrong)
    wait_for(lambda: crew.writers.unfinished == (other,))
    assert crew.failures == [error]
    crew.writers.ready(wrong)
    crew.writers.ready(other)
    wait_for(lambda: other.done == ["a"])
    assert (wrong.done, wrong.served) == ([1], 1)
    assert len(crew.threads) == 1


def test_one_that_has_ended_is_left_alone(crew: Crew) -> None:
    ended, other = Tray(1, None, 2), Tray(1)
    crew.take_on(ended, other)
    assert crew.writers.unfinished == (ended, other)
    crew.writers.ready(ended)
    wait_for(lambda: crew.writers.unfinished == (other,))
    crew.writers.ready(ended)
    crew.writers.ready(other)
    wait_for(lambda: other.done)
    assert (ended.done, ended.served) == ([1, None], 1)
    assert not crew.failures


def test_one_that_ends_though_it_was_said_to_be_ready_has_ended(crew: Crew) -> None:
    ended, other = crew.hold_up(None), Tray(1)
    crew.take_on(other)
    crew.writers.ready(ended)
    crew.gate.set()
    wait_for(lambda: crew.writers.unfinished == (other,))
    crew.writers.ready(other)
    wait_for(lambda: other.done)
    assert ended.served == 1


def test_closing_ends_threads_that_wait(crew: Crew) -> None:
    tray = Tray(1)
    crew.take_on(tray)
    crew.writers.ready(tray)
    wait_for(lambda: tray.done)
    crew.end()
    assert crew.writers.unfinished == (tray,)


@pytest.mark.usefixtures("patience")
def test_closing_leaves_nothing_undone_that_is_ready(crew: Crew) -> None:
    crew.hold_up(1, None)
    others = [Tray(1, None) for _ in range(3)]
    crew.take_on(*others)
    for other in others:
        crew.writers.ready(other)
    crew.writers.close()
    crew.end()
    assert [other.done for other in others] == [[1, None]] * 3
    assert crew.writers.unfinished == ()
