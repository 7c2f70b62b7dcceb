"""Which picture of each source is on which canvas: by their own times in any order of arrival, and by a clock."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.frame import Frame
from streamer.sinks.mosaic.schedule import PtsSchedule, TileQueue, WallClockSchedule

PIXELS = np.zeros((2, 2, 3), np.uint8)
Shown = list[tuple[int, tuple[int | None, ...]]]


def frame(index: int, pts_s: float) -> Frame:
    return Frame(PIXELS, "x", index, pts_s, 0.0)


def played(times: PtsSchedule, sources: list[list[float]], order: random.Random) -> Shown:
    """Offers pictures of sources in any order; returns each canvas's number and which picture of each it shows."""
    queues = [TileQueue() for _ in sources]
    left = [list(enumerate(source)) for source in sources]
    shown: Shown = []
    newest: list[int | None] = [None] * len(sources)
    full: set[int] = set()
    while True:
        for number, queue in enumerate(queues):
            queue.is_over = not left[number]
        made = times.next_canvas(queues, is_changed=False)
        if made is not None:
            for number, queue in enumerate(queues):
                taken = times.pop(queue)
                newest[number] = newest[number] if taken is None else taken.index
            shown.append((made, tuple(newest)))
            full.clear()
            continue
        ready = [number for number in range(len(sources)) if left[number] and number not in full]
        if not ready:
            assert not full, "all wait for each other"
            return shown
        number = order.choice(ready)
        index, pts_s = left[number][0]
        if times.push(queues[number], frame(index, pts_s)):
            left[number].pop(0)
            assert len(queues[number].waiting) <= 4
        else:
            full.add(number)


def wanted(fps: float, sources: list[list[float]]) -> Shown:
    """Returns the same from the definition: of every source the newest picture of a canvas's time or before."""
    last = max((pts_s for source in sources for pts_s in source), default=-1.0)
    found: Shown = []
    number = 0
    while (number - 1) / fps < last:
        time_s = number / fps + 0.001
        newest = tuple(max((i for i, pts_s in enumerate(s) if pts_s <= time_s), default=None) for s in sources)
        if newest != (found[-1][1] if found else (None,) * len(sources)):
            found.append((number, newest))
        number += 1
    return found


spans_ms = st.lists(st.integers(0, 300), max_size=25)


@given(sources=st.lists(spans_ms, min_size=1, max_size=4), fps=st.sampled_from([25.0, 30.0]), seed=st.integers())
def test_canvases_do_not_depend_on_the_order_of_arrival(sources: list[list[int]], fps: float, seed: int) -> None:
    # Off the canvases' own times, which are whole thirds of a millisecond, so that rounding decides nothing.
    times_s = [list(np.cumsum(np.array([0, *source]) / 1000) + 1 / 7000) for source in sources]
    assert played(PtsSchedule(fps), times_s, random.Random(seed)) == wanted(fps, times_s)


def test_pictures_at_the_canvases_own_times_are_each_on_one() -> None:
    exact = [index / 30 for index in range(100)]
    rounded = [round(index / 30, 3) for index in range(100)]
    half = [index / 15 for index in range(50)]
    shown = played(PtsSchedule(30.0), [exact, rounded, half], random.Random(1))
    assert shown == [(number, (number, number, number // 2)) for number in range(100)]


def test_a_gap_in_the_times_makes_no_canvases() -> None:
    shown = played(PtsSchedule(30.0), [[0.0, 1e6], [0.0, 1.0]], random.Random(1))
    assert shown == [(0, (0, 0)), (30, (0, 1)), (30_000_000, (1, 1))]


def test_a_source_that_comes_later_begins_with_the_next_canvas() -> None:
    times = PtsSchedule(10.0)
    one, two = TileQueue(), TileQueue()
    for index in range(3):
        assert times.push(one, frame(index, index / 10))
    assert times.next_canvas([one], is_changed=False) == 0
    assert times.pop(one) is not None
    assert times.next_canvas([one], is_changed=False) == 1
    assert times.push(two, frame(0, 0.0))
    assert times.push(two, frame(1, 0.1))
    assert [number for number, _ in two.waiting] == [2, 3]


def test_by_the_clock_the_newest_is_shown_and_what_is_missed_is_left_out() -> None:
    now_s = [7.0]
    times = WallClockSchedule(10.0, lambda: now_s[0])
    queue = TileQueue()
    queues = [queue, TileQueue()]
    assert times.next_canvas(queues, is_changed=False) is None, "nothing to show"
    for index in range(5):
        assert times.push(queue, frame(index, 0.0)), "never full"
    assert times.next_canvas(queues, is_changed=False) == 0
    taken = times.pop(queue)
    assert taken is not None and taken.index == 4
    assert times.pop(queues[1]) is None
    times.push(queue, frame(5, 0.0))
    assert times.next_canvas(queues, is_changed=False) is None, "too early"
    assert abs(times.next_wakeup_s() - 0.1) < 0.001
    now_s[0] += 0.35
    assert abs(times.next_wakeup_s() - 0.05) < 0.001
    assert times.next_canvas(queues, is_changed=False) == 3
    assert times.pop(queue) is not None
    now_s[0] += 0.5
    assert times.next_canvas(queues, is_changed=False) is None, "nothing has changed"
    assert times.next_canvas(queues, is_changed=True) == 8
    now_s[0] += 0.9
    assert times.next_canvas(queues, is_changed=False) is None
    now_s[0] += 0.2
    assert times.next_canvas(queues, is_changed=False) == 19, "a second at most without any"


def test_by_the_clock_the_last_pictures_are_shown_at_once() -> None:
    now_s = [7.0]
    times = WallClockSchedule(10.0, lambda: now_s[0], last=41)
    queue = TileQueue()
    times.push(queue, frame(0, 0.0))
    assert times.next_canvas([queue], is_changed=False) == 42
    times.pop(queue)
    times.push(queue, frame(1, 0.0))
    queue.is_over = True
    assert times.next_canvas([queue], is_changed=False) == 43
    times.pop(queue)
    assert times.next_canvas([queue], is_changed=True) is None
