"""Changes of colour are those of upstream's recipe, computed here with OpenCV, picture by picture."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.training.augmentation import Augmentation, Draws  # noqa: E402
from calibration.training.composition import ColourDraw, draw_colour  # noqa: E402
from calibration.training.photometry import ColourChange, as_pictures, network_inputs  # noqa: E402
from streamer.models.spec import spec_for  # noqa: E402

SPEC = spec_for("nanodet-g_320")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)


def changed(draws: list[ColourDraw], pixels: np.ndarray = PIXELS) -> np.ndarray:
    """Returns (B, H, W, 3) float32, 0 to 255 and beyond, without the normalisation."""
    inputs = network_inputs(torch.from_numpy(pixels), SPEC, ColourChange.of(draws))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (SPEC.mean_bgr, SPEC.std_bgr))
    return (inputs * std + mean).permute(0, 2, 3, 1).numpy()


def test_brightness_then_contrast_without_clipping() -> None:
    got = changed([ColourDraw(brightness=0.2, contrast=1.4), ColourDraw()])
    assert got[0] == pytest.approx((PIXELS[0].astype(np.float32) + 51) * 1.4, abs=0.01)
    assert got[0].max() > 255
    assert got[1] == pytest.approx(PIXELS[1].astype(np.float32), abs=0.001)


def test_saturation_is_a_factor_of_s_in_hsv() -> None:
    got = changed([ColourDraw(saturation=0.5), ColourDraw(saturation=1.2)])
    for row, factor in enumerate((0.5, 1.2)):
        hsv = cv2.cvtColor(PIXELS[row].astype(np.float32) / 255, cv2.COLOR_BGR2HSV)
        hsv[..., 1] *= factor
        assert got[row] / 255 == pytest.approx(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), abs=1e-4)


def test_hue_turns_red_into_green_and_leaves_grey_alone() -> None:
    pixels = np.array([[[[0, 0, 200], [70, 70, 70]]]], np.uint8)
    ((red, grey),) = changed([ColourDraw(hue=1 / 3)], pixels)[0]
    assert sorted(red.tolist()) == pytest.approx([0, 0, 200], abs=0.01)
    assert red[2] == pytest.approx(0, abs=0.01)
    assert grey.tolist() == pytest.approx([70, 70, 70], abs=0.01)


@pytest.mark.parametrize("share", [-0.03, 0.03])
def test_small_turns_of_hue_are_as_in_hsv(share: float) -> None:
    pixels = np.array([[[[40, 120, 200]]]], np.uint8)
    before, after = (
        colorsys.rgb_to_hsv(*(values[::-1] / 255))[0]
        for values in (pixels[0, 0, 0].astype(float), changed([ColourDraw(hue=share)], pixels)[0, 0, 0])
    )
    assert abs(abs(after - before) - abs(share)) < 0.005


def test_no_change_is_none() -> None:
    assert ColourChange.of([ColourDraw(), ColourDraw()]) is None


def test_each_colour_changes_with_its_probability_within_its_range() -> None:
    settings = Augmentation(brightness=0.2, contrast=(0.6, 1.4), saturation=(0.5, 1.2), hue=0.1, colour=0.5)
    generator = np.random.default_rng(0)
    drawn = [draw_colour(Draws(generator.random(8).tolist()), settings) for _ in range(400)]
    for name, neutral, low, high in (
        ("brightness", 0, -0.2, 0.2),
        ("contrast", 1, 0.6, 1.4),
        ("saturation", 1, 0.5, 1.2),
        ("hue", 0, -0.1, 0.1),
    ):
        values = [getattr(each, name) for each in drawn if getattr(each, name) != neutral]
        assert 150 < len(values) < 250
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > high - 0.1 * (high - low)


def test_inputs_are_float32_under_autocast_too() -> None:
    draws = [ColourDraw(brightness=0.1, hue=0.1)] * 2
    expected = changed(draws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(changed(draws), expected)


def test_inputs_can_be_looked_at() -> None:
    images = torch.from_numpy(PIXELS)
    assert np.array_equal(as_pictures(network_inputs(images, SPEC), SPEC), PIXELS)
    bright = ColourChange.of([ColourDraw(brightness=0.2)] * 2)
    expected = np.minimum(PIXELS.astype(int) + 51, 255)
    assert np.array_equal(as_pictures(network_inputs(images, SPEC, bright), SPEC), expected)
