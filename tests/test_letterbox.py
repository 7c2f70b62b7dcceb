from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.models.letterbox import Letterbox
from tests.tiny import tiny_spec

SIDES = st.integers(1, 4000)


def frame(pixels: np.ndarray | Yuv420) -> Frame:
    return Frame(pixels, "test", 0, 0.0, 0.0)


def test_keeps_ratio_centred() -> None:
    box = Letterbox.fit((1280, 720), (416, 416), keep_ratio=True)
    assert box.resized_wh == (416, 234)
    assert box.offset_xy == (0, 91)


def test_stretches() -> None:
    box = Letterbox.fit((1280, 720), (416, 416), keep_ratio=False)
    assert box.resized_wh == (416, 416)
    assert box.offset_xy == (0, 0)


@pytest.mark.parametrize("source_wh", [(1280, 720), (720, 1280), (416, 416), (33, 999), (999, 33), (1280, 400), (1, 1)])
def test_pads_with_black_and_overwrites_all(source_wh: tuple[int, int]) -> None:
    box = Letterbox.fit(source_wh, (64, 48), keep_ratio=True)
    out = np.full((48, 64, 3), 77, np.uint8)
    box.apply(frame(np.full((source_wh[1], source_wh[0], 3), 200, np.uint8)), out)
    (x, y), (w, h) = box.offset_xy, box.resized_wh
    inside = np.zeros((48, 64), bool)
    inside[y : y + h, x : x + w] = True
    assert (out[inside] == 200).all()
    assert (out[~inside] == 0).all()


def test_corner_colours_land_where_boxes_say() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[60:80, 150:190] = (10, 20, 250)
    box = Letterbox.fit((200, 100), (64, 64), keep_ratio=True)
    out = np.empty((64, 64, 3), np.uint8)
    box.apply(frame(pixels), out)
    ys, xs = np.nonzero(out[..., 2] > 125)
    found = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    np.testing.assert_allclose(box.to_source(found), [[150, 60, 190, 80]], atol=2)
    assert (out[ys[0] + 2, xs[0] + 2] == (10, 20, 250)).all()


@given(SIDES, SIDES, st.booleans(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_there_and_back(width: int, height: int, keep_ratio: bool, part: list[float]) -> None:
    box = Letterbox.fit((width, height), (416, 320), keep_ratio)
    wanted = np.array([part], np.float32) * np.array([width, height, width, height], np.float32)
    scale = np.array(box.resized_wh) / np.array([width, height])
    there = wanted.reshape(-1, 2, 2) * scale + np.array(box.offset_xy)
    np.testing.assert_allclose(
        box.to_source(there.reshape(-1, 4).astype(np.float32)), wanted, atol=1e-3 * max(width, height)
    )


@given(SIDES, SIDES, st.booleans())
def test_boxes_are_clipped_to_the_frame(width: int, height: int, keep_ratio: bool) -> None:
    box = Letterbox.fit((width, height), (416, 320), keep_ratio)
    clipped = box.to_source(np.array([[-1e6, -1e6, 1e6, 1e6]], np.float32))
    np.testing.assert_array_equal(clipped, [[0, 0, width, height]])


def test_no_boxes() -> None:
    assert Letterbox.fit((10, 10), (32, 32), True).to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_refuses_wrong_sizes() -> None:
    box = Letterbox.fit((20, 10), (64, 64), True)
    picture = frame(np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="wanted a frame"):
        box.apply(picture, np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="wanted a frame"):
        box.apply(frame(np.zeros((11, 20, 3), np.uint8)), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="positive"):
        Letterbox.fit((0, 10), (64, 64), True)


def test_a_picture_of_wide_pixels_gets_its_true_shape_and_boxes_come_back_in_its_pixels() -> None:
    frame = Frame(np.zeros((288, 352, 3), np.uint8), "pal", 0, 0.0, 0.0, pixel_aspect=Fraction(16, 11))
    box = Letterbox.fit(frame.size_wh, (416, 416), True, shown_wh=frame.shown_wh)
    assert box.resized_wh == (416, 234)
    out = np.zeros((416, 416, 3), np.uint8)
    box.apply(frame, out)
    corners = np.array([[0, 91, 416, 325], [208, 91, 500, 208]], np.float32)
    np.testing.assert_allclose(box.to_source(corners), [[0, 0, 352, 288], [176, 0, 352, 144]], atol=1e-3)


@pytest.mark.parametrize(
    ("aspect", "shown_wh"), [(Fraction(1), (352, 288)), (Fraction(12, 11), (384, 288)), (Fraction(1, 2), (352, 576))]
)
def test_the_true_shape_has_no_fewer_pixels(aspect: Fraction, shown_wh: tuple[int, int]) -> None:
    assert Frame(np.zeros((288, 352, 3), np.uint8), "pal", 0, 0.0, 0.0, pixel_aspect=aspect).shown_wh == shown_wh


def test_the_top_left_corner_as_another_place_for_the_picture() -> None:
    spec = tiny_spec().model_copy(update={"padding": "top-left"})
    frame = Frame(np.zeros((64, 128, 3), np.uint8), "test", 0, 0.0, 0.0)
    letterbox = Letterbox.for_model(frame, spec)
    assert (letterbox.resized_wh, letterbox.offset_xy) == ((64, 32), (0, 0))
    np.testing.assert_allclose(letterbox.to_source(np.array([[0, 0, 64, 32]], np.float32)), [[0, 0, 128, 64]])
    assert Letterbox.for_model(frame, tiny_spec()).offset_xy == (0, 16)


def test_a_model_transform_takes_the_shape_and_padding_of_frame_and_model() -> None:
    spec = tiny_spec().model_copy(update={"pad_value": 114})
    wide = Frame(np.zeros((64, 64, 3), np.uint8), "test", 0, 0.0, 0.0, pixel_aspect=Fraction(2))
    letterbox = Letterbox.for_model(wide, spec)
    assert (letterbox.resized_wh, letterbox.offset_xy) == ((64, 32), (0, 16))
    out = np.zeros((64, 64, 3), np.uint8)
    letterbox.apply(wide, out)
    assert (out[0] == 114).all() and (out[32] == 0).all()


def test_planes_are_resized_like_their_picture() -> None:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 255, (6, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    planes = Yuv420(av.VideoFrame.from_ndarray(blocks, "bgr24").reformat(format="yuv420p"))
    box = Letterbox.fit((128, 96), (64, 64), True)
    outputs = [np.zeros((64, 64, 3), np.uint8) for _ in range(2)]
    box.apply(frame(planes), outputs[0])
    box.apply(frame(planes.to_bgr()), outputs[1])
    np.testing.assert_allclose(*(out.astype(int) for out in outputs), atol=8)
    assert outputs[0].std() > 20


def test_boxes_stay_float32() -> None:
    box = Letterbox.fit((1280, 720), (416, 416), True)
    assert box.to_source(np.ones((2, 4), np.float32)).dtype == np.float32
