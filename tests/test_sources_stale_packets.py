"""Passing over packets to stay fresh: a reader with a clock of its own, ten packets a second, a key frame a second."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from streamer.sources.stale_packets import StalePacketFilter

SECOND = 10


class Reader:
    """Reads packets as they come, or from what waits, and spends `cost_s` on each it decodes."""

    def __init__(self, *, key_every: int | None = SECOND) -> None:
        self.took: list[int] = []
        self.behind_s: list[float] = []
        self._backlog = StalePacketFilter()
        self._key_every = key_every
        self._now_s = 0.0

    def read(
        self, numbers: range, *, cost_s: float, stamp: Callable[[int], float | None] = lambda number: number / SECOND
    ) -> None:
        for number in numbers:
            sent_s = number / SECOND
            waited_s = max(0.0, sent_s - self._now_s)
            self._now_s += waited_s
            is_key = self._key_every is not None and number % self._key_every == 0
            if not self._backlog.should_skip(stamp(number), is_key, self._now_s, waited_s):
                self.took.append(number)
                self.behind_s.append(self._now_s - sent_s)
                self._now_s += cost_s


def test_a_reader_in_time_takes_everything() -> None:
    reader = Reader()
    reader.read(range(300), cost_s=0.09)
    assert reader.took == list(range(300))


def test_a_moment_of_work_is_caught_up_without_loss() -> None:
    reader = Reader()
    reader.read(range(100), cost_s=0.01)
    reader.read(range(100, 110), cost_s=0.2)
    reader.read(range(110, 300), cost_s=0.01)
    assert reader.took == list(range(300))


def test_a_burst_on_joining_is_not_behind() -> None:
    backlog = StalePacketFilter()
    assert not any(backlog.should_skip(number / 10, number % 10 == 0, 5 + number / 1000, 0.0) for number in range(100))


def test_a_reader_too_slow_stays_within_a_key_frame_interval() -> None:
    reader = Reader()
    reader.read(range(20_000), cost_s=0.15)
    assert 0.5 < len(reader.took) / 20_000 < 0.8
    assert max(reader.behind_s) < 1.0 + 0.5 + 0.2
    resumed = [later for before, later in itertools.pairwise(reader.took) if later != before + 1]
    assert len(resumed) > 100
    assert all(number % SECOND == 0 for number in resumed)


def test_a_clock_that_drifts_is_not_behind() -> None:
    reader = Reader()
    reader.read(range(100_000), cost_s=0.01, stamp=lambda number: number / SECOND * 0.999)
    assert len(reader.took) == 100_000


def test_a_clock_that_is_set_anew_is_not_behind() -> None:
    reader = Reader()
    reader.read(range(100), cost_s=0.01, stamp=lambda number: 100 + number / SECOND)
    reader.read(range(100, 200), cost_s=0.01)
    assert reader.took == list(range(200))


def test_a_stream_without_key_frames_or_stamps_is_read_whole() -> None:
    reader = Reader(key_every=None)
    reader.read(range(200), cost_s=0.5)
    assert reader.took == list(range(200))
    reader = Reader()
    reader.read(range(200), cost_s=0.5, stamp=lambda _: None)
    assert reader.took == list(range(200))
