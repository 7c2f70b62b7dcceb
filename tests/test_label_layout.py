"""Where labels and panels lie, so that none hides another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.frames.canvas import BgrCanvas, Plate
from streamer.frames.canvas import Box as CanvasBox
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.label_layout import Corner, label_place
from streamer.frames.viewport import Viewport
from tests.drawing import LABELS, Size, changed, found, frame_of, outline


@pytest.fixture
def pasted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the labels that are pasted."""
    places = []
    paste = BgrCanvas.paste

    def record(canvas: BgrCanvas, plate: Plate, x: int, y: int) -> None:
        height, width = plate[0].shape[:2]
        places.append((x, y, x + width, y + height))
        paste(canvas, plate, x, y)

    monkeypatch.setattr(BgrCanvas, "paste", record)
    return places


@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_labels_kept_apart_never_cover_each_other(count: int, pasted: list[tuple[int, int, int, int]]) -> None:
    random = np.random.default_rng(count)
    corners = random.uniform(0, (200, 150), (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 120, (count, 2))], axis=1)
    detections = found(*((box, 0) for box in boxes.tolist()))
    Annotator(LABELS, apart=True).annotate(frame_of((320, 240), "bgr"), detections)
    assert 1 <= len(pasted) <= count
    for number, (left, top, right, bottom) in enumerate(pasted):
        assert 0 <= left and 0 <= top and right <= 320 and bottom <= 240
        for other_left, other_top, other_right, other_bottom in pasted[:number]:
            assert right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top


def test_labels_of_equal_boxes_lie_above_inside_and_below(pasted: list[tuple[int, int, int, int]]) -> None:
    detections = found(*[((100.0, 100.0, 300.0, 200.0), 0)] * 13)
    Annotator(LABELS, apart=True).annotate(frame_of((640, 480), "bgr"), detections)
    height = pasted[0][3] - pasted[0][1]
    width = pasted[0][2] - pasted[0][0]
    ends = [100, 300 - width]
    assert [place[:2] for place in reversed(pasted)] == [
        (left, top) for top in (100 - height, 100, 200, 200 - height, 100 + height, 200 - 2 * height) for left in ends
    ]


@pytest.mark.parametrize("shift", [0, 2, 4])
@pytest.mark.parametrize("ids", [(0, 1), (1, 0), (0, 0)])
def test_labels_of_neighbours_never_cover_each_other_and_dont_follow_the_scores(
    shift: int, ids: tuple[int, int], pasted: list[tuple[int, int, int, int]]
) -> None:
    boxes = ((100.0, 100.0, 300.0, 200.0), (100.0 + shift, 100.0, 300.0, 200.0))
    annotator, frame = Annotator(LABELS), frame_of((640, 480), "bgr")
    annotator.annotate(frame, found((boxes[0], ids[0]), (boxes[1], ids[1])))
    annotator.annotate(frame, found((boxes[1], ids[1]), (boxes[0], ids[0])))
    first, second, first_again, second_again = (pasted[at] for at in (1, 0, 2, 3))
    assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
    if shift or ids[0] != ids[1]:
        assert (first, second) == (first_again, second_again)


@given(
    st.lists(st.tuples(*[st.integers(-20, 660)] * 4), min_size=1, max_size=40),
    st.sampled_from([(640, 480), (320, 181), (90, 400)]),
)
@settings(max_examples=60, deadline=None)
def test_labels_are_in_the_picture_and_free_where_they_can_be(rows: list[tuple[int, ...]], size_wh: Size) -> None:
    panels = [Corner.TOP_LEFT.place((60, 20), 4, size_wh)]
    taken: list[CanvasBox] = []
    for x1, y1, x2, y2 in rows:
        box = min(x1, x2) // 2 * 2, min(y1, y2) // 2 * 2, max(x1, x2), max(y1, y2)
        place, is_free = label_place(box, (80, 16), size_wh, taken, panels)
        assert place.left >= 0 <= place.top and place.right <= size_wh[0] and place.bottom <= size_wh[1]
        assert place.left % 2 == place.top % 2 == 0
        covered = [
            other
            for other in (*taken, *panels)
            if place.left < other.right and other.left < place.right
            and place.top < other.bottom and other.top < place.bottom
        ]  # fmt: skip
        assert is_free == (not covered)
        taken.append(place)


def test_a_label_without_a_free_place_covers_another_label_rather_than_the_clock() -> None:
    panel = CanvasBox(0, 0, 200, 30)
    labels = [CanvasBox(0, 60, 200, 76), CanvasBox(0, 44, 200, 60)]
    place, is_free = label_place((0, 20, 200, 60), (200, 16), (200, 116), labels, [panel])
    assert not is_free and place.top >= 30


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize("corner", list(Corner))
def test_the_overlay_lies_in_its_corner(corner: Corner, kind: str) -> None:
    frame = frame_of((640, 480), kind)
    drawn = Annotator(LABELS).annotate(frame, Detections.empty(), ["25 FPS"], corner=corner)
    rows, columns = np.nonzero(changed(frame, drawn))
    assert (rows.max() < 60) == corner.name.startswith("TOP") and (rows.min() > 420) == corner.name.startswith("BOTTOM")
    assert (columns.max() < 160) == corner.name.endswith("LEFT")
    assert (columns.min() > 480) == corner.name.endswith("RIGHT")


def test_the_overlay_goes_to_a_corner_without_a_box_and_labels_leave_it_free(
    pasted: list[tuple[int, int, int, int]],
) -> None:
    annotator, frame = Annotator(LABELS), frame_of((640, 480), "bgr")
    lines = ["25 FPS", "0 dropped"]
    for at, box in enumerate([(0, 0, 90, 90), (600, 0, 640, 90), (0, 300, 90, 480)]):
        assert annotator.free_corner(frame, found((box, 0)), lines, list(Corner)) is list(Corner)[int(at == 0)]
    everywhere = found(((0.0, 0.0, 640.0, 480.0), 0))
    assert annotator.free_corner(frame, everywhere, lines, [Corner.BOTTOM_LEFT, Corner.TOP_LEFT]) is Corner.BOTTOM_LEFT
    drawn = annotator.annotate(frame, everywhere, lines)
    ((left, top, right, bottom),) = pasted
    plain = annotator.annotate(frame, Detections.empty(), lines)
    assert not changed(frame, plain)[top:bottom, left:right].any()
    assert changed(plain, drawn)[top:bottom, left:right].any()


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize(("size_wh", "is_left_out"), [((64, 48), True), ((96, 54), True), ((320, 180), False)])
def test_a_panel_is_left_out_where_it_would_hide_the_picture(size_wh: Size, is_left_out: bool, kind: str) -> None:
    frame = frame_of(size_wh, kind)
    drawn = Annotator(LABELS).annotate(frame, Detections.empty(), ["25.0 FPS  12 / 31 ms p50 / p95", "0 dropped"])
    assert changed(frame, drawn).any() != is_left_out


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_a_tiny_picture_has_boxes_without_labels(kind: str) -> None:
    frame = frame_of((64, 48), kind)
    drawn = Annotator(LABELS).annotate(frame, found(((10, 20, 50, 40), 0)))
    np.testing.assert_array_equal(changed(frame, drawn), outline((64, 48), (10, 20, 50, 40), (2, 2)))


def test_labels_leave_the_name_of_a_tile_free(pasted: list[tuple[int, int, int, int]]) -> None:
    frame = frame_of((640, 360), "bgr")
    low = found(((0.0, 335.0, 60.0, 360.0), 0))
    Annotator(LABELS).annotate(frame, low, viewport=Viewport((640, 360), (60, 24)))
    assert pasted[0][3] <= 360 - 24 or pasted[0][0] >= 60


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_the_stamp_is_in_the_top_left_corner_and_a_label_goes_below(
    kind: str, pasted: list[tuple[int, int, int, int]]
) -> None:
    frame = frame_of((640, 480), kind)
    stamped = Annotator(LABELS).annotate(frame, Detections.empty(), stamp="0:00:01.0  door")
    rows, columns = np.nonzero(changed(frame, stamped))
    assert rows.max() < 30 and columns.max() < 160
    if kind == "bgr":
        Annotator(LABELS).annotate(frame, found(((0.0, 20.0, 200.0, 200.0), 0)), stamp="0:00:01.0  door")
        assert pasted[0][1] >= rows.max() or pasted[0][0] >= columns.max()


def test_a_label_kept_apart_lies_where_it_lies_without_others(pasted: list[tuple[int, int, int, int]]) -> None:
    for apart in (False, True):
        Annotator(LABELS, apart=apart).annotate(frame_of((640, 480), "bgr"), found(((630, 5, 640, 90), 1)))
    assert pasted[0] == pasted[1]
