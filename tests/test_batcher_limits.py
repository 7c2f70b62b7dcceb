"""The batcher at its limits: exactly at the time-out, with one credit, with equal priorities."""

from __future__ import annotations

from streamer.common.queues import BoundedQueue, InFlightLimit, OverflowPolicy, QueueSelector
from streamer.runtime.batcher import BatchInput
from tests.test_batcher import LONG_S, Clock, batcher_of, drain, input_of, items_of


def test_an_input_begins_with_the_lowest_priority_unserved() -> None:
    selector = QueueSelector()
    added = BatchInput[int](BoundedQueue(1, OverflowPolicy.BLOCK, selector), InFlightLimit(1, selector))
    assert (added.priority, added.on_batched, added.last_served, added.preempted) == (0, None, 0, 0)


def test_a_batch_goes_out_exactly_at_the_timeout() -> None:
    clock = Clock()
    clock.now_s = 0.0
    batcher, inputs = batcher_of(0, 0, size=2, timeout_s=0.05, end=False, selector=QueueSelector(clock))
    inputs[0].queue.put((0, 0))
    clock.now_s = 0.05
    assert items_of(batcher.next_batch(wait=False)) == [(0, 0)]


def test_a_batch_waits_for_an_empty_input_with_its_last_credit() -> None:
    batcher, inputs = batcher_of(2, 0, size=4, timeout_s=LONG_S, end=False, in_flight=(9, 1))
    assert batcher.next_batch(wait=False) == []
    inputs[1].limit.acquire()
    assert len(batcher.next_batch(wait=False) or []) == 2  # without a credit it can't offer anything


def test_equal_priorities_delay_but_do_not_preempt() -> None:
    batcher, inputs = batcher_of(3, 3, 3, size=2)
    drain(batcher)
    assert [each.preempted for each in inputs] == [0, 0, 0]


def test_every_item_dropped_for_higher_priorities_counts() -> None:
    batcher, (low, _) = batcher_of(0, 3, size=1, priorities=(0, 1), end=False)
    low.queue.policy = OverflowPolicy.DROP_OLDEST
    low.put((0, 0))
    for item in (1, 2, 3):
        assert items_of(batcher.next_batch(wait=False)) == [(1, item - 1)]
        low.put((0, item))
        assert low.preempted == item


def test_a_queue_that_is_closed_before_its_input_is_added_is_no_fault() -> None:
    selector = QueueSelector()
    batcher, _ = batcher_of(0, size=1, end=False, selector=selector)
    late = input_of(selector)
    late.queue.close()
    assert batcher.next_batch(wait=False) == []
    batcher.add(late)
    assert batcher.next_batch(wait=False) == []
    assert batcher.finished == (late,)
