"""A live stream's time where its stamps are stray, jump, stand still, drift or come in bursts."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.logs import LogLimit
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions, open_source
from streamer.sources.arrival_clock import ArrivalClock
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

FPS = 10
Stamp = Callable[[int], float | None]


def times(
    clock: ArrivalClock, count: int, stamp: Stamp, *, arrival: Callable[[int], float] = lambda number: number / FPS
) -> list[float]:
    """Returns the times of `count` frames that are filmed ten a second, and waited for if they come one by one."""
    found, before_s = [], float("-inf")
    for number in range(count):
        arrived_s = 1000.0 + arrival(number)
        found.append(clock.at(stamp(number), arrived_s, waited=arrived_s - before_s > 0.003))
        before_s = arrived_s
    return found


def in_step(count: int) -> list[float]:
    return pytest.approx([number / FPS for number in range(count)])  # type: ignore[return-value]


@pytest.mark.parametrize("first_s", [0.0, 5000.0, -3.0])
def test_stamps_that_fit_are_kept(first_s: float) -> None:
    clock = ArrivalClock(1 / FPS)
    assert times(clock, 1000, lambda number: first_s + number / FPS) == in_step(1000)
    assert clock.misfits == 0


@pytest.mark.parametrize("off_s", [37_600.0, 60.0, 5.0, 1.0, -0.5, -60.0, -9800.0, 1e12])
@pytest.mark.parametrize("every", [3, 20])
def test_a_stray_stamp_shifts_nothing(off_s: float, every: int) -> None:
    clock = ArrivalClock(1 / FPS)
    found = times(clock, 300, lambda number: number / FPS + (off_s if number and number % every == 0 else 0.0))
    assert found == in_step(300)
    assert clock.misfits == 299 // every
    assert clock.last_misfit_s == pytest.approx(off_s)


@pytest.mark.parametrize("off_s", [37_600.0, 2.0, -2.0, -47_721.0, -95_443.7])
def test_a_step_of_the_sender_is_followed(off_s: float) -> None:
    clock = ArrivalClock(1 / FPS)
    found = times(clock, 300, lambda number: number / FPS + (off_s if number >= 100 else 0.0))
    assert found == in_step(300)
    assert clock.misfits == 2


def test_the_first_stamp_may_be_the_stray_one() -> None:
    assert times(ArrivalClock(1 / FPS), 50, lambda number: 500.0 if number == 0 else number / FPS) == in_step(50)


@pytest.mark.parametrize("off_s", [37_600.0, 60.0])
def test_stray_stamps_in_pairs_shift_nothing(off_s: float) -> None:
    found = times(
        ArrivalClock(1 / FPS), 300, lambda number: number / FPS + (off_s if number and number % 20 < 2 else 0.0)
    )
    assert found == in_step(300)


@pytest.mark.parametrize(
    "stamp",
    [
        lambda number: None,
        lambda number: number / FPS if number % 7 == 0 else None,
        lambda number: None if number < 3 else 50 + number / FPS,
        lambda number: 4.0,
        lambda number: min(number, 40) / FPS,
        lambda number: number // 2 * 2 / FPS,
    ],
    ids=["none", "some", "later", "constant", "stuck", "doubled"],
)
def test_stamps_that_are_missing_or_repeated_are_replaced_by_arrival(stamp: Stamp) -> None:
    assert times(ArrivalClock(1 / FPS), 200, stamp) == in_step(200)


@pytest.mark.parametrize("repeated_s", [0.0, 0.05])
def test_frames_that_lay_there_follow_each_other_in_time(repeated_s: float) -> None:
    clock = ArrivalClock(0.05)  # as FFmpeg gives an RTSP stream: the first without a stamp
    stamps = [None, 0.05, repeated_s, 0.15, 0.2, 0.25]
    found = [clock.at(stamp, 1000.0 + number * 0.001, waited=False) for number, stamp in enumerate(stamps)]
    assert found == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25])


def test_pauses_round_key_frames_keep_their_spacing() -> None:
    def arrival(number: int) -> float:  # a key frame a second takes half a second on the wire, and holds up the others
        return max(number / FPS, number // 10 + 0.5 + number % 10 * 0.001)

    clock = ArrivalClock(1 / FPS)
    assert times(clock, 600, lambda number: number / FPS, arrival=arrival) == in_step(600)
    assert clock.misfits == 0


def test_pictures_that_were_filmed_with_pauses_keep_their_spacing() -> None:
    filmed_s = [number + late for number in range(60) for late in (0.0, 0.45, 0.5, 0.55)]
    clock = ArrivalClock(1 / 25)
    found = times(clock, len(filmed_s), filmed_s.__getitem__, arrival=filmed_s.__getitem__)
    assert found == pytest.approx(filmed_s)


def test_an_outage_that_is_caught_up_keeps_its_spacing() -> None:
    def arrival(number: int) -> float:
        return 35.0 + number * 0.0001 if 200 <= number < 350 else number / FPS

    clock = ArrivalClock(1 / FPS)
    assert times(clock, 600, lambda number: number / FPS, arrival=arrival) == in_step(600)


def test_a_stray_stamp_after_an_outage_holds_nothing_up() -> None:
    def arrival(number: int) -> float:
        return 35.0 + number * 0.0001 if 200 <= number < 350 else number / FPS

    stamps = [number / FPS + 60.0 * (number == 200) for number in range(600)]
    assert times(ArrivalClock(1 / FPS), 600, stamps.__getitem__, arrival=arrival) == in_step(600)


def test_what_a_server_had_buffered_keeps_its_spacing() -> None:
    def arrival(number: int) -> float:  # as HLS: 18 s at once, then 6 s every 6 s
        return number * 0.001 if number < 180 else (number - 120) // 60 * 6.0 + number % 60 * 0.001

    clock = ArrivalClock(1 / FPS)
    found = times(clock, 1200, lambda number: number / FPS, arrival=arrival)
    assert found == in_step(1200)


@pytest.mark.parametrize("rate", [0.95, 0.97, 1.001, 1.03, 1.05, 2.0])
def test_a_clock_that_drifts_stays_near_arrival(rate: float) -> None:
    count = 20_000
    found = times(ArrivalClock(1 / FPS), count, lambda number: number * rate / FPS)
    off_s = [at_s - number / FPS for number, at_s in enumerate(found)]
    assert -2.0 < min(off_s) and max(off_s) <= 1.0 + 1e-6
    steps_s = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert max(steps_s) < 0.1 * rate * 1.06 and (rate > 1.9 or min(steps_s) > 0.09)


def test_a_clock_at_half_speed_is_brought_back() -> None:
    found = times(ArrivalClock(1 / FPS), 20_000, lambda number: number / FPS / 2)
    assert all(number / FPS - 26.0 < at_s <= number / FPS + 1e-6 for number, at_s in enumerate(found))


def test_a_reader_that_is_too_slow_keeps_the_spacing() -> None:
    found = times(ArrivalClock(1 / FPS), 3000, lambda number: number / FPS, arrival=lambda number: number / 3)
    assert found != in_step(3000)  # each is waited for, as far as the clock knows
    clock = ArrivalClock(1 / FPS)
    assert [clock.at(number / FPS, number / 3, waited=False) for number in range(3000)] == in_step(3000)


STAMP = st.one_of(st.none(), st.floats(-1e13, 1e13), st.floats(0, 20), st.sampled_from([0.0, 1.0, 5.0]))
FRAME = st.tuples(STAMP, st.floats(0, 3), st.booleans())


@given(st.lists(FRAME, min_size=1, max_size=60))
def test_time_is_finite_and_never_goes_back_or_ahead_of_arrival(
    frames: Sequence[tuple[float | None, float, bool]],
) -> None:
    clock, now_s, last_s = ArrivalClock(0.04), 77.0, 0.0
    for number, (stamp_s, passed_s, waited) in enumerate(frames):
        now_s += passed_s if number else 0.0
        at_s = clock.at(stamp_s, now_s, waited=waited)
        assert last_s <= at_s <= now_s - 77.0 + 31.0 + 1e-3
        last_s = at_s


@pytest.mark.parametrize("policy", list(OverflowPolicy))
@pytest.mark.parametrize("off_s", [37_600.0, 60.0, 5.0, -60.0])
def test_a_camera_with_stray_stamps(off_s: float, policy: OverflowPolicy, caplog: pytest.LogCaptureFixture) -> None:
    with RtspServer(Loop(fps=60)) as server, caplog.at_level(logging.WARNING):
        server.stamp_off_s = lambda number: off_s if number and number % 20 == 0 else 0.0
        options = SourceOptions(overflow_policy=policy, open_timeout_s=60.0, stall_timeout_s=60.0)
        with open_source(server.url, options=options) as source:
            frames = list(islice(source, 100))
    began_s = frames[0].captured_at_s
    for frame in frames:  # as it was filmed, or as it came where this machine was too busy to send or read it in time
        assert frame.pts_s <= max(frame.index / 60, frame.captured_at_s - began_s) + 1.0
    assert [frame.pts_s for frame in frames] == sorted(frame.pts_s for frame in frames)
    (line,) = [record.getMessage() for record in caplog.records if "time stamp" in record.getMessage()]
    assert "off its frame's arrival (1 so far); such frames are timed by arrival" in line


def test_what_is_said_seldom() -> None:
    now_s = [0.0]
    seldom = LogLimit(60.0, clock=lambda: now_s[0])
    said = []
    for now_s[0] in (0.0, 59.0, 60.0, 61.0, 200.0, 210.0):
        said.append(seldom.is_due())
    assert said == [True, False, True, False, True, False]
