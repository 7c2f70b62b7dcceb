"""What ``benchmarks.live_page`` computes from what it measures."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from benchmarks.live_page import report_boxes, report_lag, report_viewers
from benchmarks.page_camera import PICTURES, SIZE_WH, STEP_PX, DueCamera, direction_of, left_of, person_xyxy, pictures
from benchmarks.page_cost import Boxes, Lag, ViewerCost, off_pictures
from benchmarks.page_tab import BoxOffset
from tests.rtsp.code import read_code


def test_the_person_walks_a_step_a_picture_and_back_to_where_it_began() -> None:
    for number in range(2 * PICTURES):
        assert left_of(number + 1) - left_of(number) == STEP_PX * direction_of(number)
    left, _, right, _ = person_xyxy(PICTURES // 2)
    assert left > SIZE_WH[0] / 2 and right > left


def test_pictures_say_their_number() -> None:
    for number, picture in zip(range(3), pictures(), strict=False):
        code = read_code(picture)
        assert code is not None and code.number == number


@pytest.mark.parametrize(
    ("number", "at_s", "age_s"), [(0, 100.0, 0.0), (29, 101.0, 1 / 30), (239, 108.1, 8.1 - 239 / 30)]
)
def test_ages_count_from_the_newest_picture_of_that_number(number: int, at_s: float, age_s: float) -> None:
    camera = DueCamera.__new__(DueCamera)
    camera.fps, camera.origin_s = 30, 100.0
    assert camera.age_s(number, at_s) == pytest.approx(age_s, abs=1e-6)
    assert camera.age_s(number, at_s + PICTURES / 30) == pytest.approx(age_s, abs=1e-6)


def test_boxes_that_lag_are_behind_in_both_directions() -> None:
    """The detector's box is 3 pixels to the right of the person; those of one picture before are a step behind."""
    offsets = [BoxOffset(number, 3.0 - STEP_PX * direction_of(number)) for number in (5, 10, 200, 210)]
    assert off_pictures(offsets) == [1.0, 1.0, 1.0, 1.0]
    assert off_pictures([BoxOffset(5, 3.0), BoxOffset(200, 3.0)]) == [0.0, 0.0]


def test_reports_say_what_was_wanted() -> None:
    cost = [ViewerCost("mse", 0, [100.0]), ViewerCost("mse", 1, [110.0]), ViewerCost("mse", 10, [131.0])]
    assert "1.31 times none, wanted 1.3: missed" in report_viewers(cost)
    said = report_lag([Lag("mse", [0.1] * 20), Lag("webrtc", [0.4] * 20)], [2.5])
    assert "reached" in said and "missed" in said and "at least 2500 ms" in said
    assert "missed" in report_boxes([Boxes("mse", [0.0, 2.0])])
