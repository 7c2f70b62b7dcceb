"""Colours of classes, measured in CIELAB."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from streamer.frames.palette import class_colour, ink_on

COCO = (Path(__file__).parent.parent / "streamer/data/coco.txt").read_text().split("\n")
# Classes with many objects in COCO's train2017.
FREQUENT = (
    "person,car,chair,book,bottle,cup,dining table,bowl,traffic light,backpack,bicycle,motorcycle,bus,truck,dog,cat"
)


def lab() -> npt.NDArray[np.float32]:
    """Returns (80, 3) float32: lightness, a, b of the colours, for D65."""
    colours = np.array([class_colour(index) for index in range(80)], np.float32)
    return np.asarray(cv2.cvtColor(colours[None] / 255, cv2.COLOR_BGR2Lab)[0])


def differences() -> npt.NDArray[np.float32]:
    """Returns (80, 80) float32: Euclidean distances in CIELAB, infinite between a colour and itself."""
    distances = np.linalg.norm(lab()[:, None] - lab()[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances


def frequent() -> list[int]:
    return [COCO.index(name) for name in FREQUENT.split(",")]


def test_the_colours_of_80_classes_are_different() -> None:
    assert differences().min() > 10
    assert class_colour(80) == class_colour(0)


def test_neighbouring_classes_are_far_apart() -> None:
    between = differences()
    assert min(between[index, index + 1] for index in range(79)) > 40
    assert min(between[index, index + step] for step in (2, 3) for index in range(80 - step)) > 25


def test_the_most_frequent_classes_are_far_apart() -> None:
    assert len(frequent()) == 16
    assert differences()[np.ix_(frequent(), frequent())].min() > 23


def test_person_and_dining_table_are_far_apart() -> None:
    assert differences()[COCO.index("person"), COCO.index("dining table")] > 50


def test_seen_by_people_the_colours_differ_too() -> None:
    """CIEDE2000 weights differences as people see them; 1 is just noticeable side by side."""
    colour = pytest.importorskip("skimage.color")
    between = colour.deltaE_ciede2000(lab()[:, None], lab()[None])
    np.fill_diagonal(between, np.inf)
    assert between.min() > 9
    assert min(between[index, index + 1] for index in range(79)) > 29
    assert between[np.ix_(frequent(), frequent())].min() > 14.9


@pytest.mark.parametrize("index", range(80))
def test_label_text_contrasts_with_its_plate(index: int) -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        linear = (np.array(colour[::-1]) / 255) ** 2.2
        return float(linear @ (0.2126, 0.7152, 0.0722))

    fill, ink = luminance(class_colour(index)), luminance(ink_on(class_colour(index)))
    assert (max(fill, ink) + 0.05) / (min(fill, ink) + 0.05) > 3.0  # WCAG 2.1, 1.4.3: bold or large text


@pytest.mark.parametrize(
    ("fill_bgr", "ink"),
    [((0, 239, 0), (0, 0, 0)), ((0, 238, 0), (255, 255, 255)), ((255, 180, 0), (255, 255, 255)),
     ((0, 100, 255), (255, 255, 255)), ((0, 150, 0), (255, 255, 255)), ((255, 190, 0), (0, 0, 0)),
     ((9, 223, 27), (255, 255, 255))],  # the last one's luma is 140
)  # fmt: skip
def test_ink_is_black_above_a_luma_of_140(fill_bgr: tuple[int, int, int], ink: tuple[int, int, int]) -> None:
    assert ink_on(fill_bgr) == ink
