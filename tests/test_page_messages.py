"""What viewers of a stream are sent: from a key frame on, in order, and less where they are slow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.detections import Detections
from streamer.sources.packet_tap import PacketTap
from streamer.web import message_log
from streamer.web.fragments import MediaFormat
from streamer.web.live_stream import Found
from streamer.web.message_log import Message, MessageLog, Place
from streamer.web.messages import detections_message, state_message

FORMAT = MediaFormat("h264", "avc1.42C00A", (96, 64), 0.0, b"init")


def fragment(number: int, *, key: bool = False, size: int = 10) -> Message:
    return Message(number.to_bytes(size, "big"), FORMAT, key)


def add(log: MessageLog, numbers: Iterable[int], *, group: int, size: int = 10) -> None:
    for number in numbers:
        log.add(fragment(number, key=number % group == 0, size=size))


def rest(log: MessageLog, place: Place) -> list[int]:
    """Returns the numbers of the fragments that a viewer gets now."""
    found = []
    while (message := log.next(place)[0]) is not None:
        assert isinstance(message.data, bytes)
        found.append(int.from_bytes(message.data, "big"))
    return found


def test_a_viewer_begins_with_the_newest_key_frame() -> None:
    log, place = MessageLog(), Place()
    log.add(Message("{}"))
    add(log, range(3, 5), group=5)
    assert rest(log, place) == []
    add(log, range(5, 18), group=5)
    assert rest(log, place) == [15, 16, 17]
    add(log, range(18, 22), group=5)
    assert rest(log, place) == [18, 19, 20, 21]
    assert (place.skips, place.skipped_frames) == (0, 0)


def test_a_long_group_is_sent_whole_to_a_new_viewer() -> None:
    log = MessageLog()
    add(log, range(500), group=500)
    assert rest(log, Place()) == list(range(500))


def test_a_slow_viewer_goes_on_with_the_newest_key_frame() -> None:
    log, slow, quick = MessageLog(), Place(), Place()
    add(log, range(60), group=50)
    assert log.next(slow)[0] is not None  # 50
    add(log, range(60, 170), group=50)
    message, missed = log.next(slow)
    assert message is not None and message.data == fragment(150).data
    assert missed == slow.skipped_frames == 99 and slow.skips == 1
    assert rest(log, quick) == list(range(150, 170))


def test_a_viewer_behind_by_less_misses_nothing() -> None:
    log, place = MessageLog(), Place()
    add(log, range(60), group=50)
    assert log.next(place)[0] is not None
    add(log, range(60, 110), group=50)
    assert rest(log, place) == list(range(51, 110))
    assert place.skips == 0


def test_bytes_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_log, "MOST_BYTES", 1000)
    log, place = MessageLog(), Place()
    add(log, range(6), group=5, size=300)
    assert rest(log, place) == [5]
    add(log, range(6, 11), group=5, size=300)
    assert rest(log, place) == [10] and place.skipped_frames == 4


def test_what_is_kept_is_bounded_and_a_viewer_in_time_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_log, "_MOST_KEPT_BYTES", 1000)
    log, quick, slow = MessageLog(), Place(), Place()
    log.add(fragment(0, key=True, size=100))
    assert log.next(slow)[0] is not None
    for number in range(1, 100):  # no second key frame
        log.add(fragment(number, size=100))
        assert rest(log, quick)[-1:] == [number]
        assert log._held_bytes <= 1000
    assert quick.skips == 0
    assert log.next(slow) == (None, 98) or slow.skips == 1
    log.add(fragment(100, key=True, size=100))
    assert rest(log, slow) == [100]


def test_short_groups_are_kept_as_long_as_a_viewer_may_be_at_them() -> None:
    log, place = MessageLog(), Place()
    add(log, range(3), group=1)
    assert rest(log, place) == [2]
    add(log, range(3, 60), group=1)
    assert rest(log, place) == list(range(3, 60))
    add(log, range(60, 1000), group=1)
    assert len(log._kept) <= message_log.MOST_FRAMES + 1


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.booleans()), max_size=200), st.integers(1, 20))
def test_each_viewer_gets_every_fragment_or_a_later_key_frame(steps: list[tuple[bool, int, bool]], group: int) -> None:
    log, places, got = MessageLog(), [Place(), Place()], [[], []]
    number = 0
    for is_added, count, which in steps:
        if is_added:
            add(log, range(number, number + count), group=group)
            number += count
        for _ in range(count):
            message, missed = log.next(places[which])
            if message is not None:
                got[which].append((int.from_bytes(bytes(message.data), "big"), missed))
    for seen in got:
        if seen:
            assert seen[0][0] % group == 0
        for (before, _), (after, missed) in pairwise(seen):
            assert after == before + 1 + missed
            assert not missed or after % group == 0


def test_boxes_are_shares_of_the_picture_and_within_it() -> None:
    boxes = np.array([[-8, 16, 32, 64], [64, 0, 160, 32]], np.float32)
    found = Found(1, 2.5, Detections(boxes, np.array([0.98765, 0.5]), np.array([0, 2])), (128, 64))
    assert json.loads(detections_message(found, PacketTap())) == {
        "type": "detections",
        "pts_s": 2.5,
        "boxes": [[0, 0.988, 0.0, 0.25, 0.25, 1.0], [2, 0.5, 0.5, 0.0, 1.0, 0.5]],
    }


@pytest.mark.parametrize(
    ("lost_s", "has_frames", "state"),
    [(None, True, "running"), (2.04, True, "reconnecting"), (3.0, False, "connecting")],
)
def test_states_are_named(lost_s: float | None, has_frames: bool, state: str) -> None:
    said = json.loads(state_message(lost_s, has_frames=has_frames))
    assert said == {"type": "state", "state": state, "lost_s": None if lost_s is None else round(lost_s, 1)}
