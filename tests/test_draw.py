"""Boxes, labels and overlay on both canvases, judged by the pixels they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.palette import class_colour
from streamer.frames.scaling import resized
from streamer.frames.text import text_mask
from streamer.frames.viewport import Viewport
from streamer.frames.yuv import Yuv420
from tests.drawing import GREY, LABELS, Box, Size, changed, found, frame_of, outline


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_nothing_to_draw_costs_nothing(kind: str) -> None:
    frame = frame_of((64, 48), kind)
    assert Annotator(LABELS).annotate(frame, Detections.empty()) is frame


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_the_frame_given_is_left_alone_and_all_else_is_kept(kind: str) -> None:
    frame = frame_of((320, 240), kind)
    before = frame_of((320, 240), kind)
    drawn = Annotator(LABELS).annotate(frame, found(((40, 60, 200, 180), 0)), ["12 FPS"])
    assert not changed(before, frame).any()
    assert changed(frame, drawn).any()
    assert type(drawn.pixels) is type(frame.pixels)
    kept = ("source", "index", "pts_s", "captured_at_s", "name", "size_wh")
    assert [getattr(drawn, name) for name in kept] == [getattr(frame, name) for name in kept]


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_a_box_is_drawn_around_the_object_in_its_class_colour(kind: str) -> None:
    drawn = Annotator(LABELS).annotate(frame_of((640, 480), kind), found(((100, 200, 300, 400), 2))).image.astype(int)
    for x, y in ((200, 201), (200, 398), (101, 300), (298, 300)):
        assert np.abs(drawn[y, x] - class_colour(2)).max() <= 6, (x, y)
    for x, y in ((200, 300), (110, 210), (290, 390), (200, 402), (98, 300), (302, 300)):
        assert np.abs(drawn[y, x] - drawn[470, 630]).max() <= 2, (x, y)


@pytest.mark.parametrize("colorspace,color_range", [(1, 1), (1, 2), (5, 1), (5, 2), (2, 0), (9, 1)])
def test_planes_of_any_matrix_and_range_show_the_same_colours_as_bgr(colorspace: int, color_range: int) -> None:
    drawn = Annotator(LABELS).annotate(
        frame_of((640, 480), "yuv", colorspace, color_range), found(((100, 200, 300, 400), 0))
    )
    assert isinstance(drawn.pixels, Yuv420)
    assert np.abs(drawn.image[201, 200].astype(int) - class_colour(0)).max() <= 6
    assert (drawn.pixels.matrix, drawn.pixels.full_range) == (
        frame_of((2, 2), "yuv", colorspace, color_range).pixels.matrix,
        color_range == 2,
    )


@pytest.mark.parametrize("size_wh", [(640, 480), (641, 359), (320, 240), (3840, 2160)])
def test_both_canvases_look_alike(size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    annotator = Annotator(LABELS)
    boxes = found(((width * 0.2, height * 0.4, width * 0.6, height + 9), 1), ((width - 30, -5, width + 30, 90), 3))
    brightness = []
    for kind in ("bgr", "yuv"):
        drawn = annotator.annotate(frame_of(size_wh, kind, colorspace=5), boxes, ["25.0 FPS", "0 dropped"])
        brightness.append(cv2.cvtColor(drawn.image, cv2.COLOR_BGR2GRAY).astype(int))
    drawn_on = np.abs(brightness[0] - GREY) > 16
    assert drawn_on.mean() > 0.005
    assert (np.abs(brightness[0] - brightness[1]) > 16).mean() < 0.02 * drawn_on.mean()


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize(
    "box",
    [
        (-50.0, -50.0, 60.0, 60.0),
        (600.0, 440.0, 900.0, 900.0),
        (300.0, 0.0, 340.0, 2.0),
        (639.0, 479.0, 640.0, 480.0),
        (-1e9, -1e9, 1e9, 1e9),
        (-np.inf, 10.0, np.inf, 50.0),
        (0.2, 0.2, 0.4, 0.4),
    ],
)
def test_labels_and_boxes_stay_inside_the_picture(kind: str, box: Box) -> None:
    frame = frame_of((640, 480), kind)
    drawn = Annotator(LABELS).annotate(frame, found((box, 0)))
    mask = changed(frame, drawn)
    rows, columns = np.nonzero(mask)
    assert np.ptp(columns) >= 60, "the whole label is to be seen"
    assert np.ptp(rows) >= 12
    assert drawn.size_wh == (640, 480)


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize(
    "box",
    [
        (700.0, 10.0, 800.0, 90.0),
        (50.0, 50.0, 50.0, 90.0),
        (50.0, 50.0, 90.0, 50.0),
        (90.0, 50.0, 50.0, 90.0),
        (np.nan, 0.0, 50.0, 50.0),
    ],
)
def test_boxes_with_nothing_to_show_are_not_drawn(kind: str, box: Box) -> None:
    frame = frame_of((640, 480), kind)
    assert not changed(frame, Annotator(LABELS).annotate(frame, found((box, 0)))).any()


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize("size_wh", [(1, 1), (2, 2), (3, 5), (16, 9), (31, 40)])
def test_pictures_smaller_than_a_label_are_drawn_on_too(kind: str, size_wh: tuple[int, int]) -> None:
    drawn = Annotator(LABELS).annotate(frame_of(size_wh, kind), found(((0, 0, 40, 40), 0)), ["30.0 FPS  9 dropped"])
    assert drawn.size_wh == size_wh


@pytest.mark.parametrize(
    "size_wh,least,most", [((320, 240), 0.01, 0.12), ((1280, 720), 0.004, 0.05), ((3840, 2160), 0.004, 0.05)]
)
def test_the_overlay_is_readable_and_hides_little(size_wh: tuple[int, int], least: float, most: float) -> None:
    frame = frame_of(size_wh, "bgr")
    drawn = Annotator(LABELS).annotate(frame, Detections.empty(), ["30.0 FPS  18 / 24 ms", "0 dropped"]).image
    mask = changed(frame, Frame(drawn, "x", 0, 0.0, 0.0))
    assert least < mask.mean() < most
    rows, columns = np.nonzero(mask)
    assert rows.min() < size_wh[1] * 0.02
    assert columns.min() < size_wh[0] * 0.02
    plate = drawn[rows.min() : rows.max(), columns.min() : columns.max()]
    assert plate.max() > 220, "white letters"
    assert np.median(plate) < GREY / 2, "on a dark plate"
    letters = (plate > 150).any(axis=(1, 2))
    assert letters.sum() >= 14, "two lines, each seven pixels high or more"


def test_text_outside_ascii_is_drawn_as_letters() -> None:
    frame = frame_of((640, 480), "bgr")
    box = (100.0, 200.0, 300.0, 400.0)
    pictures = [
        Annotator([label]).annotate(frame, found((box, 0))).image[170:200, 100:250]
        for label in ("Stra?e", "Straße", "??", "行人", "собака")
    ]
    for at, one in enumerate(pictures):
        for other in pictures[at + 1 :]:
            assert (one != other).any()


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_of_a_held_box_only_the_corners_are_drawn(kind: str) -> None:
    frame, box = frame_of((320, 240), kind), found(((40, 60, 200, 180), 0))
    whole, held = (changed(frame, Annotator(LABELS).annotate(frame, seen)) for seen in (box, box.reused()))
    for row, column in ((61, 199), (179, 41), (179, 199)):  # the label lies on the other
        assert whole[row, column] and held[row, column]
    for row, column in ((179, 120), (120, 41), (120, 199)):
        assert whole[row, column] and not held[row, column]
    assert held.sum() < whole.sum()


def test_the_best_score_lies_on_top() -> None:
    box = (100.0, 200.0, 300.0, 400.0)
    both = found((box, 0), (box, 1))
    drawn = Annotator(LABELS).annotate(frame_of((640, 480), "bgr"), both)
    np.testing.assert_array_equal(drawn.image[201, 250], class_colour(0))


def test_many_different_labels_do_not_pile_up() -> None:
    annotator = Annotator([f"class {index}" for index in range(700)])
    frame = frame_of((64, 48), "bgr")
    for index in range(700):
        annotator.annotate(frame, found(((4, 4, 40, 40), index)))
        assert len(annotator.plate_bytes) <= 512


def test_a_class_id_without_a_label_is_an_error() -> None:
    with pytest.raises(IndexError):
        Annotator(["only"]).annotate(frame_of((64, 48), "bgr"), found(((4, 4, 40, 40), 1)))


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_the_end_of_a_long_label_is_left_out(kind: str) -> None:
    frame, box = frame_of((640, 480), kind), ((10.0, 100.0, 200.0, 200.0), 0)
    long, longer = (Annotator(["x" * count]).annotate(frame, found(box)) for count in (65, 200_000))
    np.testing.assert_array_equal(long.image, longer.image)
    annotator = Annotator(["x" * 200_000])
    annotator.annotate(frame, found(box))
    assert max(annotator.plate_bytes) < 1 << 20


GEOMETRY = [
    ((640, 480), (100.0, 200.0, 300.0, 400.0), 1, (100, 200, 300, 400), (2, 2)),
    ((640, 480), (101.9, 201.9, 300.1, 400.1), 1, (100, 200, 302, 402), (2, 2)),  # outwards, to even
    ((1920, 1080), (100.0, 400.0, 900.0, 900.0), 1, (100, 400, 900, 900), (4, 4)),
    ((3840, 2160), (100.0, 400.0, 900.0, 900.0), 1, (100, 400, 900, 900), (6, 6)),
    ((1920, 1080), (100.0, 400.0, 900.0, 900.0), 4, (100, 400, 900, 900), (2, 6)),  # pixels four times as wide as high
]


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize(("size_wh", "given", "aspect", "box", "line_wh"), GEOMETRY)
def test_a_box_is_where_it_was_found(
    size_wh: tuple[int, int],
    given: Box,
    aspect: int,
    box: tuple[int, int, int, int],
    line_wh: tuple[int, int],
    kind: str,
) -> None:
    frame = dataclasses.replace(frame_of(size_wh, kind), pixel_aspect=Fraction(aspect))
    drawn = Annotator([""]).annotate(frame, found((given, 0)))
    top = box[1]  # the label is above
    np.testing.assert_array_equal(changed(frame, drawn)[top:], outline(size_wh, box, line_wh)[top:])


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_corners_are_a_quarter_of_each_side(kind: str) -> None:
    frame = frame_of((640, 480), kind)
    drawn = Annotator([""]).annotate(frame, found(((100.0, 200.0, 260.0, 400.0), 0)).reused())
    wanted = outline((640, 480), (100, 200, 260, 400), (2, 2))
    wanted[200:400, 140:220] = wanted[250:350, 100:260] = False
    np.testing.assert_array_equal(changed(frame, drawn)[202:], wanted[202:])


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
@pytest.mark.parametrize(
    ("box", "is_above", "at_x"),
    [
        ((100.0, 200.0, 300.0, 400.0), True, 100),
        ((100.0, 0.0, 300.0, 400.0), False, 100),
        ((100.0, 10.0, 300.0, 400.0), False, 100),  # the label is 16 px high
        ((0.0, 200.0, 300.0, 400.0), True, 0),
        ((630.0, 200.0, 640.0, 400.0), True, None),  # moved left, into the picture
    ],
)
def test_a_label_is_above_its_box_or_else_inside(box: Box, is_above: bool, at_x: int | None, kind: str) -> None:
    frame = frame_of((640, 480), kind)
    mask = changed(frame, Annotator(LABELS).annotate(frame, found((box, 0))))
    label_rows = np.nonzero(mask.sum(axis=1) > 12)[0]
    top = int(box[1])
    assert (label_rows[0] < top) == is_above
    row = mask[top - 3 if is_above else top + 5]
    columns = np.nonzero(row)[0]
    assert columns[0] == at_x if at_x is not None else columns[-1] == 639
    heights = np.nonzero(mask[:top].any(axis=1))[0] if is_above else label_rows
    assert heights[-1] == top - 1 if is_above else heights[0] == top


@pytest.mark.parametrize("kind", ["bgr", "yuv"])
def test_the_overlay_begins_at_the_margin(kind: str) -> None:
    frame = frame_of((1920, 1080), kind)
    mask = changed(frame, Annotator(LABELS).annotate(frame, Detections.empty(), ["25 FPS"]))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), columns.min()) == (12, 12)  # sqrt(1920 x 1080) / 240 is 6, doubled


def label_of(frame: Frame, top: float) -> npt.NDArray[np.bool_]:
    """Returns where a label is, whose box begins at `top`: the rows above it."""
    drawn = Annotator(["wide label"]).annotate(frame, found(((100.0, top, 104.0, 400.0), 0)))
    return changed(frame, drawn)[: int(top)]


def test_a_label_that_just_fits_is_above_its_box() -> None:
    frame = frame_of((640, 480), "bgr")
    height = int(label_of(frame, 200.0).any(axis=1).sum())
    assert label_of(frame, height).any(axis=1).sum() == height
    assert not label_of(frame, height - 2).any()


@pytest.mark.parametrize("aspect", [2, 4])
def test_a_label_is_narrower_and_higher_in_pixels_that_are_wider_than_high(aspect: int) -> None:
    square = frame_of((640, 480), "bgr")
    labels = [label_of(dataclasses.replace(square, pixel_aspect=Fraction(each)), 200.0) for each in (1, aspect)]
    (width, wide_width), (height, wide_height) = ([int(each.any(axis).sum()) for each in labels] for axis in (0, 1))
    assert width == pytest.approx(aspect**0.5 * wide_width, abs=4)
    assert wide_height == pytest.approx(aspect**0.5 * height, abs=4)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], int]]:
    """The texts that are rendered, with their padding in pixels."""
    seen: list[tuple[tuple[str, ...], int]] = []

    def render(lines: Sequence[str], text_px: int, pad_px: int) -> npt.NDArray[np.uint8]:
        seen.append((tuple(lines), pad_px))
        return text_mask(lines, text_px, pad_px)

    monkeypatch.setattr("streamer.frames.draw.text_mask", render)
    return seen


def test_a_label_tells_class_and_score_and_a_held_ones_the_class(rendered: list[tuple[tuple[str, ...], int]]) -> None:
    annotator, frame, seen = Annotator(["thing"]), frame_of((640, 480), "bgr"), found(((100, 200, 300, 400), 0))
    annotator.annotate(frame, seen)
    annotator.annotate(frame, seen.reused())
    assert [text for text, _ in rendered] == [("thing 0.87",), ("thing",)]


def test_scores_can_be_left_out(rendered: list[tuple[tuple[str, ...], int]]) -> None:
    frame, seen = frame_of((640, 480), "bgr"), found(((100, 200, 300, 400), 0))
    Annotator(["thing"], show_scores=False).annotate(frame, seen)
    assert [text for text, _ in rendered] == [("thing",)]


@pytest.mark.parametrize(
    ("size_wh", "viewport_wh", "same_as"),
    [((3840, 2160), (640, 360), (640, 360)), ((1920, 1080), (480, 270), (480, 270)), ((1280, 720), (1280, 720), None)],
)
def test_text_and_lines_have_their_usual_size_where_a_frame_is_scaled_down(
    size_wh: Size, viewport_wh: Size, same_as: Size | None, rendered: list[tuple[tuple[str, ...], int]]
) -> None:
    frame, box = frame_of(size_wh, "bgr"), np.array([0.2, 0.4, 0.6, 0.9]) * (*size_wh, *size_wh)
    drawn = Annotator(LABELS).annotate(frame, found((tuple(box), 0)), viewport=Viewport(viewport_wh))
    if same_as is None:
        plain = Annotator(LABELS).annotate(frame, found((tuple(box), 0)))
        np.testing.assert_array_equal(drawn.image, plain.image)
        return
    small = frame_of(same_as, "bgr")
    own = np.array([0.2, 0.4, 0.6, 0.9]) * (*same_as, *same_as)
    wanted = changed(small, Annotator(LABELS).annotate(small, found((tuple(own), 0))))
    got = changed(small, dataclasses.replace(small, pixels=np.array(resized(drawn, same_as))))
    assert (wanted != got).sum() < 0.2 * wanted.sum()


@pytest.mark.parametrize(("label", "shown"), [("x" * 64, "x" * 64), ("x" * 65, "x" * 63 + "…")])
def test_labels_have_64_characters_at_most(label: str, shown: str, rendered: list[tuple[tuple[str, ...], int]]) -> None:
    Annotator([label]).annotate(frame_of((640, 480), "bgr"), found(((100, 200, 300, 400), 0)).reused())
    assert [text for text, _ in rendered] == [(shown,)]


def test_each_text_is_rendered_once_and_the_overlay_has_twice_the_padding(
    rendered: list[tuple[tuple[str, ...], int]],
) -> None:
    annotator, frame, seen = Annotator(["thing"]), frame_of((640, 480), "bgr"), found(((100, 200, 300, 400), 0))
    for overlay in ("1 FPS", "1 FPS", "2 FPS"):
        annotator.annotate(frame, seen, [overlay])
    assert rendered == [(("1 FPS",), 4), (("thing 0.87",), 2), (("2 FPS",), 4)]
