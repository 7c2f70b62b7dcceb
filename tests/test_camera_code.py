"""The code in the simulated camera's pictures."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tests.rtsp.code import Code, code_bits, coded_picture, number_and_ms, read_code


def luma(number: int, sent_ms: int, size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    width, height = size_wh
    planes = coded_picture(number, sent_ms, size_wh)
    assert planes.shape == (height * 3 // 2, width)
    return planes[:height]


@pytest.mark.parametrize("size_wh", [(160, 96), (640, 360), (1280, 720), (854, 480)])
def test_a_picture_says_its_number_and_time(size_wh: tuple[int, int]) -> None:
    for number, sent_ms in ((0, 0), (1, 2**40 - 1), (2**24 - 1, 123_456_789), (54_321, 1)):
        assert read_code(luma(number, sent_ms, size_wh)) == Code(number, sent_ms / 1000)


def test_the_background_moves() -> None:
    one, other = luma(7, 0, (640, 360)), luma(8, 0, (640, 360))
    assert np.mean(one[:300] != other[:300]) > 0.5
    assert np.array_equal(one[:298], other[2:300])


def test_a_code_with_one_bit_wrong_is_none() -> None:
    bits = code_bits(1234, 56_789)
    assert number_and_ms(bits) == (1234, 56_789)
    for place in range(len(bits)):
        wrong = bits.copy()
        wrong[place] ^= 1
        assert number_and_ms(wrong) is None


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_without_a_code_has_none(value: int) -> None:
    assert read_code(np.full((360, 640, 3), value, np.uint8)) is None


def test_a_code_is_read_under_boxes_and_from_a_small_picture() -> None:
    drawn = np.repeat(luma(4321, 99_000, (640, 360))[:, :, None], 3, axis=2)
    cv2.putText(drawn, "30.0 FPS", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)
    for left in (20, 330):
        cv2.rectangle(drawn, (left, 100), (left + 240, 352), (0, 255, 255), 2)
    for size_wh in ((640, 360), (320, 180), (160, 90)):
        small = np.asarray(cv2.resize(drawn, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        assert read_code(small) == Code(4321, 99.0)
    cv2.rectangle(drawn, (0, 300), (320, 330), (255, 255, 255), -1)
    assert read_code(drawn) is None
