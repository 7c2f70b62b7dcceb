"""Where tiles lie, how large canvases are, and what is painted on BGR and on planes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.canvas import Box, Canvas
from streamer.frames.frame import Frame
from streamer.frames.scaling import fill_plane
from streamer.frames.yuv import Yuv420
from streamer.sinks.mosaic.tiles import Mosaic, Tile, bgr_canvas, boxes, canvas_wh, grid, yuv_canvas
from tests.media import picture
from tests.recordings import as_planes

COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255), (200, 60, 120))
BT601, BT709, BT2020 = 6, 1, 9


def plain(colour: tuple[int, int, int], size_wh: tuple[int, int] = (320, 180)) -> Frame:
    return Frame(np.full((size_wh[1], size_wh[0], 3), colour, np.uint8), "x", 0, 0.0, 0.0)


def seen(canvas: Canvas) -> npt.NDArray[np.int16]:
    """Returns what is painted, as BGR."""
    pixels = canvas.pixels
    return (pixels.to_bgr() if isinstance(pixels, Yuv420) else pixels).astype(np.int16)


@pytest.mark.parametrize("count,wanted", [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2)), (9, (3, 3))])
def test_grids_are_nearly_square(count: int, wanted: tuple[int, int]) -> None:
    assert grid(count) == wanted


@given(count=st.integers(0, 40), width=st.integers(1, 300), height=st.integers(1, 300), step=st.sampled_from([1, 2]))
def test_tiles_lie_in_order_side_by_side(count: int, width: int, height: int, step: int) -> None:
    width, height = width * step, height * step
    canvas = np.full((height, width), -1, np.int16)
    found = boxes(count, (width, height), step)
    assert len(found) == count
    columns, rows = grid(max(1, count))
    for number, box in enumerate(found):
        assert all(edge % step == 0 for edge in box)
        assert min(box) >= 0
        if min(box.size_wh) > 0:
            assert box.right <= width and box.bottom <= height
        tile = canvas[box.top : box.bottom, box.left : box.right]
        assert (tile == -1).all(), "it overlaps another"
        tile[...] = number
    if count and width >= 10 * columns and height >= 10 * rows:
        assert all(min(box.size_wh) > 0 for box in found)
        assert max(box.size_wh[0] for box in found) - min(box.size_wh[0] for box in found) <= step
        assert found[0][:2] == (0, 0)
        assert canvas[:, -1].max() >= 0 and canvas[-1].max() == count - 1, "it reaches the edges"


@pytest.mark.parametrize(
    "count,picture_wh,wanted",
    [
        (2, (1280, 720), (1920, 540)),
        (4, (1280, 720), (1920, 1080)),
        (5, (1280, 720), (1920, 720)),
        (9, (1920, 1080), (1920, 1080)),
        (16, (1280, 720), (1920, 1080)),
        (4, (640, 480), (1282, 962)),  # its own size: the gap is 2
        (4, (96, 64), (642, 428)),  # small, but a name can be read
        (2, (1080, 1920), (1216, 1080)),
        (1, (1, 1), (320, 320)),
        (2, (4, 4000), (4, 1080)),
        (400, (1280, 720), (1920, 1080)),
    ],
)
def test_canvases_suit_what_is_on_them(count: int, picture_wh: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert canvas_wh(count, picture_wh, (1920, 1080)) == wanted


@given(count=st.integers(1, 100), width=st.integers(1, 5000), height=st.integers(1, 5000))
def test_canvases_are_even_and_within_their_bounds(count: int, width: int, height: int) -> None:
    found = canvas_wh(count, (width, height), (1920, 1080))
    assert found[0] % 2 == found[1] % 2 == 0
    assert 2 <= found[0] <= 1920
    assert 2 <= found[1] <= 1080


@given(
    wide=st.integers(1, 90), high=st.integers(1, 90), into_w=st.integers(1, 90), into_h=st.integers(1, 90),
    channels=st.sampled_from([(), (3,)]),
)  # fmt: skip
def test_planes_of_any_size_are_scaled_in_place(
    wide: int, high: int, into_w: int, into_h: int, channels: tuple[int, ...]
) -> None:
    canvas = np.zeros((into_h + 4, into_w + 4, *channels), np.uint8)
    fill_plane(canvas[2:-2, 2:-2], np.full((high, wide, *channels), 77, np.uint8))
    assert (canvas[2:-2, 2:-2] == 77).all()
    canvas[2:-2, 2:-2] = 0
    assert not canvas.any()


def test_what_is_much_smaller_is_averaged() -> None:
    fine = np.indices((720, 1280)).sum(axis=0) % 2 * 200  # a chessboard of single pixels
    target = np.zeros((268, 478), np.uint8)
    fill_plane(target, fine.astype(np.uint8))
    assert (abs(target.astype(int) - 100) <= 1).all()


@pytest.mark.parametrize("canvas", [bgr_canvas((644, 362)), yuv_canvas((644, 362))])
def test_each_picture_keeps_its_ratio_and_has_its_name(canvas: Canvas) -> None:
    tiles = [
        Tile("wide", plain((0, 0, 255), (400, 100))), Tile("high", plain((0, 255, 0), (100, 400))),
        Tile("waits"), Tile("full", plain((255, 0, 0))),
    ]  # fmt: skip
    Mosaic(canvas).paint(tiles)
    image = seen(canvas)
    for tile, box in zip(tiles, boxes(4, (644, 362), canvas.step), strict=True):
        area = image[box.top : box.bottom, box.left : box.right]
        assert 30 < (area.min(axis=2) > 180).sum() < 900, "letters"
        if tile.frame is None:
            assert abs(area[10, 10] - 64).max() <= 3
            continue
        colour = tile.frame.image[0, 0]
        wanted_w, wanted_h = {"wide": (321, 80), "high": (45, 180), "full": (321, 180)}[tile.name]
        is_coloured = (abs(area - colour) <= 6).all(axis=2)
        across, down = is_coloured[area.shape[0] // 2], is_coloured[:, area.shape[1] // 2]
        assert abs(int(across.sum()) - wanted_w) <= 3
        assert abs(int(down.argmax()) - (180 - wanted_h) // 2) <= 3
        if tile.name != "full":
            assert abs(area[2, 2] - 16).max() <= 3, "the rest is background"


@pytest.mark.parametrize("canvas", [bgr_canvas((640, 360)), yuv_canvas((640, 360))])
def test_only_what_has_changed_is_painted_again(canvas: Canvas) -> None:
    tiles = [Tile(name, plain((0, 0, 200))) for name in "ab"]
    mosaic = Mosaic(canvas)
    mosaic.paint(tiles)
    canvas.fill(0, 0, 640, 360, (90, 90, 90))
    tiles[1].is_changed = True
    mosaic.paint(tiles)
    image = seen(canvas)
    assert abs(image[180, 160] - 90).max() <= 2
    assert abs(image[180, 480] - (0, 0, 200)).max() <= 4
    mosaic.paint(tiles[:1])
    image = seen(canvas)
    assert abs(image[180, 160] - (0, 0, 200)).max() <= 4
    assert abs(image[180, 480] - (0, 0, 200)).max() <= 4, "the one that is left has it all"


@pytest.mark.parametrize("like", [None, BT601, BT709])
@pytest.mark.parametrize("source", [None, BT601, BT709, BT2020])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_stay_what_they_are_whatever_planes_they_come_in(
    like: int | None, source: int | None, full_range: bool
) -> None:
    def planes(frame: Frame, colorspace: int) -> Frame:
        return as_planes(frame, colorspace, 2 if full_range else 1)

    model = None
    if like is not None:
        model = planes(plain((0, 0, 0)), like).pixels
        assert isinstance(model, Yuv420)
    canvas = yuv_canvas((322, 182), like=model)
    for colour in COLOURS:
        frame = plain(colour) if source is None else planes(plain(colour), source)
        canvas.put(Box(2, 2, 322, 182), frame)
        wanted = frame.image[90, 160].astype(np.int16)  # planes can't hold each colour
        painted = seen(canvas)
        assert abs(painted[60, 100] - wanted).max() <= 5, (colour, painted[60, 100], wanted)
    made = canvas.pixels
    assert made.full_range == (full_range and like is not None)
    assert int(made.av_frame.colorspace) == (like or BT601)


@pytest.mark.parametrize("planar", [False, True])
def test_details_are_where_they_were(planar: bool) -> None:
    frame = Frame(picture(0b0110_1001_1100_0101, (640, 360)), "x", 0, 0.0, 0.0)
    canvas = yuv_canvas((322, 182))
    canvas.put(Box(2, 2, 322, 182), as_planes(frame, BT709) if planar else frame)
    small = seen(canvas)[2:, 2:]
    assert np.abs(small - picture(0b0110_1001_1100_0101, (320, 180)).astype(int)).mean() < 4


@given(width=st.integers(1, 60), height=st.integers(1, 60), planar=st.booleans(), count=st.integers(1, 5))
def test_any_canvas_can_be_painted(width: int, height: int, planar: bool, count: int) -> None:
    canvas: Canvas = yuv_canvas((2 * width, 2 * height)) if planar else bgr_canvas((width, height))
    tiles = [Tile(f"source {number}", plain((9, 9, 9), (7, 5)) if number % 2 else None) for number in range(count)]
    Mosaic(canvas).paint(tiles)
    assert seen(canvas).shape[:2] == canvas.size_wh[::-1]
