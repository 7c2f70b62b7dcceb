from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.accuracy import coco_accuracy
from calibration.bootstrap import WeightedAp
from calibration.dataset import read_samples
from calibration.evaluate import EVALUATION_CONF, detect_all
from calibration.files import to_json
from calibration.labels import EVERY_CLASS
from calibration.matching import match_found
from calibration.run_folder.confusion import confusion_matrix
from calibration.run_folder.curves import detection_curves
from calibration.run_folder.matching import IGNORED, RIGHT, WRONG, outcomes
from streamer.detector import open_detector
from tests.found import SIZE_WH, found, plausible, sample

NAMES = ("person", "car", "dog")
BOX = (100.0, 100.0, 200.0, 200.0)
NEAR = (104.0, 100.0, 204.0, 200.0)  # IoU 0.92 with BOX
FAR = (400.0, 300.0, 500.0, 400.0)


class TestOutcomes:
    def test_without_detections(self) -> None:
        assert outcomes(sample((0, *BOX)), *found()).tolist() == []

    def test_an_object_is_found_once_by_the_best(self) -> None:
        detections = found((0, 0.9, *NEAR), (0, 0.8, *BOX), (1, 0.7, *BOX), (0, 0.6, *FAR))
        assert outcomes(sample((0, *BOX)), *detections).tolist() == [RIGHT, WRONG, WRONG, WRONG]

    def test_a_crowd_of_its_class_is_ignored(self) -> None:
        labels = sample((0, 0, 0, 300, 300), (0, *FAR), crowds=(0,))
        detections = found((0, 0.9, *BOX), (0, 0.8, *NEAR), (1, 0.7, *BOX), (0, 0.6, *FAR))
        assert outcomes(labels, *detections).tolist() == [IGNORED, IGNORED, WRONG, RIGHT]

    def test_a_region_of_every_class_is_ignored_for_each(self) -> None:
        labels = sample((EVERY_CLASS, 0, 0, 300, 300), (1, *BOX), (0, *FAR), crowds=(0,))
        detections = found((0, 0.9, *BOX), (1, 0.8, *BOX), (1, 0.7, *NEAR), (2, 0.6, *BOX), (2, 0.5, *FAR))
        assert outcomes(labels, *detections).tolist() == [IGNORED, RIGHT, IGNORED, IGNORED, WRONG]
        matrix = confusion_matrix([labels], [detections], NAMES, 0.1)
        assert matrix.counts.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]

    def test_half_of_a_box_in_a_crowd(self) -> None:
        labels = sample((0, 100, 0, 300, 300), crowds=(0,))
        detections = found((0, 0.9, 50, 0, 151, 100), (0, 0.8, 50, 200, 149, 300))
        assert outcomes(labels, *detections).tolist() == [IGNORED, WRONG]

    def test_beyond_the_best_hundred(self) -> None:
        detections = found(*((0, 0.9 - i / 1000, *FAR) for i in range(120)), (1, 0.5, *BOX))
        outcome = outcomes(sample((1, *BOX)), *detections)
        assert (outcome == WRONG).sum() == 100
        assert (outcome == RIGHT).sum() == 1


class TestCurves:
    @pytest.mark.parametrize(("seed", "classes", "pictures"), [(0, 1, 60), (1, 3, 80), (2, 20, 120)])
    def test_ap50_is_that_of_coco(self, seed: int, classes: int, pictures: int) -> None:
        pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")
        names = [f"class {number}" for number in range(classes)]
        labels, detected = plausible(seed, classes, pictures)
        reference = coco_accuracy(labels, detected, names)
        curves = detection_curves(labels, detected, names)
        assert curves.overall.AP50 == pytest.approx(reference.AP50, abs=0.3)
        for curve in curves.classes:
            assert curve.AP50 == pytest.approx(reference.classes[curve.name].AP50, abs=0.3)
            assert curve.objects == reference.classes[curve.name].objects

    def test_ap_where_a_region_of_every_class_is_ignored(self) -> None:
        pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")
        labels = [sample((EVERY_CLASS, 0, 0, 300, 300), (0, *FAR), (1, *FAR), crowds=(0,))]
        rows = [(number, 0.9, *BOX) for number in (0, 1)] + [(number, 0.8, *FAR) for number in (0, 1)]
        detected = [found(*rows)]
        accuracy = coco_accuracy(labels, detected, NAMES)
        assert {name: each.AP for name, each in accuracy.classes.items()} == {"person": 100, "car": 100}
        assert [curve.AP50 for curve in detection_curves(labels, detected, NAMES).classes[:2]] == [100, 100]
        assert WeightedAp.of_matches(match_found(labels, detected))(np.ones(1, np.int64)) == pytest.approx(100)

    @settings(max_examples=20)
    @given(seed=st.integers(0, 10_000), threshold=st.integers(0, 999))
    def test_a_threshold_gives_what_counting_gives(self, seed: int, threshold: int) -> None:
        labels, detected = plausible(seed, 3, 15)
        limit = np.float32(threshold / 1000)
        outcome = [
            outcomes(each, size_wh, detections)[detections.scores > limit]
            for each, (size_wh, detections) in zip(labels, detected, strict=True)
        ]
        right = sum(int((each == RIGHT).sum()) for each in outcome)
        shown = sum(int((each != IGNORED).sum()) for each in outcome)
        objects = sum(int((~each.is_crowd).sum()) for each in labels if each.is_crowd is not None)
        point = detection_curves(labels, detected, NAMES).overall.at(threshold / 1000)
        assert point.precision == pytest.approx(right / shown if shown else 1)
        assert point.recall == pytest.approx(right / max(objects, 1))
        f1 = 2 * point.precision * point.recall / (point.precision + point.recall) if right else 0
        assert point.f1 == pytest.approx(f1)

    @settings(max_examples=20)
    @given(seed=st.integers(0, 10_000), wanted=st.floats(0.01, 1))
    def test_the_named_thresholds_are_the_best_of_all(self, seed: int, wanted: float) -> None:
        labels, detected = plausible(seed, 2, 10)
        curve = detection_curves(labels, detected, NAMES).overall
        points = [curve.at(number / 1000) for number in range(1000)]
        best, reached = curve.best, curve.at_precision(wanted)
        assert (0 if best is None else best.f1) == max(point.f1 for point in points)
        least = next((point for point in points if point.precision >= wanted and point.recall > 0), None)
        same = [each for each in points if least and (each.precision, each.recall) == (least.precision, least.recall)]
        assert reached == (same[-1] if same else None)

    def test_the_middle_of_equally_good_thresholds(self) -> None:
        detected = [found((0, 0.8, *BOX), (0, 0.2, *FAR))]
        best = detection_curves([sample((0, *BOX))], detected, NAMES).overall.best
        assert best is not None
        assert best.f1 == 1
        assert best.threshold == pytest.approx(0.5, abs=0.002)

    def test_the_widest_of_equally_good_ranges(self) -> None:
        labels = [sample((0, *BOX), (0, 300, 0, 400, 90))]  # F1 is 2/3 from 0.88 to 0.9, and below 0.6
        rows = [(0, 0.9, *BOX), (0, 0.88, *FAR), (0, 0.87, 0, 0, 9, 9), (0, 0.6, 300, 0, 400, 90)]
        best = detection_curves(labels, [found(*rows)], NAMES).overall.best
        assert best is not None
        assert best.f1 == pytest.approx(2 / 3)
        assert best.threshold == pytest.approx(0.3, abs=0.002)

    def test_ties_are_shown_together(self) -> None:
        curve = detection_curves([sample((0, *BOX))], [found((0, 0.5, *BOX), (0, 0.5, *FAR))], NAMES).overall
        assert curve.scores.tolist() == [0.5]
        assert curve.precision.tolist() == [0.5]
        assert curve.at_precision(0.9) is None
        assert curve.at(0.5).recall == 0  # a score has to be greater than the threshold, as for --conf

    def test_without_detections(self) -> None:
        curves = detection_curves([sample((0, *BOX))], [found()], NAMES)
        assert curves.overall.AP50 == 0
        assert curves.overall.best is None
        assert curves.overall.at_precision(0.5) is None
        assert np.isnan(curves.classes[1].AP50)

    def test_without_pictures_or_objects(self) -> None:
        assert np.isnan(detection_curves([], [], NAMES).overall.AP50)
        curves = detection_curves([sample()], [found((0, 0.9, *BOX))], NAMES)
        assert np.isnan(curves.overall.AP50)
        assert curves.overall.best is None
        assert curves.overall.at(0.1).precision == 0

    def test_a_class_without_objects_counts_in_the_threshold_only(self) -> None:
        labels = [sample((0, *BOX))]
        curves = detection_curves(labels, [found((0, 0.6, *BOX), (1, 0.9, *FAR))], NAMES)
        assert curves.overall.AP50 == pytest.approx(100)
        assert curves.overall.at(0.5).precision == 0.5

    def test_unequal_lengths(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            detection_curves([sample()], [], NAMES)

    def test_as_json(self) -> None:
        labels, detected = plausible(0, 2, 20)
        content = json.loads(to_json(detection_curves(labels, detected, NAMES).to_dict()))
        assert content["pictures"] == 20
        assert [each["name"] for each in content["classes"]] == list(NAMES)
        assert content["classes"][2]["AP50"] is None
        assert 0 < content["all"]["best"]["threshold"] < 1
        assert len(content["all"]["precision_by_recall"]) == 101
        recall = content["all"]["recall_by_confidence"]
        assert recall == sorted(recall, reverse=True)


class TestConfusion:
    def test_each_kind_of_outcome(self) -> None:
        labels = sample((0, *BOX), (1, *FAR), (2, 0, 0, 40, 40))
        detections = found((0, 0.9, *NEAR), (2, 0.8, *FAR), (1, 0.7, 300, 0, 340, 40), (0, 0.2, 0, 0, 40, 40))
        matrix = confusion_matrix([labels], [detections], NAMES, 0.5)
        assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
        assert matrix.confused() == [("car", "dog", 1)]

    def test_its_own_class_comes_first_where_objects_overlap(self) -> None:
        labels = sample((0, *BOX), (1, *NEAR))
        detections = found((1, 0.9, *BOX), (0, 0.8, *NEAR))
        matrix = confusion_matrix([labels], [detections], NAMES, 0.5)
        assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]

    def test_a_threshold_is_exclusive(self) -> None:
        matrix = confusion_matrix([sample((0, *BOX))], [found((0, 0.5, *BOX))], NAMES, 0.5)
        assert matrix.counts[0].tolist() == [0, 0, 0, 1]

    def test_crowds_count_neither_way(self) -> None:
        labels = sample((0, 0, 0, 300, 300), crowds=(0,))
        matrix = confusion_matrix([labels], [found((0, 0.9, *BOX), (1, 0.9, *BOX))], NAMES, 0.5)
        assert matrix.counts.sum() == 1
        assert matrix.counts[3, 1] == 1

    @settings(max_examples=20)
    @given(seed=st.integers(0, 10_000), threshold=st.floats(0, 1))
    def test_every_object_and_detection_counts_once(self, seed: int, threshold: float) -> None:
        labels, detected = plausible(seed, 3, 15)
        labels = [replace(each, is_crowd=None) for each in labels]
        matrix = confusion_matrix(labels, detected, NAMES, threshold)
        for class_id in range(3):
            objects = sum(int(each.objects_of(class_id).sum()) for each in labels)
            assert matrix.counts[class_id].sum() == objects
        shown = sum(int((detections.scores > np.float32(threshold)).sum()) for _, detections in detected)
        assert matrix.counts[:, :3].sum() == shown
        totals = matrix.normalised().sum(axis=1)
        assert np.allclose(totals[matrix.counts.sum(axis=1) > 0], 1)

    def test_nothing_at_all(self) -> None:
        matrix = confusion_matrix([], [], NAMES, 0.5)
        assert not matrix.counts.any()
        assert not matrix.normalised().any()
        assert matrix.confused() == []
        assert matrix.to_dict()["names"] == [*NAMES, "background"]


def test_sizes_differ_between_pictures() -> None:
    labels = sample((0, *BOX))
    width, height = SIZE_WH
    small = (width // 2, height // 2)
    boxes = np.array([BOX], np.float32) / 2
    _, detections = found((0, 0.9, *boxes[0].tolist()))
    assert outcomes(labels, small, detections).tolist() == [RIGHT]
    assert outcomes(labels, SIZE_WH, detections).tolist() == [WRONG]


@pytest.mark.shared
@pytest.mark.slow
def test_the_packaged_model_on_real_pictures(shared: Path) -> None:
    pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")
    images, folder = shared / "coco/val/images", shared / "coco/val/labels"
    with open_detector("nanodet-g_416", conf=EVALUATION_CONF) as detector:
        names = detector.labels
        samples, detected = detect_all(detector, read_samples(images, folder, names), images)
    curves = detection_curves(samples, detected, names)
    assert curves.overall.AP50 == pytest.approx(coco_accuracy(samples, detected, names).AP50, abs=0.3)
    best, precise = curves.overall.best, curves.overall.at_precision(0.9)
    assert best is not None and precise is not None
    assert 0.3 < best.threshold < precise.threshold < 0.7
    matrix = confusion_matrix(samples, detected, names, best.threshold)
    assert np.trace(matrix.counts[:-1, :-1]) == pytest.approx(best.recall * curves.overall.objects, rel=0.05)
