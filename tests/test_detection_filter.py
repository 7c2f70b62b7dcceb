"""Which detections are reported: by class, score, size, place and number, whatever computed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import open_detector
from streamer.common.errors import ConfigError
from streamer.detector.detection_filter import DetectionFilter, thresholds_by_id
from streamer.detector.filter_options import (
    BoxSize,
    ClassThresholds,
    FilterOptions,
    MaskPicture,
    Polygon,
    filter_options,
    lowest,
    parse_areas,
)
from streamer.detector.self_check import packaged_frame
from streamer.frames.detections import Detections

LABELS = ["person", "car", "Fußgänger"]
SIZE_WH = (200, 100)


def found(*rows: tuple[int, float, float, float, float, float]) -> Detections:
    """Returns detections of (class, score, left, top, right, bottom)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


def kept(detections: Detections, **options: Any) -> list[int]:
    """Returns the places of the detections that are reported."""
    left = DetectionFilter(filter_options(**options), LABELS)(detections, SIZE_WH)
    return [detections.scores.tolist().index(score) for score in left.scores.tolist()]


SCORED = found(*((class_id, 0.9 - 0.1 * number, 0, 0, 9, 9) for number, class_id in enumerate((0, 1, 2, 0, 1, 2))))


@pytest.mark.parametrize(
    "text,default,by_class",
    [
        ("0.3", 0.3, ()),
        (0, 0.0, ()),
        ("person=0.5,car=0.3,0.4", 0.4, (("person", 0.5), ("car", 0.3))),
        (" traffic light = .5 , 1", 1.0, (("traffic light", 0.5),)),
        ("0=0.5", 0.4, (("0", 0.5),)),
        ("a=b=0.5", 0.4, (("a=b", 0.5),)),
        ({"person": 0.5, "default": 0.2}, 0.2, (("person", 0.5),)),
        ({0: 1}, 0.4, (("0", 1.0),)),
    ],
)
def test_scores_by_class(text: Any, default: float, by_class: tuple[tuple[str, float], ...]) -> None:
    parsed = ClassThresholds.parse(text)
    assert parsed == ClassThresholds(default, by_class) == ClassThresholds.parse(parsed)


@pytest.mark.parametrize(
    "text,words",
    [
        ("person=2", "wanted a score from 0 to 1, also by class as in person=0.5,car=0.3,0.4; '2' is none"),
        ("person", "'person' is none"),
        ("person=", "'' is none"),
        ("=0.5", "wanted a class before the '='"),
        ("car=0.3,car=0.4", "class 'car' has two scores"),
        ("0.3,0.4", "all other classes have two scores"),
        ("nan", "'nan' is none"),
        ({"person": True}, "True is none"),
        ({"person": None}, "None is none"),
    ],
)
def test_scores_that_are_none(text: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="^conf: ") as caught:
        filter_options(conf=text)
    assert words in str(caught.value)


@given(st.text(alphabet="abc=,.019 %x;-", max_size=20))
def test_any_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    for key in ("conf", "min_size", "ignore"):
        try:
            filter_options(**{key: text})
        except ConfigError as error:
            assert str(error).startswith(f"{key}: ") and "\n" not in str(error)


def test_the_lowest_of_several() -> None:
    several = [ClassThresholds.parse(text) for text in ("person=0.6,0.3", "car=0.2,0.5")]
    assert lowest(several) == ClassThresholds(0.3, (("person", 0.5), ("car", 0.2)))
    assert lowest(several[:1]) == several[0]


def test_each_class_has_its_score() -> None:
    assert kept(SCORED, conf="person=0.7,car=0.45,0.75") == [0, 1, 4]
    assert kept(SCORED, conf=0.65, classes=["car", "person"]) == [0, 1]
    assert kept(SCORED, conf={"person": 0.95, "default": 0.0}, classes=["person"]) == []


def test_unknown_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no class 'persn'; did you mean 'person'"):
        thresholds_by_id(ClassThresholds.parse("persn=0.5"), None, LABELS)
    with pytest.raises(ConfigError, match="no class 'cat'"):
        DetectionFilter(FilterOptions(classes=("cat",)), LABELS)


@pytest.mark.parametrize(
    "text,size",
    [
        ("32", BoxSize(32, 32)),
        ("32x64", BoxSize(32, 64)),
        ("0.05", BoxSize(0.05, 0.05)),
        (".5X20", BoxSize(0.5, 20)),
        ("5%", BoxSize(0.05, 0.05)),
        ("100% x 10%", BoxSize(1.0, 0.1)),
        (0.25, BoxSize(0.25, 0.25)),
        (0, BoxSize(0, 0)),
    ],
)
def test_sizes(text: Any, size: BoxSize) -> None:
    assert BoxSize.parse(text) == size


@pytest.mark.parametrize("text", ["", "x", "1x2x3", "-1", "big", "1e3", "5%%", True, "nan"])
def test_sizes_that_are_none(text: Any) -> None:
    with pytest.raises(ConfigError, match="^max_size: wanted a size in pixels such as 32 or 32x64"):
        filter_options(max_size=text)


SIZED = found((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 20, 10), (0, 0.7, 0, 0, 10, 20), (0, 0.6, 0, 0, 100, 90))


@pytest.mark.parametrize(
    "options,places",
    [
        ({"min_size": 10}, [0, 1, 2, 3]),
        ({"min_size": "11x10"}, [1, 3]),
        ({"min_size": 11}, [3]),
        ({"min_size": 0.1}, [1, 3]),
        ({"max_size": "50%"}, [0, 1, 2]),
        ({"max_size": "10x20"}, [0, 2]),
        ({"max_size": "0.5x0.9"}, [0, 1, 2, 3]),
        ({"min_size": 11, "max_size": 15}, []),
        ({"min_size": 0}, [0, 1, 2, 3]),
    ],
)
def test_boxes_of_a_size(options: dict[str, Any], places: list[int]) -> None:
    assert kept(SIZED, conf=0, **options) == places


LEFT = "0,0 0.5,0 0.5,1 0,1"
PLACED = found((0, 0.9, 10, 10, 50, 50), (0, 0.8, 80, 10, 130, 100), (0, 0.7, 150, 10, 190, 95))


@pytest.mark.parametrize(
    "area",
    [
        LEFT,
        "0,0,0.5,0,0.5,1,0,1",
        "0,0 100,0 100,100 0,100",
        [0, 0, 0.5, 0, 0.5, 1, 0, 1],
        [[0, 0], [0.5, 0], [0.5, 1], [0, 1]],
        [[[0, 0], [100, 0], [100, 100], [0, 100]]],
        ["0,0 0.2,0 0.2,1 0,1", "0.2,0 0.5,0 0.5,1 0.2,1"],
        "0,0 0.2,0 0.2,1 0,1; 0.2,0 0.5,0 0.5,1 0.2,1",
    ],
)
def test_boxes_that_stand_in_an_area_are_dropped(area: Any) -> None:
    assert kept(PLACED, conf=0, ignore=area) == [1, 2]


def test_the_centre_may_count_and_the_edge_of_the_picture_is_inside() -> None:
    lower = "0,0.9 1,0.9 1,1 0,1"
    assert kept(PLACED, conf=0, ignore=lower) == [0]
    assert kept(PLACED, conf=0, ignore=lower, ignore_at="centre") == [0, 1, 2]


def test_white_pixels_of_a_picture_are_an_area(tmp_path: Path) -> None:
    mask = np.zeros((7, 10, 3), np.uint8)
    mask[:, 5:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert kept(PLACED, conf=0, ignore=f"{tmp_path}/mask.png") == [0]
    assert kept(PLACED, conf=0, ignore=[tmp_path / "mask.png", LEFT]) == []
    mask[:6] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert kept(PLACED, conf=0, ignore=tmp_path / "mask.png") == [0]
    assert kept(PLACED, conf=0, ignore=tmp_path / "mask.png", ignore_at="centre") == [0, 1, 2]


def test_a_mask_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name, words in (("text.png", "is no picture"), ("empty.png", "is no picture"), ("gone.png", "No such file")):
        with pytest.raises(ConfigError, match=f"ignore: .*{name}.*{words}|ignore: {words}.*{name}"):
            kept(PLACED, ignore=f"{tmp_path}/{name}")


@pytest.mark.parametrize("text", ["0,0 1,1", "0,0 1,1 2", "1,2;3,4,5,6", [0, 1, 2], "1e999,0 1,0 1,1", 5, ["0,0"]])
def test_areas_that_are_none(text: Any) -> None:
    with pytest.raises(ConfigError, match="^ignore: (a polygon wants|wanted a polygon)"):
        filter_options(ignore=text)


def test_how_much_is_ignored() -> None:
    def share(**options: Any) -> float | None:
        return DetectionFilter(filter_options(**options), LABELS).ignored_share(SIZE_WH)

    assert share() is None
    assert share(ignore=LEFT) == pytest.approx(0.5)
    assert share(ignore=[LEFT, "0,0 0.25,0 0.25,1 0,1"]) == pytest.approx(0.5)
    assert share(ignore="0,0 50,0 50,50 0,50") == pytest.approx(0.125)
    assert share(ignore="900,900 950,900 950,950") == 0
    with pytest.raises(ConfigError, match="ignore: a polygon's fractions of the frame go from 0 to 1"):
        share(ignore="0,0 1.02,0 0.5,1")


def test_areas_are_what_they_look_like() -> None:
    assert parse_areas("mask.png") == (MaskPicture(Path("mask.png")),)
    assert parse_areas("1,2 3,4 5,6") == (Polygon(((1, 2), (3, 4), (5, 6))),)
    assert parse_areas(None) == parse_areas([]) == ()


def test_the_best_are_kept_of_what_is_left() -> None:
    assert kept(SCORED, conf=0, top_k=2) == [0, 1]
    assert kept(SCORED, conf=0, classes=["Fußgänger", "car"], top_k=3) == [1, 2, 4]
    assert kept(SCORED, conf=0, top_k=100) == [0, 1, 2, 3, 4, 5]
    for wrong in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="top_k wants a number of detections from 1 on"):
            filter_options(top_k=wrong)


def test_nothing_is_dropped_of_nothing() -> None:
    nothing = Detections.empty()
    assert DetectionFilter(filter_options(ignore=LEFT, top_k=1), LABELS)(nothing, SIZE_WH) is nothing


def detect(**options: Any) -> list[tuple[str, float]]:
    with open_detector(device="cpu", depth=1, **options) as detector:
        detector.submit(packaged_frame())
        _, detections, _ = detector.collect()
        return [
            (detector.labels[class_id], round(float(score), 3))
            for class_id, score in zip(detections.class_ids, detections.scores, strict=True)
        ]


def test_a_detector_reports_what_is_asked() -> None:
    everything = detect(conf=0.1)
    labels = [label for label, _ in everything]
    assert len(set(labels)) > 1
    first = labels[0]
    least = min(score for label, score in everything if label == first)
    by_class = detect(conf={first: 0.1, "default": 0.99})
    assert by_class == [each for each in everything if each[0] == first] and least > 0.1
    assert detect(conf=f"{first}=0.99,0.1") == [each for each in everything if each[0] != first or each[1] > 0.99]
    assert detect(conf=0.1, top_k=1) == everything[:1]
    assert detect(conf=0.1, ignore="0,0 1,0 1,1 0,1") == []
    assert detect(conf=0.1, min_size=0.99) == []
    with pytest.raises(ConfigError, match="no class 'nonsense'"):
        detect(conf="nonsense=0.4")
