"""The batcher: order, fairness, priority and time-out; with real threads where threads matter."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.queues import BoundedQueue, Closed, InFlightLimit, OverflowPolicy, QueueSelector
from streamer.runtime.batcher import Batcher, BatchInput
from tests.fakes import WAIT_S, wait_for

LONG_S = 3600.0
MANY = 1000

Item = tuple[int, int]


class WaitingSelector(QueueSelector):
    """Sets `is_waiting` before the consumer waits; with the lock held, so that no wake-up comes in between."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waiting = threading.Event()

    def wait(self, timeout_s: float | None = None, *, more: int = 1) -> None:
        self.is_waiting.set()
        super().wait(timeout_s, more=more)


class Clock:
    """Stands still until it is set."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def input_of(
    selector: QueueSelector, capacity: int = 1, *, in_flight: int = MANY, priority: int = 0
) -> BatchInput[Any]:
    """Returns an input whose queue is empty."""
    queue = BoundedQueue[Any](capacity, OverflowPolicy.BLOCK, selector)
    made = BatchInput(queue, InFlightLimit(in_flight, selector))
    made.priority = priority
    return made


def batcher_of(
    *offers: int,
    size: int,
    timeout_s: float = 0.0,
    priorities: Sequence[int] = (),
    in_flight: Sequence[int] = (),
    end: bool = True,
    selector: QueueSelector | None = None,
) -> tuple[Batcher[Item], list[BatchInput[Item]]]:
    """Returns a batcher and its inputs, with as many items each as `offers` says: (input's number, item's number)."""
    selector = selector or QueueSelector()
    batcher = Batcher[Item](size, timeout_s, selector)
    inputs = []
    for number, count in enumerate(offers):
        inputs.append(
            input_of(
                selector,
                max(1, count),
                in_flight=in_flight[number] if in_flight else MANY,
                priority=priorities[number] if priorities else 0,
            )
        )
        for item in range(count):
            inputs[-1].queue.put((number, item))
        if end:
            inputs[-1].queue.close()
        batcher.add(inputs[-1])
    return batcher, inputs


def items_of(batch: list[tuple[BatchInput[Item], Item]] | None) -> list[Item]:
    """Returns the items of a batch."""
    return [item for _, item in batch or []]


def drain(batcher: Batcher[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    batches = []
    while (batch := batcher.next_batch(wait=True)) is not None:
        if batch:
            batches.append([item for _, item in batch])
    return batches


def test_without_inputs_it_is_at_its_end() -> None:
    assert Batcher[int](4, 0.0, QueueSelector()).next_batch(wait=True) is None


@pytest.mark.parametrize(("size", "timeout_s"), [(0, 0.0), (1, -1.0)])
def test_what_cannot_be(size: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="at least"):
        Batcher[int](size, timeout_s, QueueSelector())


@settings(max_examples=200)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 10))
def test_nothing_is_lost_and_each_input_keeps_its_order(offers: list[int], size: int) -> None:
    batcher, _ = batcher_of(*offers, size=size)
    batches = drain(batcher)
    assert all(1 <= len(batch) <= size for batch in batches)
    items = [item for batch in batches for item in batch]
    for number, count in enumerate(offers):
        assert [at for source, at in items if source == number] == list(range(count))
    assert len(items) == sum(offers)


@settings(max_examples=200)
@given(st.integers(1, 12), st.integers(1, 10), st.integers(1, 30))
def test_equal_shares_while_all_offer(inputs: int, size: int, rounds: int) -> None:
    batcher, _ = batcher_of(*[100] * inputs, size=size)
    taken = Counter(number for _ in range(rounds) for _, (number, _) in batcher.next_batch(wait=True) or [])
    counts = [taken[number] for number in range(inputs)]
    assert max(counts) - min(counts) <= 1


def test_higher_priority_goes_first_and_the_rest_in_turn() -> None:
    batcher, _ = batcher_of(3, 3, 3, size=1, priorities=(0, 2, 0))
    assert [batch[0] for batch in drain(batcher)] == [
        (1, 0), (1, 1), (1, 2), (0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2),
    ]  # fmt: skip


def test_an_input_alone_fills_the_batch() -> None:
    batcher, _ = batcher_of(5, 0, size=4)
    assert drain(batcher) == [[(0, 0), (0, 1), (0, 2), (0, 3)], [(0, 4)]]


def test_a_batch_that_is_not_full_goes_out_at_the_timeout_and_no_sooner() -> None:
    clock = Clock()
    batcher, inputs = batcher_of(0, 0, size=2, timeout_s=0.05, end=False, selector=QueueSelector(clock))
    inputs[0].queue.put((0, 0))
    clock.now_s += 0.04
    assert batcher.next_batch(wait=False) == []
    clock.now_s += 0.02
    assert items_of(batcher.next_batch(wait=False)) == [(0, 0)]


def test_waiting_for_more_ends_at_the_timeout() -> None:
    batcher, inputs = batcher_of(1, 0, size=2, timeout_s=0.05, end=False)
    assert items_of(batcher.next_batch(wait=True)) == [(0, 0)]  # the other input is silent
    assert batcher.next_batch(wait=False) == []
    inputs[0].queue.close()
    inputs[1].queue.close()
    assert batcher.next_batch(wait=True) is None


def test_an_input_that_finishes_ends_the_wait() -> None:
    batcher, inputs = batcher_of(1, 0, size=1, end=False)
    assert items_of(batcher.next_batch(wait=True)) == [(0, 0)]
    inputs[0].queue.close()
    assert batcher.next_batch(wait=True) == []


def test_it_does_not_wait_when_every_input_has_given() -> None:
    batcher, _ = batcher_of(1, 1, size=8, timeout_s=LONG_S, end=False)
    assert len(batcher.next_batch(wait=True) or []) == 2


def test_a_full_batch_goes_out_at_once_and_a_late_item_joins() -> None:
    batcher, inputs = batcher_of(1, 0, 0, size=2, timeout_s=LONG_S, end=False)
    late = threading.Thread(target=lambda: inputs[1].queue.put((1, 0)))
    late.start()
    assert sorted(items_of(batcher.next_batch(wait=True))) == [(0, 0), (1, 0)]
    late.join()


def test_inputs_come_and_go_while_it_waits() -> None:
    batcher, inputs = batcher_of(0, size=1, end=False)
    got: list[object] = []
    taker = threading.Thread(
        target=lambda: got.extend((batcher.next_batch(wait=True), batcher.next_batch(wait=True))), daemon=True
    )
    taker.start()
    added = input_of(batcher.selector)
    batcher.add(added)
    added.queue.put((1, 7))
    wait_for(lambda: got or not len(added.queue))
    added.queue.close()
    inputs[0].queue.close()
    taker.join(WAIT_S)
    assert not taker.is_alive()
    assert got[0] == [(added, (1, 7))]
    while (rest := batcher.next_batch(wait=True)) is not None:
        assert rest == []
    assert set(batcher.finished) == {added, inputs[0]}
    batcher.remove(added)
    assert batcher.finished == (inputs[0],)
    with pytest.raises(Closed):
        batcher.add(added)


def test_the_end_waits_for_an_input_that_is_expected() -> None:
    batcher, _ = batcher_of(0, size=1)
    got: list[Any] = []
    taker = threading.Thread(target=lambda: got.append(batcher.next_batch(wait=True)), daemon=True)
    added = input_of(batcher.selector)
    with batcher.expecting():
        assert batcher.next_batch(wait=False) == []
        taker.start()
        batcher.add(added)
        added.queue.put((5, 0))
    taker.join(WAIT_S)
    assert items_of(got[0]) == [(5, 0)]
    with batcher.expecting():
        pass
    added.queue.close()
    assert batcher.next_batch(wait=True) in ([], None)
    assert batcher.next_batch(wait=True) is None


def test_an_input_without_credits_is_skipped_until_one_comes_back() -> None:
    batcher, inputs = batcher_of(3, 3, size=1, end=False, in_flight=(2, MANY))
    taken = [item for _ in range(5) for item in items_of(batcher.next_batch(wait=False))]
    assert taken == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]
    assert batcher.next_batch(wait=False) == []
    inputs[0].limit.release()
    assert items_of(batcher.next_batch(wait=False)) == [(0, 2)]


class Waiting:
    """A thread that waits for a batch of a batcher over a `WaitingSelector`; `batch` fails if nothing woke it."""

    def __init__(self, batcher: Batcher[Item]) -> None:
        assert isinstance(batcher.selector, WaitingSelector)
        self._got: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._got.append(batcher.next_batch(wait=True)), daemon=True)
        self._thread.start()
        assert batcher.selector.is_waiting.wait(WAIT_S)

    def batch(self) -> Any:
        """Returns what the thread got."""
        self._thread.join(10)
        assert self._got, "nothing woke the batcher"
        return self._got[0]


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_credit_that_comes_back_wakes_the_batcher(capacity: int) -> None:
    selector = WaitingSelector()
    batcher, (only,) = batcher_of(capacity + 1, size=capacity, end=False, in_flight=(capacity,), selector=selector)
    assert len(batcher.next_batch(wait=True) or []) == capacity
    waiting = Waiting(batcher)
    only.limit.release()
    assert items_of(waiting.batch()) == [(0, capacity)]


def test_an_input_that_is_added_with_an_item_wakes_the_batcher() -> None:
    batcher, _ = batcher_of(0, size=1, end=False, selector=WaitingSelector())
    added = input_of(batcher.selector)
    added.queue.put((1, 0))
    waiting = Waiting(batcher)
    batcher.add(added)
    assert items_of(waiting.batch()) == [(1, 0)]


def test_the_end_of_expecting_wakes_the_batcher() -> None:
    batcher, _ = batcher_of(size=1, selector=WaitingSelector())
    with batcher.expecting():
        waiting = Waiting(batcher)
    assert waiting.batch() is None


def test_an_input_that_is_closed_or_aborted_wakes_the_batcher() -> None:
    for end in (BoundedQueue.close, BoundedQueue.abort):
        batcher, (first, _) = batcher_of(0, 0, size=1, end=False, selector=WaitingSelector())
        waiting = Waiting(batcher)
        end(first.queue)
        assert waiting.batch() == []


def test_a_batch_does_not_wait_for_an_input_without_credits() -> None:
    batcher, inputs = batcher_of(2, 2, size=8, timeout_s=LONG_S, end=False, in_flight=(1, 1))
    assert len(batcher.next_batch(wait=True) or []) == 2
    inputs[1].limit.release()
    assert batcher.next_batch(wait=True) == [(inputs[1], (1, 1))]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 8), st.data())
def test_never_more_in_flight_than_the_limit(capacities: list[int], size: int, data: st.DataObject) -> None:
    batcher, inputs = batcher_of(*[40] * len(capacities), size=size, in_flight=capacities)
    out: list[BatchInput[Item]] = []
    for _ in range(30):
        out += [each for each, _ in batcher.next_batch(wait=False) or []]
        assert all(out.count(each) == each.limit.in_flight <= each.limit.capacity for each in inputs)
        if out and data.draw(st.booleans()):
            out.pop(data.draw(st.integers(0, len(out) - 1))).limit.release()


def test_items_delayed_for_higher_priorities_are_counted() -> None:
    batcher, inputs = batcher_of(3, 3, 3, size=2, priorities=(0, 1, 1))
    drain(batcher)
    assert [each.preempted for each in inputs] == [3, 0, 0]


def test_items_dropped_for_higher_priorities_are_counted() -> None:
    batcher, (low, high) = batcher_of(0, 3, size=1, priorities=(0, 1), end=False)
    low.queue.policy = OverflowPolicy.DROP_OLDEST
    low.put((0, 0))
    low.put((0, 1))  # drops one, but no other input was served
    assert low.preempted == 0
    assert items_of(batcher.next_batch(wait=False)) == [(1, 0)]
    assert low.preempted == 0  # delayed, and nothing is dropped yet
    low.put((0, 2))
    assert low.preempted == 1
    low.put((0, 3))
    assert (low.preempted, high.preempted) == (1, 0)


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 8))
def test_threads_that_put_at_once_lose_nothing(count: int, size: int) -> None:
    batcher, inputs = batcher_of(*[0] * count, size=size, timeout_s=0.001, end=False)

    def put(number: int) -> None:
        for item in range(50):
            inputs[number].queue.put((number, item))
        inputs[number].queue.close()

    threads = [threading.Thread(target=put, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    items = [item for batch in drain(batcher) for item in batch]
    for thread in threads:
        thread.join()
    for number in range(count):
        assert [at for source, at in items if source == number] == list(range(50))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_inputs_that_have_come_and_gone_leave_nothing(counts: list[int], size: int) -> None:
    selector = QueueSelector()
    batcher = Batcher[int](size, 0.0, selector)
    stays = input_of(selector)
    batcher.add(stays)
    for count in counts:
        passing = input_of(selector, max(1, count))
        for item in range(count):
            passing.queue.put(item)
        passing.queue.close()
        batcher.add(passing)
        got = 0
        while not batcher.finished:
            got += len(batcher.next_batch(wait=False) or [])
        assert got == count
        batcher.remove(batcher.finished[0])
    assert batcher.inputs == (stays,)
    assert not selector.closed and not selector.ready_since
    assert batcher.finished == ()


def test_a_batch_that_may_still_grow_is_left_while_there_is_other_work() -> None:
    batcher, inputs = batcher_of(1, 0, size=2, timeout_s=LONG_S, end=False)
    assert batcher.next_batch(wait=False) == []
    inputs[1].queue.put((1, 0))
    assert sorted(items_of(batcher.next_batch(wait=False))) == [(0, 0), (1, 0)]


def test_what_waits_for_others_may_still_be_replaced_by_something_newer() -> None:
    batcher, inputs = batcher_of(0, 0, size=2, timeout_s=LONG_S, end=False)
    for each in inputs:
        each.queue.policy = OverflowPolicy.DROP_OLDEST
    inputs[0].queue.put((0, 1))
    assert batcher.next_batch(wait=False) == []
    inputs[0].queue.put((0, 2))
    inputs[1].queue.put((1, 3))
    assert batcher.next_batch(wait=False) == [(inputs[0], (0, 2)), (inputs[1], (1, 3))]
