"""The gate's statistic: its interval holds the truth as often as it says, and each result follows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import bootstrap
from calibration.agreement import Agreement
from calibration.bootstrap import Estimate, WeightedAp, estimate_drop
from calibration.gate import MAX_CHANCE, GateResult, more_pictures
from calibration.labels import Sample
from calibration.pictures import Picture
from streamer.frames.detections import Detections
from streamer.models.letterbox import Letterbox

_SIZE = (100, 100)
_CLASSES = 5


def picture(class_ids: np.ndarray, boxes_xyxy: np.ndarray) -> Picture:
    centres, sides = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    sample = Sample(Path("a.jpg"), class_ids, np.hstack([centres, sides]) / 100)
    return Picture(sample, _SIZE, Letterbox.fit(_SIZE, (64, 64), True), np.zeros((64, 64, 3), np.uint8))


def scene(
    random: np.random.Generator, count: int, lost: float, rare: float = 0.0
) -> tuple[list[Picture], list[Detections], list[Detections]]:
    """Pictures, what a model finds in them, and what is left of it when the share `lost` of objects is lost.

    The share `rare` of objects is spread over many classes.
    """
    pictures, before, after = [], [], []
    for _ in range(count):
        objects = int(random.integers(1, 7))
        corners = np.stack([np.arange(objects) * 15.0, random.uniform(0, 60, objects)], axis=1)
        boxes = np.hstack([corners, corners + 12])
        class_ids = random.integers(0, _CLASSES, objects)
        class_ids = np.where(random.random(objects) < rare, random.integers(_CLASSES, 80, objects), class_ids)
        found = random.random(objects) < 0.6
        scores = random.uniform(0.3, 1, objects).astype(np.float32)
        pictures.append(picture(class_ids, boxes))
        for kept, seen in ((found, before), (found & (random.random(objects) >= lost), after)):
            seen.append(Detections(boxes[kept].astype(np.float32), scores[kept], class_ids[kept]))
    return pictures, before, after


def ap_drop(pictures: list[Picture], before: list[Detections], after: list[Detections]) -> float:
    once = np.ones(len(pictures), np.int64)
    return WeightedAp(pictures, before)(once) - WeightedAp(pictures, after)(once)


def test_interval_holds_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 sets of 48 pictures with one true drop; 95 % intervals that miss 9 times or more have a chance of 0.2 %."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 80)  # the standard error of so many is 8 % off at most
    truth = ap_drop(*scene(np.random.default_rng(0), 4000, 0.05))
    assert 2 < truth < 4
    held = 0
    values = []
    for seed in range(1, 61):
        estimate = estimate_drop(*scene(np.random.default_rng(seed), 48, 0.05))
        low, high = estimate.interval()
        held += low <= truth <= high
        values.append(estimate.value)
    assert held > 60 - 9
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / np.sqrt(60))


def test_estimate_is_steadier_than_the_difference_of_ap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where most classes have an object or two, as COCO's have on some dozens of pictures."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2)  # they tell the error, not the value
    sets = [scene(np.random.default_rng(seed), 32, 0.05, rare=0.3) for seed in range(30)]
    assert np.std([estimate_drop(*each).value for each in sets]) < 0.9 * np.std([ap_drop(*each) for each in sets])


def test_same_pictures_give_the_same_estimate_and_equal_models_lose_nothing() -> None:
    pictures, before, after = scene(np.random.default_rng(3), 20, 0.2)
    assert estimate_drop(pictures, before, after) == estimate_drop(pictures, before, after)
    assert estimate_drop(pictures, before, before) == Estimate(0, 0)
    nothing = estimate_drop(pictures, before, [Detections.empty()] * 20)
    assert nothing.value == pytest.approx(WeightedAp(pictures, before)(np.ones(20, np.int64)))
    assert estimate_drop(pictures, [Detections.empty()] * 20, before) == Estimate(0, 0)


@given(st.floats(-5, 5), st.floats(0.01, 3), st.integers(16, 200))
def test_result_follows_from_the_chance(value: float, error: float, count: int) -> None:
    estimate = Estimate(value, error)
    chance = estimate.chance_above(0.5)
    more = more_pictures(estimate, 0.5, count)
    assert (more is not None) == (MAX_CHANCE < chance < 1 - MAX_CHANCE)
    if value > 0.5:
        assert chance > 0.5 > MAX_CHANCE  # a model that more likely loses more than the limit never passes
    if more is not None and more + count < 5000:
        smaller = error * np.sqrt(count / (count + more))
        assert more_pictures(Estimate(value, smaller), 0.5, count) is None or more == 1


def test_more_pictures_where_the_estimate_is_the_limit() -> None:
    assert more_pictures(Estimate(0.5, 0.3), 0.5, 100) == 4900
    assert more_pictures(Estimate(0.0, 0.0), 0.5, 100) is None


@pytest.mark.parametrize(
    ("passed", "more", "words"),
    [
        (True, None, "96 pictures: passed"),
        (False, None, "96 pictures: failed"),
        (False, 120, "96 pictures: can't tell with 96 pictures: give about 120 more"),
    ],
)
def test_a_result_says_what_the_pictures_tell(passed: bool, more: int | None, words: str) -> None:
    result = GateResult("openvino", 96, Agreement(1, 0, 0, 1.0, 0.0), None, None, None, None, None, None, more, passed)
    assert result.line().endswith(words)


def test_chance_without_an_error_is_none_or_all() -> None:
    assert [Estimate(value, 0.0).chance_above(0.5) for value in (0.4, 0.5, 0.6)] == [0.0, 0.0, 1.0]


def row(count: int, *, first: int = 0) -> np.ndarray:
    """Returns boxes side by side, xyxy."""
    left = np.arange(first, first + count)[:, None] * 2.0
    return np.hstack([left, left * 0, left + 1, left * 0 + 50])


def seen(boxes_xyxy: np.ndarray, class_ids: int | np.ndarray = 0, scores: float | np.ndarray = 0.5) -> Detections:
    count = len(boxes_xyxy)
    ids, confidences = np.broadcast_to(class_ids, count).astype(np.int64), np.broadcast_to(scores, count)
    return Detections(boxes_xyxy.astype(np.float32), confidences.astype(np.float32), ids)


def once(count: int) -> np.ndarray:
    return np.ones(count, np.int64)


@pytest.mark.filterwarnings("error")
def test_ap_without_objects_is_nan() -> None:
    assert np.isnan(WeightedAp([], [])(once(0)))
    nothing = picture(np.zeros(0, np.int64), np.zeros((0, 4)))
    assert np.isnan(WeightedAp([nothing], [Detections.empty()])(once(1)))
    one = picture(np.zeros(1, np.int64), row(1))
    assert np.isnan(WeightedAp([one], [seen(row(1))])(np.zeros(1, np.int64)))


def test_classes_without_objects_in_a_sample_are_left_out() -> None:
    scene = [picture(np.array([class_id]), row(1)) for class_id in (0, 1)]
    ap = WeightedAp(scene, [seen(row(1), class_id) for class_id in (0, 1)])
    assert ap(np.array([0, 1])) == pytest.approx(100)


def test_equal_scores_keep_their_order_within_a_picture_between_pictures_and_between_classes() -> None:
    """As in COCO's evaluation: scores that differ in the same order give the same AP."""
    random = np.random.default_rng(0)
    boxes, scores = row(50)[random.permutation(50)], np.tile([0.9, 0.5, 0.7, 0.5, 0.9], 10)
    differing = np.empty(50)
    differing[sorted(range(50), key=lambda place: (-scores[place], place))] = np.linspace(0.9, 0.5, 50)
    there = np.flatnonzero(random.random(50) < 0.5)
    classes = np.repeat([0, 1], 25)
    one = [picture(np.zeros(len(there), np.int64), boxes[there])]
    many = [picture(np.zeros(int(at in there), np.int64), boxes[[at] if at in there else []]) for at in range(50)]
    two = [picture(classes[there], boxes[there])]
    ap = [
        [
            WeightedAp(one, [seen(boxes, 0, each)])(once(1)),
            WeightedAp(many, [seen(boxes[[at]], 0, each[[at]]) for at in range(50)])(once(50)),
            WeightedAp(two, [seen(boxes, classes, each)], pooled=True)(once(1)),
        ]
        for each in (scores, differing)
    ]
    assert ap[0] == pytest.approx(ap[1])
    assert 20 < min(ap[0]) and max(ap[0]) < 80


def test_pooled_ap_ranks_all_classes_by_score() -> None:
    boxes = row(4)
    scene = [picture(np.array([0, 1]), boxes[:2])]
    found = [seen(boxes, np.array([0, 1, 0, 1]), np.array([0.9, 0.8, 0.3, 0.2]))]
    assert WeightedAp(scene, found, pooled=True)(once(1)) == pytest.approx(100)
    last = [seen(boxes, np.array([0, 1, 0, 1]), np.array([0.2, 0.3, 0.8, 0.9]))]
    assert WeightedAp(scene, last, pooled=True)(once(1)) == pytest.approx(50)


def test_an_overlap_of_exactly_half_counts_at_half() -> None:
    boxes = np.array([[0.0, 0.0, 10.0, 10.0]])
    ap = WeightedAp([picture(np.zeros(1, np.int64), boxes)], [seen(boxes * [1, 1, 1, 0.5])])
    assert ap(once(1)) == pytest.approx(10)  # at one of ten IoUs


def test_the_loss_of_a_weak_model_counts() -> None:
    boxes = np.vstack([row(50), row(50) + [0, 50, 0, 50], row(50) * [1, 1, 1, 0.5] + [0, 50, 0, 0]])
    scene = [picture(np.zeros(150, np.int64), boxes)]
    estimate = estimate_drop(scene, [seen(boxes[:1])], [Detections.empty()])
    assert 0 < estimate.value == pytest.approx(100 / 101)


@pytest.mark.parametrize("count", [2, 3])
def test_the_error_is_that_of_a_mean_of_so_many_pictures(count: int) -> None:
    """Each has an object, which the second model doesn't find in the first of them."""
    scene = [picture(np.zeros(1, np.int64), row(1))] * count
    before = [seen(row(1))] * count
    estimate = estimate_drop(scene, before, [Detections.empty(), *before[1:]])
    assert estimate.value == pytest.approx(100 / count, abs=1)
    assert estimate.error == pytest.approx(100 * (1 / count * (1 - 1 / count) / (count - 1)) ** 0.5, rel=0.1)
