"""Ids in detections: kept by whatever chooses some of them, and in every form that they are given out in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.sinks.jsonl import LineFormat
from streamer.sources.packet_tap import PacketTap
from streamer.web.live_stream import Found
from streamer.web.messages import detections_message

LABELS = ("person", "car")
BOXES = np.array([[10, 20, 110, 220], [0, 150, 60, 190], [5, 5, 9, 9]])
TRACKED = Detections(
    BOXES, np.array([0.9, 0.5, 0.4]), np.array([0, 1, 1]), labels=LABELS, track_ids=np.array([7, -1, 3])
)
FRAME = Frame(np.zeros((240, 320, 3), np.uint8), "door", 0, 0.0, 0.0)


def test_one_detection_has_its_id() -> None:
    assert [one.track_id for one in TRACKED] == [7, None, 3]
    assert [TRACKED[0].track_id, TRACKED[1].track_id, TRACKED[-1].track_id] == [7, None, 3]
    assert Detections.empty()[:0].track_ids is None
    assert repr(TRACKED) == "Detections(3: person #7 0.90, car 0.50, car #3 0.40)"


def test_a_choice_keeps_ids() -> None:
    for chosen in (
        TRACKED.filter(classes="car"),
        TRACKED[1:],
        TRACKED.where(np.array([False, True, True])),
        TRACKED[[1, 2]],
    ):
        assert chosen.track_ids is not None and chosen.track_ids.tolist() == [-1, 3]
    assert TRACKED.reused().track_ids is not None and len(TRACKED[[]]) == 0


@pytest.mark.parametrize("ids", [[1], [[1, 2, 3]], []])
def test_another_number_of_ids_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="wanted track_ids"):
        Detections(BOXES, np.ones(3), np.zeros(3), track_ids=np.array(ids))


def test_ids_are_written_where_there_are_any() -> None:
    line = json.loads(LineFormat(LABELS, live=False).text(FRAME, TRACKED))

    assert [one.get("track_id") for one in line["detections"]] == [7, None, 3]
    assert [one.get("track_id") for one in TRACKED.to_dict()["detections"]] == [7, None, 3]
    boxes = json.loads(detections_message(Found(0, 0.0, TRACKED, (320, 240)), PacketTap()))["boxes"]
    assert [box[6:] for box in boxes] == [[7], [], [3]]


def test_supervision_and_back() -> None:
    pytest.importorskip("supervision")
    theirs = TRACKED.to_supervision()
    back = Detections.from_supervision(theirs[[2, 0, 1]], LABELS)

    assert theirs.tracker_id is not None and theirs.tracker_id.tolist() == [7, -1, 3]
    assert repr(back) == repr(TRACKED) and np.array_equal(back.boxes_xyxy, TRACKED.boxes_xyxy)
    plain = Detections(BOXES, np.array([0.9, 0.5, 0.4]), np.array([0, 1, 1]))
    assert plain.to_supervision().tracker_id is None
    assert Detections.from_supervision(plain.to_supervision()).track_ids is None


def test_labels_have_the_id() -> None:
    annotator = Annotator(LABELS)
    drawn = annotator.annotate(FRAME, TRACKED[:1])

    other = annotator.annotate(FRAME, Detections(BOXES[:1], np.array([0.9]), np.array([0])))
    assert not np.array_equal(drawn.image, other.image)
    assert annotator._clipped(TRACKED[:1], (320, 240))[0][2] == "person #7 0.90"
