"""A source's index and time across connections that each start at 0."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.frame import Frame
from streamer.sources.timeline import ContinuousTimeline

PIXELS = np.zeros((2, 2, 3), np.uint8)
CONNECTION = st.tuples(st.integers(0, 9), st.floats(0, 100), st.floats(0, 10), st.integers(1, 5))


@given(st.lists(CONNECTION, min_size=1, max_size=5))
def test_neither_goes_back_whatever_a_connection_begins_with(connections: list[tuple[int, float, float, int]]) -> None:
    timeline, placed, now_s = ContinuousTimeline(), [], 1000.0
    for first_index, first_pts_s, away_s, count in connections:
        now_s += away_s
        frames = [Frame(PIXELS, "x", first_index + n, first_pts_s + 3 * n, now_s) for n in range(count)]
        timeline.rebase(frames[0])
        assert timeline.is_started
        placed += [timeline.apply(frame) for frame in frames]  # given out faster than they were filmed
    pts_s = [frame.pts_s for frame in placed]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(pts_s))
    assert [frame.index for frame in placed] == list(range(connections[0][0], connections[0][0] + len(placed)))


def test_an_outage_is_in_the_time() -> None:
    timeline = ContinuousTimeline()
    for index, at_s, wanted_s in ((0, 50.0, 0.0), (0, 62.0, 12.0)):
        frame = Frame(PIXELS, "x", index, 0.0, at_s)
        timeline.rebase(frame)
        assert timeline.apply(frame).pts_s == wanted_s
