"""Time stamps of packets are put right."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.sources.packet_clock import PacketClock


def times(stamps: list[float | None], step: float = 0.04) -> list[float]:
    clock = PacketClock()
    return [clock.at(stamp, stamp, step).decode_time_s for stamp in stamps]


def test_good_stamps_stay() -> None:
    clock = PacketClock()
    shown = [0.08, 0.2, 0.12, 0.16]  # as with pictures that refer to later ones
    found = [clock.at(pts, index * 0.04, 0.04) for index, pts in enumerate(shown)]
    assert [each.time_s for each in found] == pytest.approx(shown)
    assert [each.decode_time_s for each in found] == pytest.approx([0.0, 0.04, 0.08, 0.12], abs=1e-5)
    assert clock.repaired == 0


@pytest.mark.parametrize("stray", [3600.0, -5.0, 0.08, None])
def test_a_stray_stamp_moves_no_other(stray: float | None) -> None:
    stamps: list[float | None] = [index * 0.04 for index in range(10)]
    stamps[3] = stray
    found = times(stamps)
    assert found == pytest.approx([index * 0.04 for index in range(10)], abs=1e-5)


@pytest.mark.parametrize("jump", [-100.0, 95443.7])
def test_a_stream_that_moves_goes_on(jump: float) -> None:
    stamps = [index * 0.04 + (jump if index >= 5 else 0.0) for index in range(12)]
    assert times(list(stamps)) == pytest.approx([index * 0.04 for index in range(12)], abs=1e-5)


def test_first_packets_without_decoding_times_are_shown_when_they_say() -> None:
    clock = PacketClock()
    stamps = [(0.0, None), (0.133, None), (0.067, 0.0), (0.033, 0.033), (0.1, 0.067), (0.267, 0.1)]  # Matroska
    found = [clock.at(pts, dts, 0.0) for pts, dts in stamps]
    assert [each.time_s for each in found] == pytest.approx([pts for pts, _ in stamps], abs=1e-4)
    assert clock.repaired == 0


def test_a_pause_stays() -> None:
    assert times([0.0, 0.04, 3.0, 3.04]) == pytest.approx([0.0, 0.04, 3.0, 3.04])


@given(st.lists(st.tuples(*[st.none() | st.floats(-1e6, 1e6)] * 2, st.floats(0, 5)), max_size=40))
def test_decoding_times_rise_whatever_comes(packets: list[tuple[float | None, float | None, float]]) -> None:
    clock = PacketClock()
    found = [clock.at(*packet) for packet in packets]
    assert all(later.decode_time_s > earlier.decode_time_s for earlier, later in pairwise(found))
    assert all(each.time_s >= each.decode_time_s for each in found)
