from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.queues import BoundedQueue, Closed, CreditQueue, InFlightLimit, OverflowPolicy, QueueSelector


def drained(queue: BoundedQueue[int]) -> list[int]:
    items = []
    while True:
        try:
            item = queue.get(timeout_s=5)
        except Closed:
            return items
        assert item is not None, "nothing came in 5 s"
        items.append(item)


@given(st.lists(st.integers()), st.integers(1, 5))
def test_freshest_keeps_the_newest_and_counts_the_rest(items: list[int], capacity: int) -> None:
    queue: BoundedQueue[int] = BoundedQueue(capacity, OverflowPolicy.DROP_OLDEST)
    for item in items:
        queue.put(item)
    queue.close()
    kept = drained(queue)
    assert kept == items[-capacity:]
    assert queue.dropped == len(items) - len(kept)
    assert queue.is_finished


def test_a_burst_is_kept_but_nothing_that_has_waited() -> None:
    now_s = 100.0
    selector = QueueSelector(clock=lambda: now_s)
    queue: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.DROP_OLDEST, selector, burst=2)
    assert [queue.put(item) for item in range(4)] == [None, None, None, 0]
    now_s += 0.011
    assert queue.put(4) == 1  # what waits has had its time
    assert (queue.get(), queue.get(), queue.get()) == (2, 3, 4)
    assert queue.put(5) is None
    now_s += 0.011
    assert queue.put(6) == 5
    assert (len(queue), queue.dropped) == (1, 3)


def test_every_frame_loses_nothing_between_threads() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2, OverflowPolicy.BLOCK)

    def produce() -> None:
        for item in range(2000):
            queue.put(item)
        queue.close()

    producer = threading.Thread(target=produce)
    producer.start()
    assert drained(queue) == list(range(2000))
    producer.join(5)
    assert queue.dropped == 0


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_wakes_a_waiting_producer(end: str) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.BLOCK)
    queue.put(0)
    result: list[str] = []
    started = threading.Event()

    def produce() -> None:
        started.set()
        try:
            queue.put(1)
        except Closed:
            result.append("closed")

    producer = threading.Thread(target=produce)
    producer.start()
    started.wait(5)
    getattr(queue, end)()
    producer.join(5)
    assert result == ["closed"]
    assert drained(queue) == ([0] if end == "close" else [])
    assert queue.dropped == (0 if end == "close" else 1)


def test_end_wakes_a_waiting_consumer() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.BLOCK)
    result: list[list[int]] = []
    consumer = threading.Thread(target=lambda: result.append(drained(queue)))
    consumer.start()
    queue.close()
    consumer.join(5)
    assert result == [[]]


def test_get_gives_up_in_time() -> None:
    assert BoundedQueue[int](1, OverflowPolicy.DROP_OLDEST).get(timeout_s=0) is None


def test_put_after_the_end() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.DROP_OLDEST)
    queue.close()
    with pytest.raises(Closed):
        queue.put(1)


def test_refuses_no_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BoundedQueue(0, OverflowPolicy.DROP_OLDEST)


def test_a_producer_may_wait_before_it_makes_an_item() -> None:
    queue = BoundedQueue[int](1, OverflowPolicy.BLOCK)
    queue.wait_until_not_full()
    queue.put(1)
    waited = threading.Event()

    def wait() -> None:
        queue.wait_until_not_full()
        waited.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert not waited.wait(0.05)
    assert queue.get() == 1
    assert waited.wait(20)
    thread.join()
    queue.put(2)
    freshest = BoundedQueue[int](1, OverflowPolicy.DROP_OLDEST)
    freshest.put(1)
    freshest.wait_until_not_full()  # there is always some
    for ended in (queue, freshest):
        ended.close()
        with pytest.raises(Closed):
            ended.wait_until_not_full()


def test_getting_an_item_returns_its_credit() -> None:
    limit = InFlightLimit(2, QueueSelector())
    queue = CreditQueue[str](limit)
    for item in "ab":
        limit.acquire()
        queue.put(item)
    assert (limit.in_flight, limit.available) == (2, 0)
    assert queue.get() == "a"
    assert (limit.in_flight, limit.available) == (1, 1)
    assert queue.get(timeout_s=0) == "b"
    assert queue.get(timeout_s=0) is None  # and returns no credit
    assert limit.in_flight == 0
