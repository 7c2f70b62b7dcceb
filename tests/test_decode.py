from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import EngineError, ModelError
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import MAX_DETECTIONS, Postprocessor, nms
from streamer.models.spec import ModelSpec
from tests.tiny import LABELS, tiny_spec

SPEC = tiny_spec()
SQUARE = Letterbox.fit((64, 64), (64, 64), True)
C, BINS = SPEC.num_classes, SPEC.reg_max + 1


def blank() -> np.ndarray:
    """Output in which nothing was found."""
    return np.zeros((SPEC.num_points, SPEC.output_channels), np.float32)


def put(output: np.ndarray, point: int, class_id: int, score: float, distances: tuple[int, int, int, int]) -> None:
    """Says that `point` sees a box with whole-stride distances left, top, right, bottom."""
    output[point, class_id] = score
    output[point, C:] = -30
    for side, distance in enumerate(distances):
        output[point, C + side * BINS + distance] = 30


def test_nothing_found() -> None:
    assert len(Postprocessor(SPEC)(blank(), SQUARE)) == 0


def test_one_box_by_hand() -> None:
    output = blank()
    put(output, 8 * 3 + 2, 1, 0.9, (1, 2, 3, 0))  # stride 8, column 2, row 3: centre (20, 28)
    found = Postprocessor(SPEC)(output, SQUARE)
    np.testing.assert_allclose(found.boxes_xyxy, [[12, 12, 44, 28]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9])
    np.testing.assert_array_equal(found.class_ids, [1])


def test_plus_has_other_centres() -> None:
    spec = tiny_spec(family="nanodet-plus")
    output = np.zeros((spec.num_points, spec.output_channels), np.float32)
    put(output, 8 * 3 + 2, 1, 0.9, (1, 2, 3, 0))
    found = Postprocessor(spec)(output, Letterbox.fit((64, 64), (64, 64), False))
    np.testing.assert_allclose(found.boxes_xyxy, [[8, 8, 40, 24]], atol=1e-4)


def test_expectation_of_the_distribution() -> None:
    output = blank()
    put(output, 0, 0, 0.8, (0, 0, 0, 1))
    probabilities = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    output[0, C + 2 * BINS : C + 3 * BINS] = np.log(probabilities)
    found = Postprocessor(SPEC)(output, SQUARE)
    assert found.boxes_xyxy[0, 2] == pytest.approx(4 + 8 * (probabilities @ np.arange(4)), abs=1e-4)


def test_boxes_go_back_to_the_source_and_are_clipped() -> None:
    output = blank()
    put(output, 64 + 4 + 1, 2, 0.7, (3, 3, 3, 3))  # stride 16, column 1, row 1: centre (24, 24)
    letterbox = Letterbox.fit((640, 320), (64, 64), True)  # 64x32 at offset (0, 16), scale 1/10
    found = Postprocessor(SPEC)(output, letterbox)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 640, 320]], atol=1e-3)


def test_threshold_and_classes() -> None:
    output = blank()
    put(output, 0, 0, 0.5, (1, 1, 1, 1))
    put(output, 30, 1, 0.6, (1, 1, 1, 1))
    assert list(Postprocessor(SPEC, conf=0.4)(output, SQUARE).class_ids) == [1, 0]
    assert list(Postprocessor(SPEC, conf=0.55)(output, SQUARE).class_ids) == [1]
    assert list(Postprocessor(SPEC, conf=0.4, class_ids={0})(output, SQUARE).class_ids) == [0]
    assert len(Postprocessor(SPEC, conf=0.4, class_ids=set())(output, SQUARE)) == 0


def test_each_class_may_have_its_score_before_others_are_suppressed() -> None:
    output = blank()
    random = np.random.default_rng(3)
    output[:, : SPEC.num_classes] = random.random((SPEC.num_points, SPEC.num_classes)) ** 12
    thresholds = np.linspace(0.3, 0.9, SPEC.num_classes).astype(np.float32)
    by_class = Postprocessor(SPEC, thresholds)
    assert by_class.conf == pytest.approx(0.3)
    found = by_class(output, SQUARE)
    assert 0 < len(found) and (found.scores > thresholds[found.class_ids]).all()
    lowest = Postprocessor(SPEC, 0.3)(output, SQUARE)
    selected = by_class.select(lowest, SQUARE)
    if len(lowest) < MAX_DETECTIONS:
        np.testing.assert_array_equal(found.scores, selected.scores)
    only = Postprocessor(SPEC, thresholds, class_ids={SPEC.num_classes - 1})
    assert only.conf == pytest.approx(0.9)
    kept = Postprocessor(SPEC, 0.3, keep=lambda found, size_wh: found.where(found.class_ids == 0))
    assert set(kept(output, SQUARE).class_ids.tolist()) == {0} == set(kept.select(lowest, SQUARE).class_ids.tolist())


def test_one_point_may_see_two_classes() -> None:
    output = blank()
    put(output, 0, 0, 0.5, (1, 1, 1, 1))
    output[0, 2] = 0.45
    found = Postprocessor(SPEC, conf=0.4)(output, SQUARE)
    np.testing.assert_array_equal(found.class_ids, [0, 2])
    np.testing.assert_array_equal(found.boxes_xyxy[0], found.boxes_xyxy[1])


def test_wrong_shape() -> None:
    with pytest.raises(ModelError, match="wanted a network output"):
        Postprocessor(SPEC)(blank()[:-1], SQUARE)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("channel", [0, C - 1, C, C + 4 * BINS - 1])
@pytest.mark.parametrize("found", [True, False])
def test_an_output_that_is_not_finite_is_an_error(value: float, channel: int, found: bool) -> None:
    output = blank()
    if found:
        put(output, 0, 0, 0.5, (1, 1, 1, 1))
    output[-1, channel] = value  # at a point where nothing is found
    with pytest.raises(EngineError, match="NaN or Inf"):
        Postprocessor(SPEC)(output, SQUARE)


def test_large_finite_numbers_are_none() -> None:
    output = blank()
    output[:, C:] = np.finfo(np.float32).max  # whose sum overflows
    assert len(Postprocessor(SPEC)(output, SQUARE)) == 0


def put_boxes_without_area(output: np.ndarray) -> None:
    """Says 128 times, surely, that there is a box of no width, no height, or neither."""
    for point in range(64):  # of stride 8
        put(output, point, 0, 0.95, ((0, 1, 0, 1), (1, 0, 1, 0), (0, 0, 0, 0))[point % 3])
        output[point, 1] = 0.9


def test_boxes_without_area_are_left_out_and_take_no_place() -> None:
    output = blank()
    put_boxes_without_area(output)
    put(output, 64 + 5, 2, 0.6, (1, 1, 1, 1))  # stride 16, column 1, row 1: centre (24, 24)
    found = Postprocessor(SPEC)(output, SQUARE)
    np.testing.assert_allclose(found.boxes_xyxy, [[8, 8, 40, 40]], atol=1e-4)


def test_a_box_that_lies_in_the_padding_is_left_out() -> None:
    output = blank()
    put(output, 0, 0, 0.9, (0, 0, 1, 1))  # (4, 4, 12, 12) of the input
    put(output, 8 * 4 + 4, 0, 0.8, (1, 1, 1, 1))
    letterbox = Letterbox.fit((640, 320), (64, 64), True)  # rows 16 to 48 of the input
    found = Postprocessor(SPEC)(output, letterbox)
    np.testing.assert_allclose(found.scores, [0.8])


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ((83, (1, 1, 3, 0)), (75, (2, 2, 1, 1))),
        ((82, (3, 1, 1, 0)), (72, (1, 2, 2, 1))),
        ((83, (1, 1, 0, 3)), (78, (2, 2, 1, 1))),
        ((81, (1, 3, 0, 1)), (66, (2, 1, 1, 2))),
    ],
    ids=["right", "left", "bottom", "top"],
)
def test_boxes_overlap_only_within_the_input(
    large: tuple[int, tuple[int, int, int, int]], small: tuple[int, tuple[int, int, int, int]]
) -> None:
    """Two boxes that reach beyond one side: their IoU is 0.59 within the input, 0.32 as decoded."""
    output = blank()
    put(output, large[0], 0, 0.9, large[1])
    put(output, small[0], 0, 0.8, small[1])
    np.testing.assert_allclose(Postprocessor(SPEC, iou=0.5)(output, SQUARE).scores, [0.9])


def test_suppressed_boxes_suppress_nothing() -> None:
    # a overlaps b, b overlaps c, a doesn't overlap c: b goes, c must stay.
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [4.5, 0, 14.5, 10]], np.float32)
    kept = nms(boxes, np.zeros(3, np.int64), iou=0.5, limit=100)
    np.testing.assert_array_equal(kept, [0, 2])


def test_classes_do_not_suppress_each_other() -> None:
    boxes = np.zeros((2, 4), np.float32) + [0, 0, 10, 10]
    np.testing.assert_array_equal(nms(boxes.astype(np.float32), np.array([0, 1]), 0.5, 100), [0, 1])


def naive_nms(boxes: np.ndarray, class_ids: np.ndarray, iou: float, *, distance: bool = False) -> list[int]:
    keep: list[int] = []
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        for j in keep:
            a0, b0, a1, b1 = boxes[j]
            overlap = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
            union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - overlap
            diagonal = (max(x1, a1) - min(x0, a0)) ** 2 + (max(y1, b1) - min(y0, b0)) ** 2
            apart = ((x0 + x1 - a0 - a1) / 2) ** 2 + ((y0 + y1 - b0 - b1) / 2) ** 2
            least = iou + distance * apart / diagonal
            if class_ids[i] == class_ids[j] and overlap > least * union:
                break
        else:
            keep.append(i)
    return keep


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_nms_equals_the_plain_loop(count: int, seed: int, iou: float) -> None:
    random = np.random.default_rng(seed)
    corner = random.integers(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + random.integers(1, 20, (count, 2))], axis=1).astype(np.float32) / 32
    class_ids = random.integers(0, 3, count)
    assert list(nms(boxes, class_ids, iou, 1000)) == naive_nms(boxes.astype(np.float64), class_ids, iou)


@pytest.mark.parametrize("seed", range(20))
def test_distance_nms_equals_the_plain_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 0.6, (30, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0.1, 0.4, (30, 2))], axis=1).astype(np.float32)
    class_ids, iou = random.integers(0, 2, 30), random.uniform(0.1, 0.5)
    wanted = naive_nms(boxes.astype(np.float64), class_ids, iou, distance=True)
    assert list(nms(boxes, class_ids, iou, 1000, distance=True)) == wanted
    assert nms(boxes[:0], class_ids[:0], iou, 10).dtype == np.int64


@pytest.mark.parametrize(("kind", "count"), [("iou", 1), ("diou", 2)])
def test_the_model_says_which_overlap_counts(kind: str, count: int) -> None:
    output = blank()
    put(output, 72, 0, 0.9, (1, 1, 1, 1))  # stride 16: 8 to 40 of 64, once left and once below: IoU 1/3, DIoU 0.26
    put(output, 73 - 8 + 4, 0, 0.8, (1, 1, 1, 1))
    boxes = Postprocessor(SPEC, iou=1)(output, SQUARE).boxes_xyxy
    assert len(boxes) == 2
    plain = nms_overlap(boxes)
    spec = SPEC.model_copy(update={"nms": kind})
    assert len(Postprocessor(spec, iou=plain - 0.01)(output, SQUARE)) == count


def nms_overlap(boxes: np.ndarray) -> float:
    """IoU of two boxes."""
    sides = np.minimum(*boxes[:, 2:]) - np.maximum(*boxes[:, :2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum()) - common)


def test_equal_scores_keep_the_order_of_points() -> None:
    output = blank()
    random = np.random.default_rng(0)
    for point in range(64):
        put(output, point, int(random.integers(3)), 0.5 + 0.1 * (point % 2), (0, 0, 1, 1))
    found = Postprocessor(SPEC, iou=1)(output, SQUARE)
    centres = found.boxes_xyxy[:, :2].astype(int) // 8
    points = centres[:, 1] * 8 + centres[:, 0]
    inside = [point for point in points if point % 8 < 7 and point < 56]  # the others are clipped to their last pixels
    assert inside == sorted(inside, key=lambda point: (-(point % 2), point))


def spec_of(family: str, **more: Any) -> ModelSpec:
    return ModelSpec.from_mapping({"name": "tiny", "family": family, "labels": list(LABELS), **more}, "tiny.yaml")


def test_a_score_counts_above_the_threshold_only() -> None:
    output = blank()
    put(output, 0, 0, 0.5, (1, 1, 1, 1))
    assert len(Postprocessor(SPEC, conf=0.5)(output, SQUARE)) == 0
    spec = spec_of("yolox", input_size_wh=[64, 64])
    rows = np.zeros((spec.num_points, spec.output_channels), np.float32)
    rows[0, :4] = 1, 0.5, 0.25, 0.25
    rows[9, :4] = 0.5, 0.25, 0.75, 1
    found = Postprocessor(spec, conf=0.4)(rows, Letterbox.fit((64, 64), (64, 64), True))
    np.testing.assert_array_equal(found.class_ids, [0, 2])
    np.testing.assert_array_equal(found.scores, [0.5, 0.5])
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 4, 4], [4, 4, 12, 12]])  # size 1 stride about the point
    assert len(Postprocessor(spec, conf=0.5)(rows, Letterbox.fit((64, 64), (64, 64), True))) == 0


@pytest.mark.parametrize("count", [3, 150])
def test_queries_are_not_suppressed_and_limited(count: int) -> None:
    spec = spec_of("d-fine", input_size_wh=[64, 64], output="heads")
    rows = np.zeros((count, spec.output_channels), np.float32)
    rows[:, 1], rows[:, 3:] = np.linspace(0.9, 0.5, count), (0.5, 0.5, 0.25, 0.5)
    found = Postprocessor(spec)(rows, SQUARE)
    assert len(found) == min(count, MAX_DETECTIONS)
    np.testing.assert_allclose(found.boxes_xyxy[0], [24, 16, 40, 48])
    assert set(found.class_ids) == {1} and (np.diff(found.scores) < 0).all()


def test_detections_of_the_graph_are_filtered_and_their_classes_checked() -> None:
    spec = spec_of("rtmdet", input_size_wh=[64, 64], output="detections")
    rows = np.array(
        [[0, 0, 8, 8, 0.9, 2], [0, 0, 8, 9, 0.8, 2], [0, 0, 8, 8, 0.4, 3], [1, 1, 2, 2, 0.1, 7]], np.float32
    )
    found = Postprocessor(spec, conf=0.4)(rows, SQUARE)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 8, 8], [0, 0, 8, 9]])
    np.testing.assert_array_equal(found.class_ids, [2, 2])
    with pytest.raises(ModelError, match="'tiny' detects class 3, but its description has 3 labels: correct them"):
        Postprocessor(spec, conf=0.39)(rows, SQUARE)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2000), st.integers(1, 2000))
def test_any_output_gives_valid_detections(seed: int, width: int, height: int) -> None:
    random = np.random.default_rng(seed)
    output = blank()
    output[:, :C] = random.random((len(output), C))
    output[:, C:] = random.standard_normal((len(output), 4 * BINS)) * 50
    found = Postprocessor(SPEC, conf=0.3)(output, Letterbox.fit((width, height), SPEC.input_size_wh, True))
    assert 0 < len(found) <= MAX_DETECTIONS
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0.3).all()
    assert set(found.class_ids) <= set(range(len(LABELS)))
    x0, y0, x1, y1 = found.boxes_xyxy.T
    assert (0 <= x0).all() and (x0 < x1).all() and (x1 <= width).all()
    assert (0 <= y0).all() and (y0 < y1).all() and (y1 <= height).all()


def test_distance_iou_keeps_boxes_whose_centres_are_apart() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10]], np.float32)  # IoU 1/3; centres 5 apart in a diagonal of 18
    classes = np.zeros(2, np.int64)
    penalty = 25 / (15**2 + 10**2)
    for iou, plain, distance in ((0.3, 1, 2), (1 / 3 - penalty - 0.01, 1, 1), (0.35, 2, 2)):
        assert len(nms(boxes, classes, iou, 10)) == plain
        assert len(nms(boxes, classes, iou, 10, distance=True)) == distance


@pytest.mark.parametrize(("agnostic", "count"), [(False, 2), (True, 1)])
def test_boxes_drop_those_of_other_classes_where_the_model_says_so(agnostic: bool, count: int) -> None:
    spec = tiny_spec().model_copy(update={"class_agnostic": agnostic})
    output = np.zeros((spec.num_points, spec.output_channels), np.float32)
    output[9, :2] = 0.9, 0.8
    found = Postprocessor(spec, 0.5)(output, Letterbox.fit((64, 64), (64, 64), True))
    assert len(found) == count
