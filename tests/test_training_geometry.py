"""Views of training pictures: boxes follow pixels, and without augmentation it is the runtime's letterbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.training.augmentation import Augmentation, Draws
from calibration.training.composition import compose
from calibration.training.geometry import Canvas, Objects, View, draw_view, place
from streamer.common.errors import ConfigError
from streamer.frames.frame import Frame
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec, spec_for
from tests.training_pictures import BOX, GREEN, labelled, picture

SPEC = spec_for("nanodet-g_320")
OBJECTS = Objects.of(labelled(Path("a.png")))
SIDES = st.integers(4, 35).map(lambda each: each * 20)  # so that the rectangle's edges lie between pixels
SIZES = st.tuples(SIDES, SIDES)


def settings_of(**fixed: float) -> st.SearchStrategy[Augmentation]:
    def ascending(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
        return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda two: (min(two), max(two)))

    return st.builds(
        Augmentation,
        flip=st.sampled_from([0.0, 0.5, 1.0]),
        scale=ascending(0.4, 2),
        stretch=ascending(0.8, 1.25),
        translate=st.floats(0, 0.4),
        warp=st.sampled_from([0.5, 1.0]),
        crop=st.just(fixed.get("crop", 0.0)),
        crop_zoom=ascending(1, 3),
        mosaic=st.just(fixed.get("mosaic", 0.0)),
        mosaic_scale=ascending(0.3, 1.2),
        keep_ratio=st.sampled_from([None, True, False]),
        pad_bgr=st.sampled_from([None, (103, 116, 123)]),
    )


def composed(
    pictures: Sequence[np.ndarray], settings: Augmentation, spec: ModelSpec = SPEC, seed: int = 0
) -> tuple[np.ndarray, Objects]:
    out = np.full((spec.input_size_wh[1], spec.input_size_wh[0], 3), 7, np.uint8)
    given_out = iter(pictures[1:])
    canvas = Canvas.for_model(spec, settings)
    objects, _ = compose(
        (pictures[0], OBJECTS), lambda where: (next(given_out), OBJECTS), (seed,), canvas, settings, out
    )
    return out, objects


def green_box(pixels: np.ndarray) -> list[float] | None:
    """Returns x1, y1, x2, y2 of the green area, or None; its edges are where it is half green."""
    is_green = (pixels[..., 1].astype(int) - pixels[..., 2]) > 127
    if not is_green.any():
        return None
    rows, columns = np.flatnonzero(is_green.any(axis=1)), np.flatnonzero(is_green.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_box_follows(pixels: np.ndarray, objects: Objects) -> None:
    found = green_box(pixels)
    if len(objects.boxes):
        assert found is not None or (objects.boxes[0, 2:] - objects.boxes[0, :2]).min() < 2
        if found is not None:
            assert np.abs(objects.boxes[0] - found).max() <= 1.5
    else:
        assert found is None or min(found[2] - found[0], found[3] - found[1]) <= 2


@given(settings=settings_of(), size_wh=SIZES, seed=st.integers(0, 1 << 30))
def test_boxes_follow_pixels(settings: Augmentation, size_wh: tuple[int, int], seed: int) -> None:
    pixels, objects = composed([picture(size_wh)], settings, seed=seed)
    assert_box_follows(pixels, objects)


@given(settings=settings_of(crop=1.0), size_wh=SIZES, seed=st.integers(0, 1 << 30))
def test_boxes_follow_pixels_of_crops_which_always_show_an_object(
    settings: Augmentation, size_wh: tuple[int, int], seed: int
) -> None:
    pixels, objects = composed([picture(size_wh)], settings, seed=seed)
    assert len(objects.boxes) == 1
    assert_box_follows(pixels, objects)


@given(
    settings=settings_of(mosaic=1.0),
    sizes=st.lists(SIZES, min_size=4, max_size=4),
    which=st.integers(0, 3),
    seed=st.integers(0, 1 << 30),
)
def test_boxes_follow_pixels_of_mosaics(
    settings: Augmentation, sizes: list[tuple[int, int]], which: int, seed: int
) -> None:
    grey = [np.full((height, width, 3), 90, np.uint8) for width, height in sizes]
    alone = [picture(size) if number == which else grey[number] for number, size in enumerate(sizes)]
    background = Objects(OBJECTS.boxes[:0], OBJECTS.labels[:0], OBJECTS.is_ignored[:0])
    given_out = iter([(alone[number], OBJECTS if number == which else background) for number in range(1, 4)])
    out = np.full((320, 320, 3), GREEN, np.uint8)  # all of it is overwritten
    first = (alone[0], OBJECTS if which == 0 else background)
    canvas = Canvas.for_model(SPEC, settings)
    objects, _ = compose(first, lambda where: next(given_out), (seed,), canvas, settings, out)
    assert_box_follows(out, objects)


def test_mosaic_keeps_the_boxes_of_all_four() -> None:
    settings = Augmentation(mosaic=1.0, mosaic_scale=(0.3, 0.3))
    _, objects = composed([picture((300, 300))] * 4, settings)
    assert len(objects.boxes) == 4
    centres = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    assert len({tuple(centre) for centre in centres.tolist()}) == 4


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_large_enough_pictures_leave_no_padding(flip: float, seed: int) -> None:
    grey = np.full((300, 300, 3), 90, np.uint8)
    for settings in (
        Augmentation(flip=flip, mosaic=1.0, mosaic_scale=(1.0, 1.0)),
        Augmentation(flip=flip, crop=1.0, crop_zoom=(1.1, 2.0)),
    ):
        pixels, _ = composed([grey] * 4, settings, seed=seed)
        assert (pixels[2:-2, 2:-2] == 90).all()


def test_mixup_blends_two_pictures_and_joins_their_boxes() -> None:
    pixels, objects = composed([picture((320, 320)), np.zeros((320, 320, 3), np.uint8)], Augmentation(mixup=1.0))
    assert len(objects.boxes) == 2
    assert pixels[0, 0].tolist() == [45, 45, 45]
    assert pixels[140, 120].tolist() == pytest.approx([0, 128, 0], abs=1)


@pytest.mark.parametrize("name", ["nanodet-g_320", "nanodet-g_416x320", "nanodet-plus-m_320"])
@pytest.mark.parametrize("size_wh", [(640, 427), (333, 500), (320, 320), (97, 1000), (1, 1)])
@pytest.mark.parametrize("padding", ["centre", "top-left"])
def test_no_augmentation_is_the_runtime_letterbox(name: str, size_wh: tuple[int, int], padding: str) -> None:
    spec = spec_for(name).model_copy(update={"padding": padding, "pad_value": 114})
    source = np.random.default_rng(1).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    pixels, objects = composed([source], Augmentation.none(), spec)

    frame = Frame(source, "images", 0, 0.0, 0.0)
    letterbox = Letterbox.for_model(frame, spec)
    expected = np.zeros_like(pixels)
    letterbox.apply(frame, expected)
    assert np.array_equal(pixels, expected)
    if min(size_wh) > 1:
        back = letterbox.to_source(objects.boxes)
        x, y, w, h = BOX
        relative = np.array([x, y, x + w, y + h]) * (*size_wh, *size_wh)
        assert np.abs(back - relative).max() < 0.01


def test_padding_has_the_wanted_colour() -> None:
    for settings in (Augmentation(pad_bgr=(1, 2, 3)), Augmentation(pad_bgr=(1, 2, 3), scale=(0.8, 0.8))):
        pixels, _ = composed([picture((400, 200))], settings)
        assert pixels[0, 0].tolist() == pixels[-1, -1].tolist() == [1, 2, 3]


def test_flip_mirrors_pixels_and_boxes() -> None:
    source = np.random.default_rng(2).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    pixels, objects = composed([source], Augmentation(flip=1.0))
    assert np.array_equal(pixels, source[:, ::-1])
    assert objects.boxes[0].tolist() == pytest.approx([160, 80, 224, 176])


def test_scale_and_shift_are_about_the_centre_of_the_letterbox() -> None:
    draws = Draws([0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 1.0, 0.0, 0.9])
    settings = Augmentation(scale=(1.2, 1.4), stretch=(0.8, 1.2), translate=0.2)
    view = draw_view(draws, (640, 320), Canvas.for_model(SPEC, settings), settings)
    assert view.factor_xy == pytest.approx((0.65, 0.65))
    # The picture's centre (320, 160) lies at the letterbox's (160, 160), shifted by 0.2 of 320 and -0.2 of 160 pixels.
    assert view.shift_xy == pytest.approx((160 + 64 - 320 * 0.65, 160 - 32 - 160 * 0.65))


def test_boxes_that_are_mostly_cut_off_are_ignored_and_those_under_a_pixel_left_out() -> None:
    boxes = np.array([[0.0, 0.1, 0.2, 0.2], [0.0, 0.3, 0.105, 0.4], [0.5, 0.5, 0.515, 0.6], [0.5, 0.5, 0.505, 0.6]])
    objects = Objects(boxes, np.arange(4), np.zeros(4, bool))
    view = View((1.0, 1.0), (-9.0, 0.0), (0, 0, 100, 100))
    placed = place(objects, (100, 100), view, Augmentation(min_visible=0.15, min_side_px=2))
    assert placed.labels.tolist() == [0, 1, 2]
    assert placed.is_ignored.tolist() == [False, True, True]
    assert placed.boxes[1].tolist() == pytest.approx([0, 30, 1.5, 40])


def test_ignored_regions_stay_ignored() -> None:
    objects = Objects.of(labelled(Path("a.png"), is_crowd=True))
    out = np.zeros((320, 320, 3), np.uint8)
    for settings in (Augmentation.none(), Augmentation(flip=1.0), Augmentation(crop=1.0, crop_zoom=(1, 1))):
        canvas = Canvas.for_model(SPEC, settings)
        placed, _ = compose((picture((320, 320)), objects), lambda where: None, (0,), canvas, settings, out)  # type: ignore[arg-type,return-value]
        assert placed.is_ignored.tolist() == [True]


@pytest.mark.parametrize("settings", [{"blur": 1.0}, {"noise": 1.0}, {"jpeg": 1.0}], ids=["blur", "noise", "jpeg"])
def test_degraded_pictures_stay_near_and_are_reproducible(settings: dict[str, float]) -> None:
    source = picture((320, 320))
    pixels, _ = composed([source], Augmentation(**settings))  # type: ignore[arg-type]
    again, _ = composed([source], Augmentation(**settings))  # type: ignore[arg-type]
    assert np.array_equal(pixels, again)
    assert 0 < np.abs(pixels.astype(int) - source).mean() < 12


def test_green_is_what_the_tests_look_for() -> None:
    assert green_box(picture((100, 100))) == [30, 25, 50, 55]
    assert GREEN == (0, 255, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"flip": 1.5}, {"scale": (1.4, 0.6)}, {"translate": -1}, {"hue": 0.6}, {"crop_zoom": (0.5, 1)}, {"pad_bgr": (1,)}],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"augmentation: {next(iter(wrong))} is"):
        Augmentation(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "scale", "stretch", "warp"),
    [
        ("nanodet-m_320", (0.6, 1.4), (1, 1), 0.5),
        ("nanodet-m_416", (0.5, 1.4), (1, 1), 0.5),
        ("nanodet-g_416", (0.6, 1.4), (1, 1), 0.5),
        ("nanodet-plus-m_416", (0.6, 1.4), (0.8, 1.2), 1),
        ("nanodet-plus-m-1.5x_320", (0.6, 1.4), (0.8, 1.2), 1),
    ],
)
def test_upstream_settings(name: str, scale: tuple[float, float], stretch: tuple[float, float], warp: float) -> None:
    settings = Augmentation.upstream(spec_for(name))
    assert (settings.scale, settings.stretch, settings.warp) == (scale, stretch, warp)
    assert (settings.flip, settings.translate, settings.brightness) == (0.5, 0.2, 0.2)
    assert (settings.contrast, settings.saturation, settings.colour) == ((0.6, 1.4), (0.5, 1.2), 0.5)
    assert (settings.mosaic, settings.mixup, settings.crop, settings.hue, settings.pad_bgr) == (0, 0, 0, 0, None)
