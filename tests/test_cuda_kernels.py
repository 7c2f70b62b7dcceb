"""The CUDA kernels' own source, compiled for the CPU, against OpenCV and the NumPy decoder."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.common.errors import EngineError
from streamer.cuda.input_layout import (
    PICTURE_DTYPE,
    FrameLayout,
    PixelFormat,
    describe_transform,
    planes_of,
    touched_rows,
)
from streamer.cuda.kernels import CANDIDATE_CAPACITY, RESULT_DTYPE, to_detections
from streamer.frames.frame import Frame
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import MAX_CANDIDATES, Postprocessor
from streamer.models.spec import ModelSpec, spec_for
from tests.host_kernels import compile_kernels
from tests.tiny import tiny_spec

RNG = np.random.default_rng(4)
INPUT_WH = (96, 80)


class Planes:
    """Planar YUV without a decoder."""

    def __init__(self, size_wh: tuple[int, int], matrix: Matrix, full_range: bool) -> None:
        w, h = size_wh
        self.size_wh = size_wh
        self.y = RNG.integers(0, 256, (h, w), np.uint8)
        self.u, self.v = (RNG.integers(0, 256, ((h + 1) // 2, (w + 1) // 2), np.uint8) for _ in "uv")
        self.matrix, self.full_range = matrix, full_range

    def to_bgr(self) -> np.ndarray:
        """Not needed here."""
        raise AssertionError

    def bgr_resized(self, size_wh: tuple[int, int]) -> np.ndarray:
        """What `streamer.frames.yuv.Yuv420.bgr_resized` does."""
        planes = [cv2.resize(p, size_wh, interpolation=cv2.INTER_LINEAR) for p in (self.y, self.u, self.v)]
        return np.asarray(cv2.transform(cv2.merge(planes), bgr_from_yuv(self.matrix, self.full_range)), np.uint8)


@pytest.fixture(scope="module")
def kernels(kernel_folder: Path) -> ctypes.CDLL:
    """The kernels as a library for this machine's CPU."""
    return compile_kernels(kernel_folder)


def frame_of(pixels: Any) -> Frame:
    return Frame(pixels, "test", 0, 0.0, 0.0)


def described(frames: list[Frame], input_wh: tuple[int, int], keep_ratio: bool, packable: bool) -> tuple[Any, ...]:
    """Stages every frame as the GPU path does and returns the descriptions (and what they point into)."""
    pictures, kept = np.zeros(len(frames), PICTURE_DTYPE), []
    for index, frame in enumerate(frames):
        letterbox = Letterbox.fit(frame.size_wh, input_wh, keep_ratio)
        layout = FrameLayout.of(frame, letterbox, packable=packable)
        staging = np.full(layout.nbytes, 0xA5, np.uint8)
        layout.fill(frame, staging)
        colours = None if isinstance(frame.pixels, np.ndarray) else (frame.pixels.matrix, frame.pixels.full_range)
        pictures[index] = layout.describe(staging.ctypes.data, colours)
        kept.append(staging)
    return pictures, kept


def letterboxed(
    kernels: ctypes.CDLL, pictures: np.ndarray, spec: ModelSpec, dtype: type, channels_last: bool
) -> np.ndarray:
    """Runs the kernel and returns levels (batch, H, W, 3) with normalisation undone."""
    w, h = spec.input_size_wh
    n = len(pictures)
    shape = (n, h, w, 3) if channels_last else (n, 3, h, w)
    made = np.full(shape, np.nan, dtype)
    order = (0, 3, 1, 2) if channels_last else (0, 1, 2, 3)
    strides = np.array(made.transpose(order).strides, np.int64) // made.itemsize
    mean, std = (np.array(v, np.float32) for v in (spec.mean_bgr, spec.std_bgr))
    normalise = np.concatenate([mean, 1 / std, [spec.pad_value]]).astype(np.float32)
    run = kernels.host_letterbox_f16 if dtype is np.float16 else kernels.host_letterbox_f32
    run(*(ctypes.c_void_p(a.ctypes.data) for a in (pictures, made)), w, h,
        *(ctypes.c_void_p(a.ctypes.data) for a in (strides, normalise)), n)  # fmt: skip
    last = made if channels_last else made.transpose(0, 2, 3, 1)
    return last.astype(np.float32) * std + mean


def expected(frame: Frame, input_wh: tuple[int, int], keep_ratio: bool, pad_value: int = 0) -> np.ndarray:
    out = np.full((input_wh[1], input_wh[0], 3), 77, np.uint8)
    Letterbox.fit(frame.size_wh, input_wh, keep_ratio, pad_value=pad_value).apply(frame, out)
    return out.astype(np.float32)


def spec_with_input(size_wh: tuple[int, int]) -> ModelSpec:
    return spec_for("nanodet-m_320").with_input_size(size_wh)


def test_padding_has_the_value_of_the_description(kernels: ctypes.CDLL) -> None:
    frame = frame_of(RNG.integers(0, 256, (50, 200, 3), np.uint8))
    spec = spec_with_input((96, 80)).model_copy(update={"pad_value": 114})
    pictures, _kept = described([frame], spec.input_size_wh, True, False)
    made = letterboxed(kernels, pictures, spec, np.float32, False)
    assert np.abs(made[0] - expected(frame, (96, 80), True, 114)).max() <= 1.01
    assert np.abs(made[0, 0] - 114).max() < 0.01


SIZES = [(640, 480), (1920, 1080), (97, 33), (50, 41), (96, 80), (192, 160), (1, 1), (3, 200)]


@pytest.mark.parametrize("size_wh", SIZES)
@pytest.mark.parametrize("keep_ratio", [True, False])
@pytest.mark.parametrize("packable", [True, False])
def test_bgr_letterbox_agrees_with_opencv(
    kernels: ctypes.CDLL, size_wh: tuple[int, int], keep_ratio: bool, packable: bool
) -> None:
    frame = frame_of(RNG.integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8))
    pictures, kept = described([frame], INPUT_WH, keep_ratio, packable)
    levels = letterboxed(kernels, pictures, spec_with_input(INPUT_WH), np.float32, False)[0]
    assert len(kept) == 1
    difference = np.abs(levels - expected(frame, INPUT_WH, keep_ratio))
    assert difference.max() < 0.001  # to the level


@pytest.mark.parametrize("size_wh", SIZES)
@pytest.mark.parametrize("matrix", list(Matrix))
@pytest.mark.parametrize("full_range", [True, False])
@pytest.mark.parametrize("packable", [True, False])
def test_planar_letterbox_agrees_with_the_cpu_path(
    kernels: ctypes.CDLL, size_wh: tuple[int, int], matrix: Matrix, full_range: bool, packable: bool
) -> None:
    frame = frame_of(Planes(size_wh, matrix, full_range))
    pictures, kept = described([frame], INPUT_WH, True, packable)
    levels = letterboxed(kernels, pictures, spec_with_input(INPUT_WH), np.float32, False)[0]
    assert len(kept) == 1
    difference = np.abs(levels - expected(frame, INPUT_WH, True))
    assert difference.mean() <= 0.5
    assert difference.max() <= 1.001  # planes agree to the level; OpenCV's matrix product rounds differently


def test_nv12_equals_planar(kernels: ctypes.CDLL) -> None:
    frame = frame_of(Planes((642, 361), Matrix.BT709, False))
    planes = frame.pixels
    pitch = 704
    surface = np.zeros((361 + 181, pitch), np.uint8)  # as a decoder lays it out: rows padded, UV after Y
    surface[:361, :642] = planes.y
    surface[361:, :642:2], surface[361:, 1:642:2] = planes.u, planes.v
    letterbox = Letterbox.fit((642, 361), INPUT_WH, True)
    picture = np.zeros(1, PICTURE_DTYPE)
    picture["planes"][0, :2] = surface.ctypes.data, surface.ctypes.data + 361 * pitch
    picture["pitches"][0, :2] = pitch
    picture["format"] = PixelFormat.NV12
    describe_transform(picture[0], letterbox, (planes.matrix, planes.full_range))
    pictures, kept = described([frame], INPUT_WH, True, True)
    spec = spec_with_input(INPUT_WH)
    assert len(kept) == 1
    np.testing.assert_array_equal(
        letterboxed(kernels, picture, spec, np.float32, False), letterboxed(kernels, pictures, spec, np.float32, False)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_batch_of_different_sizes_types_and_layouts(kernels: ctypes.CDLL, dtype: type, channels_last: bool) -> None:
    frames = [
        frame_of(RNG.integers(0, 256, (48, 64, 3), np.uint8)),
        frame_of(Planes((300, 200), Matrix.BT601, False)),
        frame_of(RNG.integers(0, 256, (500, 333, 3), np.uint8)),
    ]
    pictures, kept = described(frames, INPUT_WH, True, True)
    levels = letterboxed(kernels, pictures, spec_with_input(INPUT_WH), dtype, channels_last)
    assert len(kept) == 3
    for frame, got in zip(frames, levels, strict=True):
        difference = np.abs(got - expected(frame, INPUT_WH, True))
        rounding = 0.12 if dtype is np.float16 else 1e-3
        assert difference.max() <= rounding + (0 if isinstance(frame.pixels, np.ndarray) else 1)


def test_only_the_needed_rows_are_copied() -> None:
    full = Letterbox.fit((1920, 1080), (416, 416), True)
    bgr = FrameLayout.make(PixelFormat.BGR, full, True)
    assert bgr.nbytes < 0.44 * 1920 * 1080 * 3
    yuv = FrameLayout.make(PixelFormat.PLANAR, full, True)
    assert yuv.nbytes < 0.6 * 1920 * 1080 * 1.5
    small = FrameLayout.make(PixelFormat.BGR, Letterbox.fit((500, 400), (416, 416), True), True)
    assert small.planes[0].rows is None


def test_touched_rows_stay_within_the_plane() -> None:
    for source, resized in [(1, 7), (2, 3), (1080, 234), (540, 234), (7, 7), (1000, 1)]:
        rows = touched_rows(source, resized)
        assert rows.shape == (2 * resized,)
        assert rows.min() >= 0
        assert rows.max() < source


def test_planes_of_a_cropped_picture() -> None:
    whole = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    crop = whole[5:25, 7:50]
    (plane,) = planes_of(crop)
    np.testing.assert_array_equal(plane.reshape(20, 43, 3), crop)


def decode(
    kernels: ctypes.CDLL, spec: ModelSpec, outputs: np.ndarray, letterboxes: list[Letterbox], conf: float,
    iou: float = 0.6, class_ids: set[int] | None = None,
) -> np.ndarray:  # fmt: skip
    """Runs the kernels on (batch, N, channels) and returns their results."""
    n = len(outputs)
    pictures = np.zeros(n, PICTURE_DTYPE)
    for index, letterbox in enumerate(letterboxes):
        describe_transform(pictures[index], letterbox, None)
    wanted = np.array([class_ids is None or c in class_ids for c in range(spec.num_classes)], np.uint8)
    results = np.zeros(n, RESULT_DTYPE)
    results["found"] = -1
    found, keys = np.zeros(n, np.int32), np.zeros((n, CANDIDATE_CAPACITY), np.uint64)
    boxes = np.full((n, CANDIDATE_CAPACITY, 4), np.nan, np.float32)
    points = np.ascontiguousarray(spec.anchor_points())
    outputs = np.ascontiguousarray(outputs)
    run = kernels.host_decode_f16 if outputs.dtype == np.float16 else kernels.host_decode_f32
    p = [ctypes.c_void_p(a.ctypes.data) for a in (pictures, outputs, points, wanted, results, found, keys, boxes)]
    f = ctypes.c_float
    run(*p[:4], spec.num_points, spec.num_classes, spec.reg_max + 1, f(conf), *map(f, spec.input_size_wh), f(iou),
        MAX_CANDIDATES, *p[4:], CANDIDATE_CAPACITY, n)  # fmt: skip
    assert not found.any()
    return results


def random_output(spec: ModelSpec, make_scores: Callable[[tuple[int, int]], np.ndarray], dtype: type) -> np.ndarray:
    scores = make_scores((spec.num_points, spec.num_classes))
    bins = RNG.normal(0, 2, (spec.num_points, spec.output_channels - spec.num_classes))
    return np.concatenate([scores, bins], axis=1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("conf", "power"), [(0.05, 40), (0.4, 40), (0.4, 400), (0.9999, 400)])
@pytest.mark.parametrize("class_ids", [None, {0, 2, 7}])
def test_decode_equals_the_reference(
    kernels: ctypes.CDLL, dtype: type, conf: float, power: int, class_ids: set[int] | None
) -> None:
    spec = spec_for("nanodet-g_416").with_input_size((160, 128))
    letterboxes = [Letterbox.fit(wh, (160, 128), True) for wh in ((640, 480), (100, 300), (160, 128))]
    outputs = np.stack([random_output(spec, lambda s: RNG.random(s) ** power, dtype) for _ in letterboxes])
    results = decode(kernels, spec, outputs, letterboxes, conf, class_ids=class_ids)
    reference = Postprocessor(spec, conf, 0.6, class_ids)
    for index, letterbox in enumerate(letterboxes):
        got, wanted = to_detections(results, index), reference(outputs[index].astype(np.float32), letterbox)
        assert got is not None
        np.testing.assert_array_equal(got.class_ids, wanted.class_ids)
        np.testing.assert_array_equal(got.scores, wanted.scores)
        np.testing.assert_allclose(got.boxes_xyxy, wanted.boxes_xyxy, atol=2e-3)


def test_equal_scores_keep_the_order_of_the_output(kernels: ctypes.CDLL) -> None:
    spec = tiny_spec()
    output = random_output(spec, lambda s: np.full(s, 0.5), np.float32)
    letterbox = Letterbox.fit(spec.input_size_wh, spec.input_size_wh, True)
    got = to_detections(decode(kernels, spec, output[None], [letterbox], 0.3), 0)
    wanted = Postprocessor(spec, 0.3)(output, letterbox)
    assert got is not None
    np.testing.assert_array_equal(got.class_ids, wanted.class_ids)
    np.testing.assert_allclose(got.boxes_xyxy, wanted.boxes_xyxy, atol=1e-3)


def test_no_candidate(kernels: ctypes.CDLL) -> None:
    spec = tiny_spec()
    output = np.zeros((1, spec.num_points, spec.output_channels), np.float32)
    got = to_detections(decode(kernels, spec, output, [Letterbox.fit((10, 10), spec.input_size_wh, True)], 0.1), 0)
    assert got is not None
    assert len(got) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("labels", [("one",), ("one", "two", "three"), tuple(map(str, range(40)))])
def test_an_output_that_is_not_finite_is_left_to_the_reference(
    kernels: ctypes.CDLL, dtype: type, value: float, labels: tuple[str, ...]
) -> None:
    spec = tiny_spec(labels=labels)
    channels = [0, spec.num_classes - 1, spec.num_classes, spec.output_channels - 1]
    letterbox = Letterbox.fit((10, 10), spec.input_size_wh, True)
    outputs = np.zeros((1 + len(channels), spec.num_points, spec.output_channels), dtype)
    outputs[0, :, spec.num_classes :] = RNG.normal(0, 2, (spec.num_points, 16))
    outputs[:, 0, 0] = 0.9
    outputs[np.arange(1, 1 + len(channels)), -1, channels] = value
    results = decode(kernels, spec, outputs, [letterbox] * len(outputs), 0.1, class_ids=set())
    assert to_detections(results, 0) is not None
    for index in range(1, len(outputs)):
        assert to_detections(results, index) is None  # so the detector calls the reference
        with pytest.raises(EngineError, match="NaN or Inf"):
            Postprocessor(spec, 0.1)(outputs[index].astype(np.float32), letterbox)


def test_boxes_without_area_are_left_out_as_the_reference_does(kernels: ctypes.CDLL) -> None:
    spec = tiny_spec()
    letterbox = Letterbox.fit((640, 320), spec.input_size_wh, True)  # half of the input is padding
    bins = spec.reg_max + 1
    output = random_output(spec, lambda s: RNG.random(s) * 0.9 + 0.1, np.float32)
    sides = output[:, spec.num_classes :].reshape(-1, 4, bins)
    for side in range(4):  # distances of exactly 0 on opposite sides, at random
        of_none = RNG.random(spec.num_points) < 0.7
        sides[of_none, side] = [30, -120, -120, -120]
    output[:, spec.num_classes :] = sides.reshape(-1, 4 * bins)
    got = to_detections(decode(kernels, spec, output[None], [letterbox], 0.05), 0)
    wanted = Postprocessor(spec, 0.05)(output, letterbox)
    assert got is not None
    assert 0 < len(wanted) < spec.num_points
    np.testing.assert_array_equal(got.class_ids, wanted.class_ids)
    np.testing.assert_array_equal(got.scores, wanted.scores)
    np.testing.assert_allclose(got.boxes_xyxy, wanted.boxes_xyxy, atol=2e-3)
    assert (got.boxes_xyxy[:, 2:] > got.boxes_xyxy[:, :2]).all()


def test_too_many_candidates_are_reported(kernels: ctypes.CDLL) -> None:
    spec = spec_for("nanodet-g_416").with_input_size((160, 128))
    output = random_output(spec, lambda s: np.full(s, 0.9), np.float32)
    results = decode(kernels, spec, output[None], [Letterbox.fit((160, 128), (160, 128), True)], 0.5)
    assert results["found"][0] == spec.num_points * spec.num_classes > CANDIDATE_CAPACITY
    assert to_detections(results, 0) is None


def test_candidates_at_full_capacity(kernels: ctypes.CDLL) -> None:
    spec = spec_for("nanodet-g_416").with_input_size((160, 128))
    scores = np.zeros((spec.num_points, spec.num_classes))
    scores.ravel()[RNG.permutation(scores.size)[:CANDIDATE_CAPACITY]] = RNG.random(CANDIDATE_CAPACITY) * 0.5 + 0.5
    output = random_output(spec, lambda _: scores, np.float32)
    letterbox = Letterbox.fit((160, 128), (160, 128), True)
    results = decode(kernels, spec, output[None], [letterbox], 0.4)
    assert results["found"][0] == CANDIDATE_CAPACITY
    got, wanted = to_detections(results, 0), Postprocessor(spec, 0.4)(output, letterbox)
    assert got is not None
    np.testing.assert_array_equal(got.class_ids, wanted.class_ids)
    np.testing.assert_allclose(got.boxes_xyxy, wanted.boxes_xyxy, atol=2e-3)
