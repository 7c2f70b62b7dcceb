"""Pictures on a GPU in kernels, detectors, drawing and recording, on the fake GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from streamer.cuda.nv12 import Nv12
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.models.letterbox import Letterbox
from streamer.sinks.video.sink import VideoSink
from streamer.sources import SourceOptions, open_source
from tests.fake_gpu import FakeGpu
from tests.media import number_of, write_clip
from tests.test_cuda_kernels import INPUT_WH, expected, kernels, letterboxed, spec_with_input  # noqa: F401
from tests.test_cuda_nvdec import ON_GPU, frames_of, gpu, planes_of  # noqa: F401


def one_frame(tmp_path: Path, size_wh: tuple[int, int] = (96, 64)) -> tuple[Frame, Frame]:
    """Returns the same picture from the GPU and from the CPU."""
    path = write_clip(tmp_path / "clip.mp4", 3, size_wh=size_wh)
    return frames_of(path)[2], frames_of(path, SourceOptions())[2]


def test_kernels_read_the_picture(gpu: FakeGpu, tmp_path: Path, kernels: ctypes.CDLL) -> None:  # noqa: F811
    ours, theirs = one_frame(tmp_path, (322, 182))
    assert isinstance(ours.pixels, Nv12)
    letterbox = Letterbox.fit(ours.size_wh, INPUT_WH, True)
    picture = ours.pixels.describe(letterbox).reshape(1)
    levels = letterboxed(kernels, picture, spec_with_input(INPUT_WH), np.float32, False)[0]
    difference = np.abs(levels - expected(theirs, INPUT_WH, True))
    assert difference.mean() <= 0.5
    assert difference.max() <= 1.001
    again = ours.pixels.describe(letterbox)
    assert again.tobytes() == picture.tobytes()


def test_a_cpu_detector_letterboxes_it(gpu: FakeGpu, tmp_path: Path) -> None:  # noqa: F811
    ours, theirs = one_frame(tmp_path)
    np.testing.assert_array_equal(expected(ours, INPUT_WH, True), expected(theirs, INPUT_WH, True))


def test_boxes_are_drawn_on_planes(gpu: FakeGpu, tmp_path: Path) -> None:  # noqa: F811
    found = Detections(np.array([[10, 10, 50, 40]], np.float32), np.array([0.9], np.float32), np.array([0]))
    ours, theirs = (Annotator(["cat"]).annotate(frame, found, ("30 FPS",)) for frame in one_frame(tmp_path))
    assert isinstance(ours.pixels, Yuv420)
    for plane, other in zip(planes_of(ours), planes_of(theirs), strict=True):
        np.testing.assert_array_equal(plane, other)


def test_recording_takes_planes(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    path = write_clip(tmp_path / "clip.mp4", 12)
    with (
        monkeypatch.context() as patch,
        open_source(str(path), options=ON_GPU) as source,
        VideoSink(tmp_path / "out.mp4", source.info) as sink,
    ):
        patch.setattr(Yuv420, "to_bgr", None)  # no conversion to BGR
        for frame in source:
            sink.write(frame, Detections.empty())
    recorded = frames_of(tmp_path / "out.mp4", SourceOptions())
    assert [number_of(frame.image) for frame in recorded] == list(range(12))
