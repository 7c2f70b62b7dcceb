"""Ids of objects: by the packaged clip, by the trackers' scores, across dropped frames, interruptions and streams."""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.app.config import StreamConfig
from streamer.app.run import run
from streamer.common.errors import ConfigError
from streamer.detector import open_detector
from streamer.detector.filter_options import ClassThresholds
from streamer.frames.detections import NO_TRACK, Detections
from streamer.frames.frame import Frame
from streamer.sources import open_source
from streamer.tracking.options import TRACKERS, chosen_tracker, continuing, said_of
from streamer.tracking.tracker import Tracker

LABELS = ("person", "car")
PICTURE = np.zeros((360, 640, 3), np.uint8)


def frame_at(pts_s: float) -> Frame:
    return Frame(PICTURE, "door", round(pts_s * 1000), pts_s, 0.0)


def found(*boxes: tuple[float, float, int]) -> Detections:
    """Returns squares of 60 pixels, each by its left edge, its score and its class."""
    edges = np.array([(left, 100, left + 60, 160) for left, _, _ in boxes], np.float32).reshape(-1, 4)
    scores, class_ids = np.array([s for _, s, _ in boxes]), np.array([c for _, _, c in boxes], np.int64)
    return Detections(edges, scores, class_ids, labels=LABELS)


def ids_of(tracker: Tracker, times_s: Sequence[float], boxes: Callable[[float], Detections]) -> list[list[int]]:
    tracked = [tracker.update(frame_at(t), boxes(t)) for t in times_s]
    return [[] if each.track_ids is None else each.track_ids.tolist() for each in tracked]


@lru_cache
def sample() -> list[tuple[Frame, Detections]]:
    """Returns every third frame of the packaged clip, without its pixels, and what is found from 0.1 on."""
    with open_detector(conf=0.1) as detector, open_source("sample") as source:
        frames = itertools.islice(source, 0, None, 3)
        pairs = list(detector.stream(frames))
    return [(Frame(PICTURE, f.source, f.index, f.pts_s, 0.0), detections) for f, detections in pairs]


def tracks_of(pairs: Sequence[tuple[Frame, Detections]], tracker: Tracker) -> dict[tuple[str, int], list[int]]:
    frames = defaultdict(list)
    for frame, detections in pairs:
        for one in tracker.update(frame, detections):
            if one.track_id is not None:
                frames[one.label, one.track_id].append(frame.index)
    return dict(frames)


@pytest.mark.parametrize("name", TRACKERS)
def test_ids_of_the_packaged_clip_stay(name: str) -> None:
    tracks = tracks_of(sample(), Tracker(name))

    people = [(frames[0], frames[-1]) for (label, _), frames in tracks.items() if label == "person" and len(frames) > 9]
    cats = [frames for (label, _), frames in tracks.items() if label == "cat"]
    (_, astronaut_ends), (cameraman_begins, _) = people
    assert 60 < astronaut_ends < 100 and 200 < cameraman_begins < 230
    assert len(cats) == 1 and len(cats[0]) > 35


@pytest.mark.parametrize("name", TRACKERS)
def test_ids_are_equal_in_each_run_and_beside_other_streams(name: str) -> None:
    alone = tracks_of(sample(), Tracker(name))
    together: dict[int, dict[tuple[str, int], list[int]]] = {}

    def follow(number: int) -> None:
        together[number] = tracks_of(sample()[number:], Tracker(name))

    threads = [threading.Thread(target=follow, args=(number % 2 * 7,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together[0] == alone
    assert together[7] == tracks_of(sample()[7:], Tracker(name))


@pytest.mark.parametrize("name", TRACKERS)
def test_dropped_frames_break_no_track(name: str) -> None:
    kept = [pair for pair, is_kept in zip(sample(), np.random.default_rng(3).random(100) < 0.7, strict=True) if is_kept]

    tracks = tracks_of(kept, Tracker(name))

    assert len([frames for (label, _), frames in tracks.items() if label == "cat"]) == 1
    assert len([frames for (label, _), frames in tracks.items() if label == "person" and len(frames) > 9]) == 2


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize("conf", [0.05, 0.3, 0.65, 0.9])
def test_every_box_that_is_shown_has_an_id_from_its_second_frame_on(name: str, conf: float) -> None:
    ids = ids_of(Tracker(name, conf=conf), np.arange(10) / 10, lambda t: found((20 + 30 * t, conf + 0.01, 0)))

    assert ids == [[NO_TRACK], *[[1]] * 9]


@pytest.mark.parametrize("name", ["bytetrack", "botsort"])
def test_low_scores_continue_a_track_unseen(name: str) -> None:
    def boxes(t: float) -> Detections:
        return found((20 + 60 * t, 0.9 if t < 1 or t > 3 else 0.15, 0))

    ids = ids_of(Tracker(name, conf=0.5), np.arange(50) / 10, boxes)

    assert ids[9:31] == [[1], *[[]] * 21]
    assert ids[-1] == [1]


def test_each_class_has_its_own_score() -> None:
    tracker = Tracker(conf=ClassThresholds(0.8, (("car", 0.3),)), labels=LABELS)

    ids = ids_of(tracker, [0, 0.1, 0.2], lambda t: found((20, 0.7, 0), (300, 0.4, 1)))

    assert ids == [[NO_TRACK], [1], [1]]  # the person is below its score


def test_an_id_keeps_its_class_where_two_boxes_lie_on_each_other() -> None:
    tracker = Tracker()
    steps = [tracker.update(frame_at(n / 10), found((20, 0.6 + n % 2 / 5, 0), (21, 0.7, 1))) for n in range(20)]

    of_class = defaultdict(set)
    for each in steps[1:]:
        for one in each:
            of_class[one.label].add(one.track_id)
    assert all(len(ids) == 1 for ids in of_class.values()) and of_class["person"] != of_class["car"]


@pytest.mark.parametrize("name", TRACKERS)
def test_an_interruption_within_a_second_keeps_ids_and_a_longer_one_ends_them(name: str) -> None:
    tracker = Tracker(name)

    short = ids_of(tracker, [0, 0.1, 0.2, 0.9, 1.0], lambda t: found((20, 0.9, 0)))
    long = ids_of(tracker, [9.0, 9.1], lambda t: found((20, 0.9, 0)))

    assert short == [[NO_TRACK], [1], [1], [1], [1]]
    assert long == [[NO_TRACK], [2]]


def test_a_clock_that_goes_back_begins_anew_with_new_ids(recwarn: pytest.WarningsRecorder) -> None:
    tracker = Tracker()

    assert ids_of(tracker, [5, 5.1, 1, 1.1, 1.1], lambda t: found((20, 0.9, 0))) == [[-1], [1], [-1], [2], [2]]
    assert not recwarn.list


def test_a_tracker_forgets_what_it_follows_no_more() -> None:
    tracker = Tracker()
    ids_of(tracker, np.arange(500) / 10, lambda t: found((t * 997 % 580, 0.9, int(t * 10) % 2)))
    ids_of(tracker, [60, 62, 64], lambda t: found())

    assert not tracker._by_class


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(TRACKERS),
    steps=st.lists(
        st.tuples(
            st.floats(-1, 3),
            st.lists(
                st.tuples(
                    st.floats(-50, 700), st.floats(-50, 400), st.floats(0, 300), st.floats(0, 300),
                    st.floats(0, 1), st.integers(0, 1),
                ),
                max_size=5,
            ),
        ),
        max_size=12,
    ),
)  # fmt: skip
def test_ids_are_unique_in_a_frame_and_never_used_again(
    name: str, steps: list[tuple[float, list[tuple[float, float, float, float, float, int]]]]
) -> None:
    tracker, pts_s = Tracker(name), 0.0
    last_seen: dict[int, tuple[float, int]] = {}
    for passed_s, boxes in steps:
        pts_s += passed_s
        rows = sorted(boxes, key=lambda box: -box[4])
        corners = np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], np.float32).reshape(-1, 4)
        scores, class_ids = np.array([box[4] for box in rows]), np.array([box[5] for box in rows], np.int64)
        tracked = tracker.update(frame_at(pts_s), Detections(corners, scores, class_ids, labels=LABELS))
        assert np.array_equal(tracked.scores, np.float32(scores)[np.float32(scores) > np.float32(0.4)])
        ids = [one for one in tracked if one.track_id is not None]
        assert len({one.track_id for one in ids}) == len(ids)
        for one in ids:
            assert one.track_id is not None and one.track_id >= 1
            before_s, class_id = last_seen.get(one.track_id, (pts_s, one.class_id))
            assert class_id == one.class_id and 0 <= pts_s - before_s
            last_seen[one.track_id] = pts_s, one.class_id


def test_choices() -> None:
    assert [chosen_tracker(each) for each in ("auto", "ocsort", "off")] == ["bytetrack", "ocsort", None]
    with pytest.raises(ConfigError, match="did you mean 'bytetrack'"):
        chosen_tracker("bytetrak")
    assert continuing(ClassThresholds(0.4, (("car", 0.2),))) == ClassThresholds(0.1, (("car", 0.05),))
    assert "above car 0.2, others 0.4" in said_of("ocsort", ClassThresholds(0.4, (("car", 0.2),)))


def test_a_missing_package_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'nanodet-streamer\[track\]'"):
        run(StreamConfig.model_validate({"track": "auto", "output": "null"}))


def test_a_run_writes_ids_and_skipped_frames_keep_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outputs = [str(tmp_path / "{source}.jsonl"), str(tmp_path / "{source}.csv")]
    sources = {"plain": "sample", "tracked": {"uri": "sample", "track": "auto", "detect_every": 3}}

    run(StreamConfig.model_validate({"source": sources, "output": outputs, "max_frames": 30}))

    lines = [json.loads(line) for line in (tmp_path / "tracked.jsonl").read_text().splitlines()]
    people = [[o.get("track_id") for o in line["detections"] if o["label"] == "person"] for line in lines]
    assert people[:3] == [[None]] * 3 and people[3:] == [[1]] * 27
    rows = (tmp_path / "tracked.csv").read_text().splitlines()
    assert rows[0].endswith(",track_id") and rows[-1].rpartition(",")[2].isdecimal()
    assert "track_id" not in (tmp_path / "plain.jsonl").read_text()
    plain = [json.loads(line)["detections"] for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    assert all(one["score"] > 0.4 for line in plain for one in line)  # the tracker's lower scores stay its own
    assert sum("tracking with bytetrack" in record.message for record in caplog.records) == 1
