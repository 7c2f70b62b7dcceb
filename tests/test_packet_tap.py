"""The last seconds of packets: what is kept, what readers get, and what slow ones lose."""

from __future__ import annotations

import contextlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.queues import Closed
from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sources.packet_tap import PacketFeed, PacketReader, PacketTap

VIDEO = PacketFormat("video", "h264", b"", (64, 48))
SOUND = PacketFormat("audio", "aac", b"", rate=8000, channels=1)


def packet(time_s: float, *, key: bool = False, size: int = 10, sound: bool = False) -> MediaPacket:
    return MediaPacket(SOUND if sound else VIDEO, bytes(size), time_s, time_s, 0.1, key or sound, time_s)


def pushed(tap: PacketTap, count: int, *, group: int = 5, size: int = 10, begin: int = 0) -> None:
    for index in range(begin, begin + count):
        tap.push(packet(index / 10, key=index % group == 0, size=size))


def read_all(reader: PacketReader) -> list[float]:
    found = []
    while (each := reader.read(0)) is not None:
        found.append(each.time_s)
    return found


def test_keeps_the_group_that_the_length_begins_in() -> None:
    tap = PacketTap(1.0)
    pushed(tap, 33)
    assert read_all(tap.read_from(0)) == [index / 10 for index in range(20, 33)]  # 3.2 - 1.0 lies in the group from 2.0
    assert tap.held_bytes == 130 and tap.held_s == pytest.approx(1.2)


def test_begins_with_the_key_frame_before_the_time_asked_for() -> None:
    tap = PacketTap(15.0)
    pushed(tap, 23)
    assert read_all(tap.read_from(1.3))[0] == 1.0
    assert read_all(tap.read_from(2.2))[0] == 2.0
    assert read_all(tap.read_from(-9.0))[0] == 0.0


def test_without_a_time_the_next_key_frame_is_first() -> None:
    tap = PacketTap(15.0)
    pushed(tap, 13)
    reader = tap.read_from()
    assert reader.read(0) is None
    pushed(tap, 5, begin=13)
    assert read_all(reader) == [1.5, 1.6, 1.7]
    assert reader.lost == 0


def test_nothing_before_the_first_key_frame_is_kept() -> None:
    tap = PacketTap(15.0)
    tap.push(packet(0.0))
    tap.push(packet(0.05, sound=True))
    assert tap.held_bytes == 0
    pushed(tap, 3)
    assert read_all(tap.read_from(0)) == [0.0, 0.1, 0.2]


def test_size_bounds_what_is_kept() -> None:
    tap = PacketTap(100.0, max_bytes=120)
    pushed(tap, 30)
    assert tap.held_bytes <= 120
    assert read_all(tap.read_from(0))[0] == 2.0
    pushed(tap, 40, group=1000, begin=1000)  # one group larger than that
    assert tap.held_bytes <= 120


def test_a_slow_reader_goes_on_at_a_key_frame_and_counts_what_it_lost() -> None:
    tap = PacketTap(1.0)
    reader = tap.read_from()
    pushed(tap, 12)
    assert [reader.read(0).time_s for _ in range(2)] == [0.0, 0.1]  # type: ignore[union-attr]
    pushed(tap, 40, begin=12)
    first = reader.read(0)
    assert first is not None and first.is_key and first.time_s == 4.0
    assert reader.lost == 38


def test_readers_get_the_same_objects() -> None:
    tap = PacketTap(5.0)
    one, other = tap.read_from(), tap.read_from()
    pushed(tap, 4)
    assert all(one.read(0) is other.read(0) for _ in range(4))


def test_the_end_comes_after_what_is_left() -> None:
    tap = PacketTap(5.0)
    reader = tap.read_from()
    pushed(tap, 2)
    tap.close()
    assert read_two(reader) == [0.0, 0.1]
    with pytest.raises(Closed):
        reader.read()
    pushed(tap, 2)
    assert tap.held_bytes == 20


def read_two(reader: PacketReader) -> list[float]:
    return [reader.read(1).time_s for _ in range(2)]  # type: ignore[union-attr]


def test_readers_are_woken() -> None:
    tap = PacketTap(5.0)
    calls: list[int] = []
    reader = tap.read_from(wake=lambda: calls.append(1))
    pushed(tap, 3)
    reader.close()
    pushed(tap, 3, begin=3)
    assert len(calls) == 3
    found: list[float] = []
    waiting = tap.read_from()
    thread = threading.Thread(target=lambda: found.extend(read_two(waiting)))
    thread.start()
    pushed(tap, 2, begin=10)
    thread.join(10)
    assert found == [1.0, 1.1]


def test_a_connection_begins_with_a_key_frame_at_its_place() -> None:
    tap = PacketTap(5.0)
    feed = PacketFeed()
    feed.push(packet(0.0))
    feed.push(packet(0.1, key=True))
    assert tap.held_bytes == 0
    feed.attach(tap, 100.0)
    feed.push(packet(0.2))
    assert read_all(tap.read_from(0)) == [100.1, 100.2]
    feed.stop()
    feed.push(packet(0.3, key=True))
    assert tap.held_bytes == 20


def test_what_starts_over_moves() -> None:
    tap = PacketTap(5.0)
    feed = PacketFeed()
    feed.push(packet(0.0, key=True))
    feed.attach(tap, 100.0)
    feed.push(packet(0.1, key=True))
    feed.attach(tap, -0.1)
    feed.push(packet(0.2))
    assert read_all(tap.read_from(-9)) == pytest.approx([-0.1, 0.0, 0.1])
    assert read_all(tap.read_from(0.05)) == pytest.approx([0.0, 0.1])


def test_pushing_waits_for_a_patient_reader() -> None:
    tap = PacketTap(1.0)
    reader = tap.read_from(is_patient=True)
    thread = threading.Thread(target=lambda: (pushed(tap, 200), tap.close()))
    thread.start()
    found = []
    with contextlib.suppress(Closed):
        while (each := reader.read(10)) is not None:
            found.append(each.time_s)
    thread.join(10)
    assert found == [index / 10 for index in range(200)] and reader.lost == 0


def test_pushing_doesnt_wait_once_a_patient_reader_is_closed() -> None:
    tap = PacketTap(1.0)
    reader = tap.read_from(is_patient=True)
    thread = threading.Thread(target=pushed, args=(tap, 100))
    thread.start()
    reader.close()
    thread.join(10)
    assert not thread.is_alive() and tap.held_s <= 1.6


def test_what_is_held_back_is_bounded() -> None:
    tap = PacketTap(5.0)
    feed = PacketFeed(max_waiting_bytes=50)
    for index in range(20):
        feed.push(packet(index / 10, key=index % 2 == 0))
    feed.attach(tap, 0.0)
    assert tap.held_bytes <= 50


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 60), st.integers(0, 3)), max_size=120),
    st.floats(0.1, 3), st.integers(20, 400),
)  # fmt: skip
def test_any_reader_gets_packets_in_order_and_from_key_frames(
    packets: list[tuple[bool, bool, int, int]], kept_s: float, most: int
) -> None:
    tap = PacketTap(kept_s, most)
    reader = tap.read_from()
    seen: list[MediaPacket] = []
    pushed_all: list[MediaPacket] = []
    for index, (key, sound, size, reads) in enumerate(packets):
        each = packet(index / 10, key=key and not sound, size=size, sound=sound)
        pushed_all.append(each)
        tap.push(each)
        assert tap.held_bytes <= most
        for _ in range(reads):
            lost = reader.lost
            found = reader.read(0)
            if found is None:
                break
            if not seen or reader.lost > lost:
                assert found.is_video and found.is_key
            elif seen:
                assert pushed_all.index(found) == pushed_all.index(seen[-1]) + 1
            seen.append(found)
    assert [each.time_s for each in seen] == sorted(each.time_s for each in seen)


def test_frames_that_are_later_than_their_packets_find_them() -> None:
    tap = PacketTap(15.0)
    feed = PacketFeed()
    feed.push(packet(0.0, key=True))
    feed.note_lead(0.0, 0.0)
    feed.attach(tap, 10.0)
    feed.note_lead(2.0, -3.0)
    feed.note_lead(4.0, -3.0)
    assert [tap.time_of(each) for each in (9.0, 10.0, 11.9, 12.0, 15.0)] == [9.0, 10.0, 11.9, 15.0, 18.0]
    feed.attach(tap, 11.0)  # moves what is kept
    assert tap.time_of(13.0) == 16.0
    PacketFeed().attach(tap, 20.0)  # another connection
    assert tap.time_of(21.0) == 21.0
    for number in range(10_000):
        tap.note_lead(30.0 + number, number)
    assert tap.time_of(10_029.0) == 30.0
