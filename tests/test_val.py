"""The verb val: thresholds, intervals, comparison, speed, a data.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.accuracy import Accuracy, ClassAccuracy
from calibration.bootstrap import ApIntervals, Difference, WeightedAp, ap_intervals, difference
from calibration.cli import main
from calibration.evaluate_text import class_lines, difference_lines, interval_lines, threshold_lines
from calibration.labels import EVERY_CLASS, Sample
from calibration.matching import SizedSample, match_classes
from calibration.speed import speeds
from calibration.split import of_model
from calibration.thresholds import Ranked, ScoreCurve, thresholds
from streamer.common.errors import ConfigError
from streamer.detector.base import DetectTimes
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from tests.fakes import SlowDetector
from tests.media import write_image
from tests.tiny import write_tiny

SCORES = np.array([0.9, 0.8, 0.7, 0.7, 0.6, 0.5])
TRUE = np.array([True, True, False, True, True, False])


def curve_of(scores: Sequence[float] | np.ndarray, is_right: Sequence[bool] | np.ndarray, objects: int) -> ScoreCurve:
    return ScoreCurve.of(Ranked(np.array(scores, np.float32), np.array(is_right, bool), objects))


class TestThresholds:
    def test_lowest_threshold_with_the_precision(self) -> None:
        exact = curve_of(SCORES, TRUE, 8).at_precision(1.0)
        assert exact is not None
        assert (exact.threshold, exact.precision, exact.recall) == (0.799, 1.0, 2 / 8)
        loose = curve_of(SCORES, TRUE, 8).at_precision(0.8)
        assert loose is not None
        assert (loose.threshold, loose.precision, loose.recall) == (0.599, 0.8, 4 / 8)

    def test_equal_scores_can_not_be_divided(self) -> None:
        assert curve_of([0.7, 0.7], [True, False], 1).at_precision(0.6) is None

    def test_not_reached_and_nothing_found(self) -> None:
        assert curve_of(SCORES[2:], ~TRUE[2:], 8).at_precision(0.9) is None
        for curve in (curve_of([], [], 3), curve_of([0.5], [False], 3)):
            assert curve.at_precision(0.5) is None and curve.best is None and curve.most_precise is None

    def test_best_f1_and_most_precise(self) -> None:
        best = curve_of(SCORES, TRUE, 5).best
        assert best is not None and 0.5 <= best.threshold < 0.6 and best.f1 == pytest.approx(8 / 10)
        most = curve_of(SCORES, TRUE, 5).most_precise
        assert most is not None and most.threshold == 0.799 and most.recall == 2 / 5

    @pytest.mark.parametrize(
        ("score", "shown"), [(0.12999, 0.129), (0.13, 0.129), (float(np.float32(0.6)), 0.599), (0.0002, 0.0)]
    )
    def test_the_threshold_leaves_out_nothing(self, score: float, shown: float) -> None:
        point = curve_of([score], [True], 1).at_precision(0.9)
        assert point is not None and point.threshold == shown < score

    @given(
        st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=30),
        st.integers(0, 5),
        st.floats(0.05, 1.0),
    )
    def test_equals_trying_every_threshold(self, rows: list[tuple[int, bool]], missed: int, wanted: float) -> None:
        scores = np.array(sorted((score / 20 for score, _ in rows), reverse=True), np.float32)
        is_true = np.array([true for _, true in rows], bool)
        objects = int(is_true.sum()) + missed
        curve = curve_of(scores, is_true, objects)
        points = [curve.at(number / 1000) for number in range(1000)]
        for point in points[::49]:
            shown = is_true[scores > np.float32(point.threshold)]
            assert (point.precision, point.recall) == (
                shown.mean() if len(shown) else 1,
                shown.sum() / objects if objects else 0,
            )
        good = [point for point in points if point.precision >= wanted - 1e-12 and point.recall]
        reached = curve.at_precision(wanted)
        assert (None if reached is None else reached.recall) == (good[0].recall if good else None)
        if reached is not None:
            above = curve.at(reached.threshold + 0.001)
            assert (reached in good and above.recall < reached.recall) or above.precision != reached.precision
        best, most = curve.best, curve.most_precise
        assert (0 if best is None else best.f1) == max(point.f1 for point in points)
        assert (0 if most is None else most.precision) == max(
            (point.precision for point in points if point.recall), default=0
        )


def labelled(class_ids: list[int], boxes_xyxy: list[list[float]], crowds: list[bool] | None = None) -> SizedSample:
    """A picture of 100 x 100 pixels."""
    boxes = np.array(boxes_xyxy, np.float64).reshape(-1, 4) / 100
    centred = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
    is_crowd = None if crowds is None else np.array(crowds, bool)
    return SizedSample(Sample(Path("a.jpg"), np.array(class_ids, np.int64), centred, is_crowd), (100, 100))


def seen(class_ids: list[int], boxes_xyxy: list[list[float]], scores: list[float]) -> Detections:
    boxes = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(scores, np.float32), np.array(class_ids, np.int64))


def draw(random: np.random.Generator, count: int, skill: float = 0.7) -> tuple[list[SizedSample], list[Detections]]:
    """Pictures that differ in difficulty, so that the objects of one picture are no independent draws."""
    pictures, found = [], []
    for _ in range(count):
        ease = random.normal(skill, 0.2)
        objects = int(random.integers(1, 5))
        boxes = [[20.0 * i, 10, 20 * i + 15, 60] for i in range(objects)]
        pictures.append(labelled([0] * objects, boxes))
        hit = random.random(objects) < ease
        shift = random.uniform(0, 5, objects)
        kept = [[x1 + s, y1, x2 + s, y2] for (x1, y1, x2, y2), s, h in zip(boxes, shift, hit, strict=True) if h]
        extra = [[80.0, 70, 95, 90]] * int(random.random() < 0.5)
        scores = [*np.clip(random.normal(0.6, 0.2, len(kept)), 0.05, 1), *random.uniform(0.05, 0.6, len(extra))]
        found.append(seen([0] * len(scores), kept + extra, scores))
    return pictures, found


def ap_of(pictures: list[SizedSample], found: list[Detections]) -> float:
    return WeightedAp(pictures, found)(np.ones(len(pictures), np.int64))


class TestIntervals:
    @pytest.mark.slow
    def test_interval_holds_the_truth_95_times_of_100(self) -> None:
        """More than 12 misses of 100 have a chance of 0.2 % where 5 are due, and none a chance of 0.6 %."""
        truth = np.mean([ap_of(*draw(np.random.default_rng(seed), 2000)) for seed in range(3)])
        misses = 0
        for seed in range(100):
            pictures, found = draw(np.random.default_rng(1000 + seed), 40)
            interval = ap_intervals(WeightedAp(pictures, found), 40).AP
            assert interval is not None
            misses += not interval[0] <= truth <= interval[1]
        assert 1 <= misses <= 12

    @pytest.mark.slow
    def test_difference_holds_the_truth_95_times_of_100(self) -> None:
        def pair(seed: int, count: int) -> tuple[list[SizedSample], list[Detections], list[Detections]]:
            random = np.random.default_rng(seed)
            pictures, first = draw(random, count)
            second = [
                replace(each, boxes_xyxy=each.boxes_xyxy + random.normal(0, 1.0, each.boxes_xyxy.shape))
                for each in first
            ]
            return pictures, first, second

        def true_difference(seed: int) -> float:
            pictures, first, second = pair(seed, 2000)
            return ap_of(pictures, second) - ap_of(pictures, first)

        truth = np.mean([true_difference(seed) for seed in range(3)])
        misses = 0
        for seed in range(100):
            pictures, first, second = pair(1000 + seed, 40)
            interval = difference(WeightedAp(pictures, first), WeightedAp(pictures, second), 40).interval
            assert interval is not None
            misses += not interval[0] <= truth <= interval[1]
        assert 1 <= misses <= 12

    def test_more_pictures_narrow_it(self) -> None:
        few, many = (ap_intervals(WeightedAp(*draw(np.random.default_rng(0), count)), count).AP for count in (30, 270))
        assert few is not None and many is not None
        assert 2 < (few[1] - few[0]) / (many[1] - many[0]) < 5

    def test_one_picture_no_objects_and_equal_pictures_have_none(self) -> None:
        right = [[10.0, 10, 40, 40]]
        one = WeightedAp([labelled([0], right)], [seen([0], right, [0.9])])
        none = ApIntervals(None, None, None)
        assert ap_intervals(one, 1) == none
        assert ap_intervals(WeightedAp([labelled([], [])] * 3, [Detections.empty()] * 3), 3) == none
        assert ap_intervals(WeightedAp([labelled([0], right)] * 3, [seen([0], right, [0.9])] * 3), 3) == none
        assert difference(one, one, 1) == Difference(0, None, None)

    def test_stays_between_0_and_100(self) -> None:
        pictures, found = draw(np.random.default_rng(3), 4, skill=0.98)
        intervals = ap_intervals(WeightedAp(pictures, found), 4)
        for each in (intervals.AP, intervals.AP50, intervals.AP75):
            assert each is None or 0 <= each[0] < each[1] <= 100

    def test_which_model_is_better(self) -> None:
        pictures, found = draw(np.random.default_rng(1), 60)
        worse = [Detections(each.boxes_xyxy[::2], each.scores[::2], each.class_ids[::2]) for each in found]
        first, second = WeightedAp(pictures, found), WeightedAp(pictures, worse)
        same = difference(first, first, 60)
        assert (same.value, same.interval, same.chance_second_is_better) == (0, (0, 0), 0.5)
        lost, won = difference(first, second, 60), difference(second, first, 60)
        assert lost.value == -won.value < -5
        assert lost.chance_second_is_better is not None and lost.chance_second_is_better < 0.01
        assert won.chance_second_is_better is not None and won.chance_second_is_better > 0.99

    def test_ap_of_each_iou_and_crowds_are_coco_s(self) -> None:
        pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")
        from calibration.accuracy import coco_accuracy

        random = np.random.default_rng(0)
        pictures, found = [], []
        for _ in range(20):
            corners = random.uniform(0, 50, (4, 2))
            boxes = np.hstack([corners, corners + random.uniform(15, 50, (4, 2))])
            pictures.append(labelled([0, 1, 0, 0], boxes.tolist(), [False, False, True, False]))
            guesses = np.vstack([boxes, boxes]) + random.normal(0, 3, (8, 4))
            found.append(seen([0, 1, 0, 0, 1, 0, 0, 1], guesses.tolist(), random.uniform(0.1, 1, 8).tolist()))
        wanted = coco_accuracy([each.sample for each in pictures], [((100, 100), each) for each in found], ("a", "b"))
        by_iou = WeightedAp(pictures, found).by_iou(np.ones(20, np.int64))
        assert 10 < wanted.AP < 90
        assert (by_iou.mean(), by_iou[0], by_iou[5]) == pytest.approx((wanted.AP, wanted.AP50, wanted.AP75))


def test_thresholds_of_all_classes_count_detections_of_classes_without_objects() -> None:
    box = [[10.0, 10, 40, 40]]
    classes = match_classes([labelled([0], box)], [seen([0, 1], box * 2, [0.6, 0.9])])
    assert [each.class_id for each in classes] == [0, 1]
    point = thresholds(classes, 0.4).at_precision
    assert point is not None and point.precision == 0.5 and point.recall == 1
    assert thresholds(classes, 0.9).at_precision is None
    assert thresholds([], 0.9) == thresholds(classes[:0], 0.5)


def test_detections_in_a_crowd_count_neither_way() -> None:
    boxes = [[10.0, 10, 40, 40], [50, 50, 90, 90]]
    picture = labelled([0, 0], boxes, [False, True])
    (matches,) = match_classes([picture], [seen([0, 0], boxes, [0.6, 0.9])])
    point = thresholds([matches], 0.9).at_precision
    assert point is not None and (point.threshold, point.recall) == (0.599, 1)


class TestText:
    def test_no_intervals_few_pictures_and_sizes_that_are_missing(self) -> None:
        accuracy = Accuracy(50, 60, 40, float("nan"), float("nan"), 50)
        lines = list(interval_lines(accuracy, ApIntervals(None, None, None), 1))
        assert lines[0].startswith("no intervals: they take two pictures")
        assert lines[1] == "no small or medium objects in these pictures"
        (line,) = interval_lines(replace(accuracy, APs=1, APm=1), ApIntervals((45, 55), (50, 70), (30, 50)), 10)
        assert "AP 45.0 to 55.0" in line and "too narrow" in line
        classes = {"cat": ClassAccuracy(50, 60, 9), "dog": ClassAccuracy(50, 60, 10)}
        _, rare, _ = interval_lines(replace(accuracy, classes=classes), ApIntervals((45, 55), (50, 70), (30, 50)), 40)
        assert rare == "1 of 2 classes has fewer than 10 objects, with which AP tends to be too high"

    def test_thresholds_in_words(self) -> None:
        box = [[10.0, 10, 40, 40]]
        classes = match_classes([labelled([0], box)] * 2, [seen([0], box, [0.6]), seen([1], box, [0.9])])
        reached = list(threshold_lines("all classes", thresholds(classes, 0.5), 0.5))
        assert reached[0] == "all classes: precision 0.5 or more from --conf 0.599: precision 0.500, recall 0.500"
        assert reached[1].startswith("all classes: best F1 0.500 at --conf 0.299")
        (missed, _) = threshold_lines("all classes", thresholds(classes, 0.95), 0.95)
        assert "precision 0.95 isn't reached; the highest is at --conf 0.599: precision 0.500" in missed
        (nothing,) = threshold_lines("cat", thresholds([], 0.9), 0.9)
        assert nothing == "cat: nothing right is found, so no threshold has precision 0.9"

    def test_a_table_of_classes_the_worst_first(self) -> None:
        box = [[10.0, 10, 40, 40]]
        (cats,) = match_classes([labelled([0], box)], [seen([0], box, [0.6])])
        classes = {"cat": ClassAccuracy(50, 60, 1), "dog": ClassAccuracy(0, 0, 2)}
        accuracy = Accuracy(50, 60, 40, 1, 1, 1, classes)
        _, head, dog, cat = class_lines(accuracy, {"cat": thresholds([cats], 0.9)}, 0.9)
        assert head.split() == ["AP", "AP50", "objects", "--conf", "recall", "--conf", "F1", "class"]
        assert dog.split() == ["0.00", "0.00", "2", "never", "-", "-", "-", "dog"]
        assert cat.split() == ["50.00", "60.00", "1", "0.599", "1.000", "0.299", "1.000", "cat"]

    def test_comparison_names_both_models(self) -> None:
        compared, faster = difference_lines("a", "b", Difference(-1, (-2.0, 0.5), 0.1), 0.5)
        assert compared.startswith("drop -1.00 AP, 95 % interval -2.00 to +0.50")
        assert compared.endswith("probability that b is better than a: 0.10")
        assert faster.startswith("a is 2.00 times as fast as b")
        compared, slower = difference_lines("a", "b", Difference(0, None, None), 1.5)
        assert "no interval" in compared and slower.startswith("a is 1.50 times as slow as b")


def test_models_are_timed_in_turns_after_a_warm_up() -> None:
    order: list[str] = []

    class Named(SlowDetector):
        def __init__(self, name: str, network_ms: float) -> None:
            super().__init__(during=lambda _: order.append(name))
            self._network_ms = network_ms

        def collect(self) -> tuple[Frame, Detections, DetectTimes]:
            frame, found, _ = super().collect()
            is_warm = order.count(order[-1]) > 5
            return frame, found, DetectTimes(0.0, self._network_ms if is_warm else 1e6, 0.0)

    frames = [Frame(np.zeros((24, 32, 3), np.uint8), "x", index, 0.0, 0.0) for index in range(3)]
    first, second = speeds([Named("a", 2.0), Named("b", 3.0)], frames, threads=3)
    assert order == ["a", "b"] * (len(order) // 2)
    assert (first.network_ms, second.network_ms) == (2.0, 3.0)
    assert first.turns == len(order) // 2 - 5 and first.threads == 3
    assert first.frame_ms > 0


class TestSplit:
    def sample(self, *class_ids: int) -> Sample:
        count = len(class_ids)
        boxes = np.arange(1, count + 1)[:, None] * np.full(4, 0.1)
        crowds, areas = np.arange(count) % 2 == 1, np.arange(count) / 10
        return Sample(Path("a.jpg"), np.array(class_ids, np.int64), boxes, crowds, areas)

    def test_ids_become_the_model_s_by_name(self, caplog: pytest.LogCaptureFixture) -> None:
        given = [self.sample(0, 1, 2), self.sample()]
        first, second = of_model(given, ("Car", "unicorn", "traffic_light"), ("traffic light", "car"), Path("d.yaml"))
        assert first.class_ids.tolist() == [1, 0]
        assert first.boxes_cxcywh[:, 0] == pytest.approx([0.1, 0.3])
        assert first.is_crowd is not None and first.is_crowd.tolist() == [False, False]
        assert first.areas is not None and first.areas.tolist() == [0, 0.2]
        assert len(second.class_ids) == 0
        assert "left out 1 object of classes that the model doesn't have ('unicorn')" in caplog.text

    def test_a_region_of_every_class_stays_one_and_is_no_object(self) -> None:
        (placed,) = of_model([self.sample(1, EVERY_CLASS)], ("dog", "car"), ("car",), Path("d.yaml"))
        assert placed.class_ids.tolist() == [0, EVERY_CLASS]
        with pytest.raises(ConfigError, match="no object in its 1 picture"):
            of_model([replace(placed, is_crowd=np.array([True, True]))], ("car",), ("car",), Path("d.yaml"))

    def test_nothing_to_measure(self) -> None:
        with pytest.raises(ConfigError, match="the model has none of its classes"):
            of_model([self.sample(0)], ("unicorn",), ("car",), Path("d.yaml"))
        with pytest.raises(ConfigError, match="no object in its 2 pictures"):
            of_model([self.sample(), self.sample()], ("car",), ("car",), Path("d.yaml"))


@dataclass(frozen=True)
class Data:
    """Shaped as what `calibration.data.read_data` returns."""

    names: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    findings: tuple[object, ...] = ()


class TestVerb:
    @pytest.fixture(autouse=True)
    def _needs_coco_metrics(self) -> None:
        pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")

    @pytest.fixture
    def pictures(self, tmp_path: Path) -> list[str]:
        for name in ("images", "labels"):
            (tmp_path / name).mkdir()
        for number in range(3):
            write_image(tmp_path / "images" / f"{number}.png", number)
            (tmp_path / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        return ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels")]

    @pytest.mark.slow
    def test_one_model_against_another(
        self, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        how = ["--engine", "openvino", "--device", "cpu", "--threads", "1", "--json", str(tmp_path / "v.json")]
        model = ["--model", "nanodet-g_416", "--against", "nanodet-g_416_float", "--per-class"]
        assert main(["val", *model, *pictures, *how]) == 0
        measured = json.loads((tmp_path / "v.json").read_text())
        assert measured["speed"]["threads"] == 1 and measured["speed"]["network_ms"] > 0
        assert measured["speed"]["frame_ms"] > measured["speed"]["network_ms"]
        assert measured["against"]["time_ratio"] > 0
        assert measured["precision_at"] == 0.9
        assert measured["against"]["difference"]["value"] == pytest.approx(measured["against"]["drop"])
        printed = capsys.readouterr().out
        assert "openvino int8" in printed and "openvino f32" in printed and "1 thread)" in printed
        assert "drop" in printed and "agreement" in printed
        assert "{" not in printed

    def test_models_of_other_classes_are_not_compared(
        self, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = ["--model", str(write_tiny(tmp_path / "tiny.onnx")), "--against", "nanodet-g_416"]
        assert main(["val", *model, *pictures, "--device", "cpu"]) == 2
        assert "nanodet-g_416 has other classes than" in capsys.readouterr().err

    def test_a_split_of_a_data_yaml(
        self, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = tmp_path / "images" / "0.png"
        sample = Sample(image, np.zeros(1, np.int64), np.array([[0.5, 0.5, 0.2, 0.2]]))
        findings = (
            SimpleNamespace(severity="info", text="5 pictures"),
            SimpleNamespace(severity="error", text="no box"),
        )
        data = Data(("person",), {"val": (), "test": (sample,)}, findings)
        monkeypatch.setattr("calibration.data.read_data", lambda _: data)
        model = str(write_tiny(tmp_path / "tiny.onnx"))
        arguments = ["val", "--model", model, "--device", "cpu", "--data", str(tmp_path / "data.yaml")]
        assert main([*arguments, "--split", "test", "--json", str(tmp_path / "v.json")]) == 0
        printed = capsys.readouterr().out
        assert "data.yaml: 1 kind of findings while reading, such as: no box (see the verb check)" in printed
        assert "no intervals" in printed and "{" not in printed
        assert json.loads((tmp_path / "v.json").read_text())["images"] == 1
        assert main(arguments) == 2
        assert "the split 'val' has no pictures; splits with pictures: test (1)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ([], "give the pictures: --images DIR --labels DIR, or --data"),
            (["--images", "a"], "give the pictures"),
            (["--data", "d.yaml", "--images", "a"], "leave out --images and --labels"),
            (["--images", "a", "--labels", "b", "--split", "val"], "--split is of a data.yaml"),
            (["--data", "d.yaml", "--precision-at", "0"], "--precision-at wants a number above 0"),
            (["--data", "d.yaml", "--precision-at", "nan"], "--precision-at wants a number above 0"),
            (["--data", "d.yaml", "--threads", "0"], "--threads wants at least 1"),
        ],
    )
    def test_contradictory_options(self, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["val", "--model", "nanodet-g_416", *options]) == 2
        assert said in capsys.readouterr().err
