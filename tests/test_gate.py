"""The gate's statistic: its interval holds the truth as often as it says, and each result follows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_interval_holds_the_truth() -> None:
    """Of 60 sets of 48 pictures with one true drop; 95 % intervals that miss 9 times or more have a chance of 0.2 %."""
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


def test_estimate_is_steadier_than_the_difference_of_ap() -> None:
    """Where most classes have an object or two, as COCO's have on some dozens of pictures."""
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
