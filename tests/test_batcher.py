"""The batcher: order, fairness, priority, and that it waits for nobody; with real threads where threads matter."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy, QueueSelector
from streamer.runtime.batcher import Batcher, Lane
from tests.fakes import wait_for

FOREVER_S = 30.0


def batcher_of(
    *offers: int, size: int, timeout_s: float = 0.0, priorities: tuple[int, ...] = (), end: bool = True
) -> tuple[Batcher[tuple[int, int]], list[Lane[tuple[int, int]]]]:
    """Returns a batcher over lanes that hold so many items each: (lane's number, item's number)."""
    meeting = QueueSelector()
    batcher = Batcher[tuple[int, int]](size, timeout_s, meeting)
    lanes = []
    for number, count in enumerate(offers):
        inbox = BoundedQueue[tuple[int, int]](max(1, count), OverflowPolicy.BLOCK, meeting)
        for item in range(count):
            inbox.put((number, item))
        if end:
            inbox.close()
        lanes.append(Lane(inbox, priorities[number] if priorities else 0))
        batcher.add(lanes[-1])
    return batcher, lanes


def drain(batcher: Batcher[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    batches = []
    while (batch := batcher.take(wait=True)) is not None:
        if batch:
            batches.append([item for _, item in batch])
    return batches


def test_without_lanes_it_is_at_its_end() -> None:
    assert Batcher[int](4, 0.0, QueueSelector()).take(wait=True) is None


@pytest.mark.parametrize(("size", "timeout_s"), [(0, 0.0), (1, -1.0)])
def test_what_cannot_be(size: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="at least"):
        Batcher[int](size, timeout_s, QueueSelector())


@settings(max_examples=200)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 10))
def test_nothing_is_lost_and_each_lane_keeps_its_order(offers: list[int], size: int) -> None:
    batcher, _ = batcher_of(*offers, size=size)
    batches = drain(batcher)
    assert all(1 <= len(batch) <= size for batch in batches)
    items = [item for batch in batches for item in batch]
    for number, count in enumerate(offers):
        assert [at for lane, at in items if lane == number] == list(range(count))
    assert len(items) == sum(offers)


@settings(max_examples=200)
@given(st.integers(1, 12), st.integers(1, 10), st.integers(1, 30))
def test_equal_shares_while_all_offer(lanes: int, size: int, rounds: int) -> None:
    batcher, _ = batcher_of(*[100] * lanes, size=size)
    taken = Counter(number for _ in range(rounds) for _, (number, _) in batcher.take(wait=True) or [])
    counts = [taken[number] for number in range(lanes)]
    assert max(counts) - min(counts) <= 1


def test_higher_priority_goes_first_and_the_rest_in_turn() -> None:
    batcher, _ = batcher_of(3, 3, 3, size=1, priorities=(0, 2, 0))
    assert [batch[0] for batch in drain(batcher)] == [
        (1, 0), (1, 1), (1, 2), (0, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2),
    ]  # fmt: skip


def test_a_lane_alone_fills_the_batch() -> None:
    batcher, _ = batcher_of(5, 0, size=4)
    assert drain(batcher) == [[(0, 0), (0, 1), (0, 2), (0, 3)], [(0, 4)]]


def test_it_waits_for_more_only_until_the_timeout() -> None:
    batcher, lanes = batcher_of(1, 0, size=2, timeout_s=0.05, end=False)
    assert [item for _, item in batcher.take(wait=True) or []] == [(0, 0)]  # the other is silent
    assert batcher.take(wait=False) == []
    lanes[0].inbox.close()
    lanes[1].inbox.close()
    assert batcher.take(wait=True) is None


def test_a_lane_that_ends_is_told_of() -> None:
    batcher, lanes = batcher_of(1, 0, size=1, end=False)
    assert [item for _, item in batcher.take(wait=True) or []] == [(0, 0)]
    lanes[0].inbox.close()
    assert batcher.take(wait=True) == []


def test_it_does_not_wait_when_every_lane_has_given() -> None:
    batcher, _ = batcher_of(1, 1, size=8, timeout_s=FOREVER_S, end=False)
    assert len(batcher.take(wait=True) or []) == 2


def test_a_full_batch_goes_out_at_once_and_a_late_item_joins() -> None:
    batcher, lanes = batcher_of(1, 0, 0, size=2, timeout_s=FOREVER_S, end=False)
    late = threading.Thread(target=lambda: lanes[1].inbox.put((1, 0)))
    late.start()
    assert sorted(item for _, item in batcher.take(wait=True) or []) == [(0, 0), (1, 0)]
    late.join()


def test_lanes_come_and_go_while_it_waits() -> None:
    batcher, lanes = batcher_of(0, size=1, end=False)
    got: list[object] = []
    taker = threading.Thread(target=lambda: got.extend((batcher.take(wait=True), batcher.take(wait=True))))
    taker.start()
    inbox = BoundedQueue[tuple[int, int]](1, OverflowPolicy.DROP_OLDEST, lanes[0].inbox._meeting)
    added = Lane(inbox)
    batcher.add(added)
    inbox.put((1, 7))
    wait_for(lambda: got or not len(inbox))
    inbox.close()
    lanes[0].inbox.close()
    taker.join(FOREVER_S)
    assert not taker.is_alive()
    assert got[0] == [(added, (1, 7))]
    while (rest := batcher.take(wait=True)) is not None:
        assert rest == []
    assert set(batcher.ended()) == {added, lanes[0]}
    batcher.forget(added)
    assert batcher.ended() == (lanes[0],)
    with pytest.raises(Closed):
        batcher.add(added)


def test_the_end_waits_for_a_lane_that_is_expected() -> None:
    batcher, _ = batcher_of(0, size=1)
    inbox = BoundedQueue[tuple[int, int]](1, OverflowPolicy.DROP_OLDEST, batcher._meeting)
    got: list[object] = []
    taker = threading.Thread(target=lambda: got.append(batcher.take(wait=True)))
    with batcher.expecting():
        assert batcher.take(wait=False) == []
        taker.start()
        batcher.add(Lane(inbox))
        inbox.put((5, 0))
    taker.join(FOREVER_S)
    assert [item for _, item in got[0]] == [(5, 0)]  # type: ignore[attr-defined]
    with batcher.expecting():
        pass
    inbox.close()
    assert batcher.take(wait=True) in ([], None)
    assert batcher.take(wait=True) is None


def test_a_full_room_is_passed_over_until_something_comes_back() -> None:
    batcher, lanes = batcher_of(5, 5, size=1, end=False)
    lanes[0].room = 2
    taken = [batcher.take(wait=True) or [] for _ in range(6)]
    assert [item for batch in taken for _, item in batch] == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (1, 3)]
    batcher.release(lanes[0])
    got: list[object] = []
    assert batcher.take(wait=False) == [(lanes[0], (0, 2))]
    batcher.take(wait=True)
    taker = threading.Thread(target=lambda: got.append(batcher.take(wait=True)))
    taker.start()
    batcher.release(lanes[0])
    taker.join(FOREVER_S)
    assert got == [[(lanes[0], (0, 3))]]


def test_a_batch_does_not_wait_for_a_lane_without_room() -> None:
    batcher, lanes = batcher_of(2, 2, size=8, timeout_s=FOREVER_S, end=False)
    lanes[0].room = lanes[1].room = 1
    assert len(batcher.take(wait=True) or []) == 2
    batcher.release(lanes[1])
    assert batcher.take(wait=True) == [(lanes[1], (1, 1))]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 8), st.data())
def test_never_more_out_than_there_is_room_for(rooms: list[int], size: int, data: st.DataObject) -> None:
    batcher, lanes = batcher_of(*[40] * len(rooms), size=size)
    for lane, room in zip(lanes, rooms, strict=True):
        lane.room = room
    out: list[Lane[tuple[int, int]]] = []
    for _ in range(30):
        out += [lane for lane, _ in batcher.take(wait=False) or []]
        assert all(out.count(lane) == lane.out <= lane.room for lane in lanes)
        if out and data.draw(st.booleans()):
            batcher.release(out.pop(data.draw(st.integers(0, len(out) - 1))))


def test_who_gives_way_to_a_higher_priority_is_counted() -> None:
    batcher, lanes = batcher_of(3, 3, 3, size=2, priorities=(0, 1, 1))
    drain(batcher)
    assert [lane.passed_by for lane in lanes] == [3, 0, 0]


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_threads_that_put_at_once_lose_nothing(lanes: int, size: int, dice: object) -> None:
    batcher, opened = batcher_of(*[0] * lanes, size=size, timeout_s=0.001, end=False)

    def put(number: int) -> None:
        for item in range(50):
            opened[number].inbox.put((number, item))
        opened[number].inbox.close()

    threads = [threading.Thread(target=put, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    items = [item for batch in drain(batcher) for item in batch]
    for thread in threads:
        thread.join()
    for number in range(lanes):
        assert [at for lane, at in items if lane == number] == list(range(50))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_lanes_that_have_come_and_gone_leave_nothing(counts: list[int], size: int) -> None:
    meeting = QueueSelector()
    batcher = Batcher[int](size, 0.0, meeting)
    stays = Lane(BoundedQueue[int](1, OverflowPolicy.BLOCK, meeting))
    batcher.add(stays)
    for count in counts:
        inbox = BoundedQueue[int](max(1, count), OverflowPolicy.BLOCK, meeting)
        for item in range(count):
            inbox.put(item)
        inbox.close()
        batcher.add(Lane(inbox))
        got = 0
        while not batcher.ended():
            got += len(batcher.take(wait=False) or [])
        assert got == count
        batcher.forget(batcher.ended()[0])
    assert list(batcher._lanes.values()) == [stays]
    assert not meeting.closed and not meeting.holding
    assert batcher.ended() == ()


def test_a_batch_that_may_still_grow_is_left_while_there_is_other_work() -> None:
    batcher, lanes = batcher_of(1, 0, size=2, timeout_s=FOREVER_S, end=False)
    assert batcher.take(wait=False) == []
    lanes[1].inbox.put((1, 0))
    assert sorted(item for _, item in batcher.take(wait=False) or []) == [(0, 0), (1, 0)]


def test_what_waits_for_others_may_still_be_replaced_by_something_newer() -> None:
    meeting = QueueSelector()
    batcher = Batcher[int](2, FOREVER_S, meeting)
    lanes = [Lane(BoundedQueue[int](1, OverflowPolicy.DROP_OLDEST, meeting)) for _ in range(2)]
    for lane in lanes:
        batcher.add(lane)
    lanes[0].inbox.put(1)
    assert batcher.take(wait=False) == []
    lanes[0].inbox.put(2)
    lanes[1].inbox.put(3)
    assert batcher.take(wait=False) == [(lanes[0], 2), (lanes[1], 3)]
