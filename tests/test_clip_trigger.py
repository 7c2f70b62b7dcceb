"""When events begin and end, and which of them share a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import ConfigError
from streamer.frames.detections import Detections
from streamer.sinks.clips.spans import ClipSpans
from streamer.sinks.clips.trigger import ChangeKind, Event, EventChange, LabelTrigger, checked_labels

LABELS = ("person", "car", "cat")
BEGIN, UPDATE, END = ChangeKind.BEGIN, ChangeKind.UPDATE, ChangeKind.END


def found(scores: Sequence[tuple[int, float]], *, reused: bool = False) -> Detections:
    boxes = np.tile(np.array([[10, 10, 20, 20]], np.float32), (len(scores), 1))
    values = np.array([score for _, score in scores], np.float32)
    detections = Detections(boxes, values, np.array([class_id for class_id, _ in scores], np.int64))
    return detections.reused() if reused else detections


def kinds(trigger: LabelTrigger, scores: Sequence[float | None]) -> str:
    """Returns a letter for what each frame, a second apart, changes for a person of that score: B, U, E or a dot."""
    told = []
    for at, score in enumerate(scores):
        changes = trigger.update(float(at), found([] if score is None else [(0, score)]))
        told.append("".join(change.kind.name[0] for change in changes) or ".")
    return "".join(told)


def persons(frames: int = 3) -> LabelTrigger:
    return LabelTrigger(LABELS, {"person": 0.6}, frames)


@pytest.mark.parametrize(
    ("frames", "scores", "told"),
    [
        (3, [], ""),
        (3, [0.7, 0.7, 0.7, 0.7], "..BU"),
        (1, [0.7, None, 0.7], "B.U"),
        (3, [0.7, None, 0.7, None, 0.7], "....B"),
        (3, [0.7, 0.7, None, None, 0.7, 0.7], "......"),
        (3, [0.5, 0.59, 0.55, 0.5], "...."),
        (3, [0.7, 0.7, 0.7, 0.52, 0.51, None, 0.51], "..BUU.U"),
        (3, [0.7, 0.7, 0.7, 0.45, 0.45, 0.45], "..B..E"),
        (3, [0.7, 0.55, 0.7, 0.55, 0.55, 0.7], "......"),
        (1, [0.7, None, None, 0.7], "B.EB"),
        (2, [0.7, 0.7, None, 0.7, None, None, 0.7], ".B.U.E."),
    ],
)
def test_an_event_begins_goes_on_and_ends(frames: int, scores: list[float | None], told: str) -> None:
    assert kinds(persons(frames), scores) == told


def test_an_event_counts_from_its_first_frame_and_ends_with_its_last() -> None:
    trigger = persons()
    changes = [change for at in range(5) for change in trigger.update(at / 10, found([(0, 0.6 + at / 100)]))]
    changes += [change for at in range(5, 9) for change in trigger.update(at / 10, found([]))]
    assert [change.kind for change in changes] == [BEGIN, UPDATE, UPDATE, END]
    first, last = changes[0].event, changes[-1].event
    assert (first.begin_s, first.last_s) == (0.0, 0.2)
    assert (last.begin_s, last.last_s, last.score) == (0.0, 0.4, pytest.approx(0.64))


def test_frames_that_the_detector_skipped_change_nothing() -> None:
    trigger = persons(2)
    assert not trigger.update(0.0, found([(0, 0.9)]))
    for at in range(1, 5):
        assert not trigger.update(at / 10, found([(0, 0.9)], reused=True))
    assert trigger.unreported_s == 0.0
    assert trigger.update(0.5, found([(0, 0.9)]))[0].kind is BEGIN


def test_labels_are_events_of_their_own() -> None:
    trigger = LabelTrigger(LABELS, {"person": 0.5, "car": 0.5}, 1)
    first = trigger.update(0.0, found([(0, 0.9), (2, 0.9)]))
    second = trigger.update(0.1, found([(0, 0.9), (1, 0.8), (1, 0.6)]))
    assert [(change.kind, change.event.label) for change in (*first, *second)] == [
        (BEGIN, "person"), (UPDATE, "person"), (BEGIN, "car"),
    ]  # fmt: skip
    assert second[1].event.score == pytest.approx(0.8)
    assert [change.event.label for change in trigger.finish()] == ["person", "car"]
    assert not trigger.finish()


def test_without_labels_all_that_is_detected_is_an_event() -> None:
    assert LabelTrigger(LABELS, None, 1).update(0.0, found([(2, 0.05)]))[0].event.label == "cat"


def test_an_outage_ends_events_with_their_last_frame() -> None:
    trigger = persons(1)
    for at in range(5):
        trigger.update(at / 10, found([(0, 0.9)]))
    changes = trigger.update(60.0, found([(0, 0.9)]))
    assert [(change.kind, change.event.last_s) for change in changes] == [(END, 0.4), (BEGIN, 60.0)]


def test_frames_far_apart_are_no_outage_where_they_always_are() -> None:
    assert kinds(persons(), [0.7] * 3) == "..B"
    trigger = persons()
    told = [trigger.update(at * 60.0, found([(0, 0.9)])) for at in range(4)]
    assert [bool(changes) for changes in told] == [False, False, True, True]


def test_what_is_relevant_are_objects_that_can_be_part_of_an_event() -> None:
    trigger = LabelTrigger(LABELS, {"person": 0.6}, 1)
    assert trigger.relevant(found([(0, 0.55), (0, 0.45), (1, 0.99)])).scores.tolist() == pytest.approx([0.55])


def test_a_number_of_frames_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="from 1 on"):
        LabelTrigger(LABELS, None, 0)


@pytest.mark.parametrize(("name", "label"), [("person", "person"), ("Person", "person"), ("1", "car")])
def test_labels_are_found_in_any_case_and_by_number(name: str, label: str) -> None:
    assert checked_labels({name: 0.5}, LABELS) == {label: 0.5}


def test_an_unknown_label_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no class 'persn'; did you mean 'person'"):
        checked_labels({"persn": 0.5}, LABELS)


frames_of = st.lists(
    st.tuples(
        st.floats(0.01, 30.0),
        st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 1.0, width=32)), max_size=4),
        st.booleans(),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(frames_of, st.integers(1, 5))
def test_whatever_comes_events_are_whole(frames: list[tuple[float, list[tuple[int, float]], bool]], count: int) -> None:
    trigger = LabelTrigger(LABELS, {"person": 0.5, "car": 0.3}, count)
    running: dict[str, Event] = {}
    numbers: list[int] = []
    now_s, earliest_s = 0.0, -math.inf
    for step_s, scores, reused in frames:
        now_s += step_s
        for kind, event in [(each.kind, each.event) for each in trigger.update(now_s, found(scores, reused=reused))]:
            assert event.label in ("person", "car") and event.begin_s <= event.last_s <= now_s
            if kind is BEGIN:
                assert event.label not in running and event.begin_s >= earliest_s
                numbers.append(event.number)
            else:
                assert running[event.label].number == event.number
                assert event.last_s >= running[event.label].last_s
            running[event.label] = event
            if kind is END:
                del running[event.label]
        earliest_s = min(now_s, trigger.unreported_s)
    assert {each.event.number for each in trigger.finish()} == {event.number for event in running.values()}
    assert numbers == list(range(len(numbers)))
    assert trigger.unreported_s == math.inf


event_lengths = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.sampled_from(LABELS)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(event_lengths, st.integers(0, 10), st.integers(0, 10))
def test_each_event_is_in_one_span_and_spans_never_touch(
    lengths: list[tuple[int, int, str]], before: int, after: int
) -> None:
    """Events may overlap in any way; each is reported two ticks after its first frame."""
    events, begin = [], 0
    for number, (pause, length, label) in enumerate(lengths):
        begin += pause
        events.append(Event(number, label, float(begin), float(begin + length + 2), 0.5))
    spans, ended = ClipSpans(before, after), []
    last = max((int(event.last_s) for event in events), default=0)
    for tick in range(last + 4):
        changes = []
        for event in events:
            if tick == event.begin_s + 2:
                changes.append(EventChange(BEGIN, Event(event.number, event.label, event.begin_s, tick, 0.5)))
            elif event.begin_s + 2 < tick <= event.last_s:
                changes.append(EventChange(UPDATE, Event(event.number, event.label, event.begin_s, tick, 0.5)))
            elif tick == event.last_s + 1:
                changes.append(EventChange(END, event))
        pending = [event.begin_s for event in events if event.begin_s <= tick < event.begin_s + 2]
        ended += spans.update(changes, min([float(tick), *pending]))
    ended += spans.update([], math.inf)
    assert spans.open is None
    for event in events:
        holding = [
            each for each in ended if each.begin_s <= event.begin_s - before and event.last_s + after <= each.end_s
        ]
        assert len(holding) == 1 and event.label in holding[0].labels
    for one, other in pairwise(ended):
        assert one.end_s < other.begin_s
    assert all(
        any(each.begin_s == event.begin_s - before for event in events)
        and any(each.end_s == event.last_s + after for event in events)
        for each in ended
    )


def test_an_event_after_the_clip_before_its_lead_in_is_one_of_its_own() -> None:
    spans = ClipSpans(2.0, 1.0)
    one, other = Event(0, "cat", 10.0, 12.0, 0.5), Event(1, "car", 16.0, 16.2, 0.5)
    assert not spans.update([EventChange(BEGIN, one)], 12.0)
    assert not spans.update([EventChange(END, one)], 14.9)
    ended = spans.update([EventChange(BEGIN, other)], 16.0)
    assert [(each.begin_s, each.end_s, each.labels) for each in ended] == [(8.0, 13.0, ["cat"])]
    assert spans.open is not None and (spans.open.begin_s, spans.open.end_s) == (14.0, pytest.approx(17.2))
