"""The objects of one frame."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.detections import Detections


def test_those_that_are_kept_stay_in_order() -> None:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = Detections(boxes, np.array([0.9, 0.5, 0.3], np.float32), np.array([2, 0, 1]), is_reused=True)
    kept = found.where(found.scores > 0.4)
    np.testing.assert_array_equal(kept.boxes_xyxy, boxes[:2])
    np.testing.assert_array_equal(kept.scores, found.scores[:2])
    np.testing.assert_array_equal(kept.class_ids, [2, 0])
    assert kept.is_reused and len(found) == 3
    assert len(found.where(np.zeros(3, bool))) == 0


LABELS = ("person", "Person", "dining table", "<b>")


def some(count: int = 3, **more: Any) -> Detections:
    """Returns objects with ids 0, 1, 2, ..., scores 0.9, 0.8, ..., and areas 100, 200, ..."""
    boxes = np.array([(0, 10, 10 * (at + 1), 20) for at in range(count)], np.float32).reshape(-1, 4)
    return Detections(boxes, 0.9 - 0.1 * np.arange(count), np.arange(count), labels=LABELS, **more)


def test_they_are_a_sequence_of_objects() -> None:
    found = some()
    assert len(found) == len(list(found)) == 3
    first, *_, last = found
    assert (first.label, first.class_id, first.box_xyxy) == ("person", 0, (0.0, 10.0, 10.0, 20.0))
    assert found[0] == first and found[-1] == last and last.label == "dining table"
    assert first.score == pytest.approx(0.9)
    assert not list(Detections.empty()) and len(Detections.empty()) == 0
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        ([], []),
        ([True, False, True], [0, 2]),
        (np.array([False, False, False]), []),
        (np.array([1]), [1]),
    ],
)
def test_slices_numbers_and_masks_choose_objects(rows: Any, ids: list[int]) -> None:
    chosen = some(is_reused=True)[rows]
    assert chosen.class_ids.tolist() == ids
    assert chosen.is_reused and chosen.labels == LABELS
    assert chosen.boxes_xyxy.shape == (len(ids), 4)


def test_a_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(IndexError):
        some()[np.array([True])]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, [0, 1, 2]),
        ({"classes": "person"}, [0]),
        ({"classes": "Person"}, [1]),
        ({"classes": "PERSON"}, [0]),
        ({"classes": ["Dining Table", 0]}, [0, 2]),
        ({"classes": 1}, [1]),
        ({"classes": []}, []),
        ({"min_score": 0.8}, [0, 1]),
        ({"min_area": 200}, [1, 2]),
        ({"max_area": 200.0}, [0, 1]),
        ({"classes": {0, 1}, "min_score": 0.75, "min_area": 150}, [1]),
    ],
)
def test_filter_keeps_what_fulfils_all(wanted: dict[str, Any], ids: list[int]) -> None:
    assert some().filter(**wanted).class_ids.tolist() == ids


def test_a_score_that_was_the_threshold_is_kept() -> None:
    found = Detections(np.ones((1, 4), np.float32), np.array([0.4], np.float32), np.array([0]))
    assert len(found.filter(min_score=0.4)) == 1


@pytest.mark.parametrize(
    ("labels", "said"), [(("person", "car"), "did you mean 'person'?"), ((), "the labels aren't known")]
)
def test_a_class_that_isnt_there_is_an_error(labels: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        replace(some(), labels=labels).filter(classes="persn")


def test_a_dict_is_what_a_json_line_has() -> None:
    found = json.loads(json.dumps(some(1).to_dict()))
    (one,) = found["detections"]
    assert {**one, "score": round(one["score"], 4)} == {
        "label": "person", "class_id": 0, "score": 0.9, "box_xyxy": [0.0, 10.0, 10.0, 20.0]
    }  # fmt: skip
    assert "held" not in found and some(1).reused().to_dict()["held"] is True
    assert Detections.empty().to_dict() == {"detections": []}


def test_a_repr_is_one_short_line() -> None:
    assert repr(some(2)) == "Detections(2: person 0.90, Person 0.80)"
    assert repr(Detections.empty().reused()) == "Detections(0, reused)"
    assert repr(replace(some(1), labels=())) == "Detections(1: 0 0.90)"
    many = Detections(np.ones((50, 4)), np.full(50, 0.5), np.zeros(50, int), labels=LABELS)
    assert repr(many).endswith("person 0.50, 40 more)") and len(repr(many)) < 200


def test_in_a_notebook_they_are_a_small_table_without_markup_of_labels() -> None:
    found = Detections(np.ones((1, 4)), np.array([0.5]), np.array([3]), labels=LABELS)
    table = ElementTree.fromstring(found._repr_html_())
    assert "".join(table.itertext()).count("<b>") == 1
    assert table.find(".//b") is None
    assert len(Detections(np.ones((300, 4)), np.full(300, 0.5), np.zeros(300, int))._repr_html_()) < 3000
    assert ElementTree.fromstring(Detections.empty()._repr_html_()).findtext("caption") == "0 detections"


def test_supervision_gets_copies_with_the_labels() -> None:
    pytest.importorskip("supervision")
    found = some()
    theirs = found.to_supervision()
    assert theirs["class_name"].tolist() == ["person", "Person", "dining table"]
    np.testing.assert_array_equal(theirs.xyxy, found.boxes_xyxy)
    theirs.xyxy[0] = 5
    assert found.boxes_xyxy[0, 0] == 0
    assert len(Detections.empty().to_supervision()) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), max_size=30), st.floats(0, 1))
def test_what_is_filtered_twice_is_filtered_once(rows: list[tuple[int, float]], score: float) -> None:
    ids, scores = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], np.float32)
    found = Detections(np.ones((len(rows), 4)), scores, ids, labels=LABELS)
    kept = found.filter(classes=[0, 2], min_score=score)
    assert [(one.class_id, one.score) for one in kept] == [
        (one.class_id, one.score) for one in found if one.class_id in (0, 2) and one.score >= np.float32(score)
    ]
    assert kept.filter(classes=[0, 2], min_score=score).to_dict() == kept.to_dict()
