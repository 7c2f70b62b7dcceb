from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy


def drained(inbox: BoundedQueue[int]) -> list[int]:
    items = []
    while True:
        try:
            item = inbox.get(timeout_s=5)
        except Closed:
            return items
        assert item is not None, "nothing came in 5 s"
        items.append(item)


@given(st.lists(st.integers()), st.integers(1, 5))
def test_freshest_keeps_the_newest_and_counts_the_rest(items: list[int], capacity: int) -> None:
    inbox: BoundedQueue[int] = BoundedQueue(capacity, OverflowPolicy.DROP_OLDEST)
    for item in items:
        inbox.put(item)
    inbox.close()
    kept = drained(inbox)
    assert kept == items[-capacity:]
    assert inbox.dropped == len(items) - len(kept)
    assert inbox.ended


def test_a_burst_is_kept_but_nothing_that_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("streamer.common.queues.time.monotonic", lambda: now_s)
    inbox: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.DROP_OLDEST, burst=2)
    assert [inbox.put(item) for item in range(4)] == [None, None, None, 0]
    now_s += 0.011
    assert inbox.put(4) == 1  # what waits has had its time
    assert (inbox.get(), inbox.get(), inbox.get()) == (2, 3, 4)
    assert inbox.put(5) is None
    now_s += 0.011
    assert inbox.put(6) == 5
    assert (len(inbox), inbox.dropped) == (1, 3)


def test_every_frame_loses_nothing_between_threads() -> None:
    inbox: BoundedQueue[int] = BoundedQueue(2, OverflowPolicy.BLOCK)

    def produce() -> None:
        for item in range(2000):
            inbox.put(item)
        inbox.close()

    producer = threading.Thread(target=produce)
    producer.start()
    assert drained(inbox) == list(range(2000))
    producer.join(5)
    assert inbox.dropped == 0


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_wakes_a_waiting_producer(end: str) -> None:
    inbox: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.BLOCK)
    inbox.put(0)
    result: list[str] = []
    started = threading.Event()

    def produce() -> None:
        started.set()
        try:
            inbox.put(1)
        except Closed:
            result.append("closed")

    producer = threading.Thread(target=produce)
    producer.start()
    started.wait(5)
    getattr(inbox, end)()
    producer.join(5)
    assert result == ["closed"]
    assert drained(inbox) == ([0] if end == "close" else [])
    assert inbox.dropped == (0 if end == "close" else 1)


def test_end_wakes_a_waiting_consumer() -> None:
    inbox: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.BLOCK)
    result: list[list[int]] = []
    consumer = threading.Thread(target=lambda: result.append(drained(inbox)))
    consumer.start()
    inbox.close()
    consumer.join(5)
    assert result == [[]]


def test_get_gives_up_in_time() -> None:
    assert BoundedQueue[int](1, OverflowPolicy.DROP_OLDEST).get(timeout_s=0) is None


def test_put_after_the_end() -> None:
    inbox: BoundedQueue[int] = BoundedQueue(1, OverflowPolicy.DROP_OLDEST)
    inbox.close()
    with pytest.raises(Closed):
        inbox.put(1)


def test_refuses_no_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BoundedQueue(0, OverflowPolicy.DROP_OLDEST)


def test_a_producer_may_wait_for_room_before_it_makes_an_item() -> None:
    handover = BoundedQueue[int](1, OverflowPolicy.BLOCK)
    handover.wait_for_room()
    handover.put(1)
    waited = threading.Event()

    def wait() -> None:
        handover.wait_for_room()
        waited.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert not waited.wait(0.05)
    assert handover.get() == 1
    assert waited.wait(20)
    thread.join()
    handover.put(2)
    freshest = BoundedQueue[int](1, OverflowPolicy.DROP_OLDEST)
    freshest.put(1)
    freshest.wait_for_room()  # there is always some
    for ended in (handover, freshest):
        ended.close()
        with pytest.raises(Closed):
            ended.wait_for_room()
