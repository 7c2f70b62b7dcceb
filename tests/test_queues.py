from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.queues import BoundedQueue, Closed, CreditQueue, InFlightLimit, OverflowPolicy, QueueSelector


class SteppedSelector(QueueSelector):
    """Its clock moves one second a wait; records time-outs and wake-ups."""

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        super().__init__(clock=lambda: self.now_s)
        self.now_s = 0.0
        self.waits: list[float | None] = []
        self.wakes = 0
        self._on_wait = on_wait

    def wait(self, timeout_s: float | None = None, *, more: int = 1) -> None:
        assert len(self.waits) < 10, "it waits forever"
        self.waits.append(timeout_s)
        self.now_s += 1
        self.lock.release()
        self._on_wait()
        self.lock.acquire()

    def wake(self) -> None:
        self.wakes += 1
        super().wake()


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


@pytest.mark.parametrize(("timeout_s", "waits"), [(0, []), (1, [1]), (3, [3, 2, 1])])
def test_get_waits_until_its_time_out_through_spurious_wake_ups(timeout_s: float, waits: list[float]) -> None:
    selector = SteppedSelector()
    assert BoundedQueue[int](1, OverflowPolicy.BLOCK, selector).get(timeout_s) is None
    assert selector.waits == waits


def test_get_without_a_time_out_waits_for_an_item_or_the_end() -> None:
    actions = iter([lambda: None, lambda: queue.put(7), lambda: queue.close()])
    selector = SteppedSelector(lambda: next(actions)())
    queue = BoundedQueue[int](1, OverflowPolicy.BLOCK, selector)
    assert queue.get() == 7
    with pytest.raises(Closed):
        queue.get()
    assert selector.waits == [None, None, None]


def test_items_ends_with_the_queue() -> None:
    queue = BoundedQueue[int](3, OverflowPolicy.BLOCK)
    for item in (1, 2, 3):
        queue.put(item)
    queue.close()
    assert list(queue.items()) == [1, 2, 3]


def test_abort_counts_what_is_left_as_dropped() -> None:
    selector = QueueSelector()
    queue, empty = (BoundedQueue[int](2, OverflowPolicy.DROP_OLDEST, selector) for _ in range(2))
    for item in range(5):
        queue.put(item)
    assert (queue.abort(), empty.abort()) == ([3, 4], [])
    assert (queue.dropped, empty.dropped, selector.ready_since) == (5, 0, {})


@pytest.mark.parametrize("count", [1, 2])
def test_a_consumer_waits_for_as_many_queues_as_it_asks(count: int) -> None:
    selector = QueueSelector()
    queues = [BoundedQueue[int](2, OverflowPolicy.BLOCK, selector) for _ in range(count)]
    waiting, woken = threading.Event(), threading.Event()

    def consume() -> None:
        with selector.lock:
            waiting.set()
            selector.wait(60, **({"more": count} if count > 1 else {}))
        woken.set()

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    assert waiting.wait(20)
    for queue in queues[:-1]:
        queue.put(0)
        queue.put(0)  # an item more in a queue that is ready counts for nothing
        assert not woken.wait(0.05)
    queues[-1].put(0)
    assert woken.wait(20)
    thread.join(20)


def test_waiting_ends_with_the_time_out() -> None:
    selector = QueueSelector()
    with selector.lock:
        selector.wait(0.001)


def test_a_burst_ends_after_ten_milliseconds() -> None:
    selector = SteppedSelector()
    queue = BoundedQueue[int](1, OverflowPolicy.DROP_OLDEST, selector, burst=5)
    queue.put(1)
    assert queue.put(2) is None
    selector.now_s = 0.01
    assert queue.put(3) == 1


def test_put_after_the_end() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.DROP_OLDEST)
    assert queue.is_closed is False
    queue.close()
    assert queue.is_closed is True
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


def test_only_a_release_that_may_end_a_wait_wakes() -> None:
    selector = SteppedSelector()
    limit = InFlightLimit(3, selector)
    assert (limit.in_flight, limit.available) == (0, 3)
    for _ in range(3):
        limit.acquire()
    limit.release()
    assert selector.wakes == 1
    limit.release()
    assert selector.wakes == 1
    assert limit.in_flight == 1


def test_a_credit_queue_waits_where_it_is_told_and_never_drops() -> None:
    selector = SteppedSelector()
    queue = CreditQueue[str](InFlightLimit(1, QueueSelector()), selector)
    assert queue.policy is OverflowPolicy.BLOCK
    assert queue.get(timeout_s=2) is None
    assert selector.waits == [2, 1]


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
