"""Planar pictures: conversion, small copies, and who may write into them."""

from __future__ import annotations

from fractions import Fraction

import cv2
import av
import numpy as np
import numpy.typing as npt
import pytest

from streamer.frames.yuv import Yuv420, copy_tags
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv

UNSPECIFIED, BT709, BT470BG, SMPTE170M, BT2020 = 2, 1, 5, 6, 9
LIMITED, FULL = 1, 2


def planes(
    size_wh: tuple[int, int] = (96, 64), colorspace: int = BT709, color_range: int = LIMITED, format: str = "yuv420p"
) -> Yuv420:
    """Returns smooth random planes within the legal limits of limited range."""
    random = np.random.default_rng(5)
    frame = av.VideoFrame(*size_wh, format)
    frame.colorspace, frame.color_range = colorspace, color_range
    made = Yuv420(frame, writable=True)
    for plane, low, high in ((made.y, 70, 180), (made.u, 50, 206), (made.v, 50, 206)):
        coarse = random.integers(low, high, (4, 4)).astype(np.uint8)
        plane[:] = cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return Yuv420(frame)


def by_formula(picture: Yuv420) -> npt.NDArray[np.float64]:
    """Returns the picture converted in floating point, chroma spread over the luma grid by bilinear interpolation."""
    u, v = (cv2.resize(plane, picture.size_wh, interpolation=cv2.INTER_LINEAR) for plane in (picture.u, picture.v))
    matrix = bgr_from_yuv(picture.matrix, picture.full_range).astype(np.float64)
    return np.clip(np.stack([picture.y, u, v], axis=2) @ matrix[:, :3].T + matrix[:, 3], 0, 255)


@pytest.mark.parametrize("size_wh", [(320, 192), (321, 193)])
@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("color_range", [0, LIMITED, FULL])
@pytest.mark.parametrize(
    ("colorspace", "matrix"),
    [
        (UNSPECIFIED, Matrix.BT601),
        (BT709, Matrix.BT709),
        (BT470BG, Matrix.BT601),
        (SMPTE170M, Matrix.BT601),
        (BT2020, Matrix.BT2020),
    ],
)
def test_to_bgr_uses_the_stated_matrix_and_range(
    colorspace: int, matrix: Matrix, color_range: int, format: str, size_wh: tuple[int, int]
) -> None:
    picture = planes(size_wh, colorspace, color_range, format)
    assert picture.matrix is matrix
    assert picture.full_range is (format == "yuvj420p" or color_range == FULL)
    bgr = picture.to_bgr()
    assert bgr.shape == (size_wh[1], size_wh[0], 3) and bgr.dtype == np.uint8
    error = np.abs(bgr - by_formula(picture))
    assert error.mean() < 1.6 and error.max() <= 6  # another matrix or range is off by 4 and more on average


def test_to_bgr_agrees_with_opencv_for_bt601_limited() -> None:
    picture = planes((320, 192), SMPTE170M)
    stacked = np.concatenate([plane.reshape(-1) for plane in (picture.y, picture.u, picture.v)]).reshape(-1, 320)
    reference = cv2.cvtColor(stacked, cv2.COLOR_YUV2BGR_I420)
    assert np.abs(picture.to_bgr().astype(int) - reference).max() <= 3


@pytest.mark.parametrize(
    ("matrix", "full_range", "yuv", "bgr"),
    [
        (Matrix.BT601, False, (16, 128, 128), (0, 0, 0)),
        (Matrix.BT709, False, (235, 128, 128), (255, 255, 255)),
        (Matrix.BT2020, True, (255, 128, 128), (255, 255, 255)),
        (Matrix.BT601, False, (81, 90, 240), (0, 0, 255)),  # red, as test pictures of the recommendations code it
        (Matrix.BT709, False, (63, 102, 240), (0, 0, 255)),
        (Matrix.BT601, True, (76, 85, 255), (0, 0, 254)),
    ],
)
def test_known_colours(matrix: Matrix, full_range: bool, yuv: tuple[int, int, int], bgr: tuple[int, int, int]) -> None:
    converted = bgr_from_yuv(matrix, full_range) @ np.array([*yuv, 1.0])
    assert np.abs(np.clip(converted, 0, 255) - bgr).max() < 2


@pytest.mark.parametrize("size_wh", [(320, 192), (321, 193), (641, 359)])
@pytest.mark.parametrize("target_wh", [(141, 133), (297, 192), (328, 400)])
@pytest.mark.parametrize("colorspace", [BT709, SMPTE170M, BT2020])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_bgr_resized_is_conversion_then_resize(
    size_wh: tuple[int, int], target_wh: tuple[int, int], colorspace: int, color_range: int
) -> None:
    picture = planes(size_wh, colorspace, color_range)
    small = picture.bgr_resized(target_wh)
    assert small.shape == (target_wh[1], target_wh[0], 3) and small.dtype == np.uint8
    reference = cv2.resize(picture.to_bgr(), target_wh, interpolation=cv2.INTER_LINEAR)
    error = np.abs(small.astype(int) - reference)
    assert error.mean() < 1.6 and error.max() <= 8


@pytest.mark.parametrize("size_wh", [(1, 1), (1, 7), (3, 2)])
def test_tiny_pictures_convert(size_wh: tuple[int, int]) -> None:
    picture = planes(size_wh)
    assert picture.u.shape == ((size_wh[1] + 1) // 2, (size_wh[0] + 1) // 2)
    assert picture.to_bgr().shape == (size_wh[1], size_wh[0], 3)
    assert picture.bgr_resized((5, 4)).shape == (4, 5, 3)


def test_copy_is_writable_and_keeps_the_tags() -> None:
    picture = planes((97, 65), BT709, FULL)
    frame = picture.av_frame
    frame.pts, frame.time_base = 90, Fraction(1, 30)
    frame.color_primaries, frame.color_trc = 1, 13
    copy = picture.copy()
    assert not np.shares_memory(copy.y, picture.y)
    for theirs, ours in ((picture.y, copy.y), (picture.u, copy.u), (picture.v, copy.v)):
        assert np.array_equal(theirs, ours)
    tags = [
        (f.pts, f.time_base, f.colorspace, f.color_range, f.color_primaries, f.color_trc)
        for f in (frame, copy.av_frame)
    ]
    assert tags[0] == tags[1]
    before = picture.y.copy()
    copy.y[:] = 0
    assert np.array_equal(picture.y, before)


def test_copy_of_a_frame_without_a_time_base() -> None:
    copy = planes().copy()
    assert copy.av_frame.pts is None


def test_conversion_leaves_the_tags_alone() -> None:
    frame = planes((96, 64), UNSPECIFIED).av_frame
    frame.color_primaries, frame.color_trc = 1, 13
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    Yuv420(frame).to_bgr()
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == tags


def test_planes_are_read_only() -> None:
    picture = planes()
    for plane in (picture.y, picture.u, picture.v):
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 1


def test_other_pixel_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted pixel format yuv420p or yuvj420p, got nv12"):
        Yuv420(av.VideoFrame(16, 16, "nv12"))


def test_take_tags_leaves_the_planes() -> None:
    picture, other = planes(), av.VideoFrame(96, 64, "yuv420p")
    target = Yuv420(other, writable=True)
    target.y[:] = 77
    copy_tags(other, picture.av_frame)
    assert other.colorspace == BT709 and np.all(target.y == 77)
