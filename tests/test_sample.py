"""The packaged sample clip, and the script that makes it."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from streamer.common.errors import ConfigError, SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.spec import ModelSpec, spec_for
from tools import make_sample as module
from tools.make_sample import frames, load_prints, main, make_sample

Image = npt.NDArray[np.uint8]

CLIP = Path(__file__).parent.parent / "streamer" / "data" / "sample.mp4"
CHECKPOINT = Path(__file__).parents[2] / "shared" / "weights" / "nanodet-g_416.pth"


def clip_images(every: int) -> dict[int, Image]:
    """Returns frames 0, `every`, 2 `every`, ... of the packaged clip, BGR, by their number."""
    with av.open(str(CLIP)) as container:
        return {
            index: np.ascontiguousarray(Yuv420(frame).bgr_resized(module.SIZE_WH))
            for index, frame in enumerate(container.decode(video=0))
            if index % every == 0
        }


def test_clip_is_what_players_and_the_readme_expect() -> None:
    assert CLIP.stat().st_size <= 1_500_000
    with av.open(str(CLIP)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 1280, 720)
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, 1, 1)
        assert stream.average_rate == 30
        assert stream.duration is not None and stream.time_base is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(10.0)
        decoded = [(frame.pts * frame.time_base, frame.key_frame) for frame in container.decode(stream)]
    assert len(decoded) == 300
    assert [float(pts) for pts, _ in decoded] == pytest.approx([index / 30 for index in range(300)])
    key_frames = [index for index, (_, key) in enumerate(decoded) if key]
    assert key_frames[0] == 0
    assert max(b - a for a, b in itertools.pairwise([*key_frames, 300])) <= 60


def test_clip_moves_throughout_and_is_never_blank() -> None:
    images = clip_images(20)
    assert len(images) == 15
    for image in images.values():
        assert image.std() > 30
    numbers = sorted(images)
    for before, after in itertools.pairwise(numbers):
        change = np.abs(images[before].astype(int) - images[after]).mean()
        assert change > 5, f"frames {before} and {after} are alike"


@pytest.mark.slow
def test_clip_is_what_the_script_makes() -> None:
    pytest.importorskip("skimage", reason="scikit-image ships the photographs")
    packaged = clip_images(75)
    count = 0
    for index, image in enumerate(frames()):
        count += 1
        assert image.shape == (720, 1280, 3) and image.dtype == np.uint8
        if index in packaged:
            difference = image.astype(int) - packaged[index]
            assert np.abs(difference).mean() < 3
            assert np.abs(difference.mean(axis=(0, 1))).max() < 1, "colours shifted"
    assert count == 300
    assert len(packaged) == 4


def test_script_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage", reason="scikit-image ships the photographs")
    monkeypatch.setattr(module, "FRAMES", 5)
    (tmp_path / "a.mp4").write_bytes(b"older")
    make_sample(tmp_path / "a.mp4")
    make_sample(tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_conversion_to_yuv_is_unbiased() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    image = np.kron(colours, np.ones((8, 8, 1), np.uint8))
    planes = module.yuv420(image)
    assert planes.shape == (240, 160)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.colorspace, frame.color_range = 1, 1
    centres = Yuv420(frame).bgr_resized((160, 160))[4::8, 4::8].astype(int) - colours
    assert np.abs(centres).max() <= 2
    assert np.abs(centres.mean(axis=(0, 1))).max() < 0.1


def test_missing_scikit_image_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else found(name))
    with pytest.raises(ConfigError, match="pip install scikit-image"):
        load_prints()
    assert main([str(tmp_path / "out.mp4")]) == 2
    assert "pip install scikit-image" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class _Spec:
    """What `find_spec` returns for a package in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.origin = str(folder / "__init__.py")


@pytest.mark.parametrize(
    ("content", "says"), [(None, r"ships no data/astronaut\.png"), (b"another picture", "is not the public-domain")]
)
def test_only_the_checked_pictures_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
) -> None:
    (tmp_path / "data").mkdir()
    if content is not None:
        (tmp_path / "data" / "astronaut.png").write_bytes(content)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: _Spec(tmp_path))
    with pytest.raises(ConfigError, match=says):
        load_prints()


@pytest.mark.parametrize("place", ["missing/out.mp4", "file/out.mp4", "folder"])
def test_unwritable_output_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    blank = [np.zeros((720, 1280, 3), np.uint8)]
    monkeypatch.setattr(module, "frames", lambda: iter(blank))
    with pytest.raises(SinkError, match=f"can't write .*{place}"):
        make_sample(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def detect(network: Any, spec: ModelSpec, image: Image) -> Detections:
    """Returns what the network sees in one frame at a score of 0.4 or more."""
    import torch

    frame = Frame(image, "sample", 0, 0.0, 0.0)
    letterbox = Letterbox.fit(frame.size_wh, spec.input_size_wh, spec.keep_ratio)
    pixels = np.zeros((*spec.input_size_wh[::-1], 3), np.uint8)
    letterbox.apply(frame, pixels)
    normalised = (pixels - np.array(spec.mean_bgr)) / np.array(spec.std_bgr)
    with torch.inference_mode():
        output = network(torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype(np.float32)))
    return Postprocessor(spec, conf=0.4)(output[0].numpy(), letterbox)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no ../shared/weights/nanodet-g_416.pth")
def test_default_model_sees_person_cup_and_cat() -> None:
    pytest.importorskip("torch", reason="torch runs the checkpoint")
    from calibration.checkpoint import load_checkpoint
    from streamer.models.nanodet import build, load_into

    spec = spec_for("nanodet-g_416")
    network = build(spec)
    load_into(network, load_checkpoint(CHECKPOINT)[0])
    network.sigmoid_scores = True
    images = clip_images(15)
    seen = {"person": 0, "cup": 0, "cat": 0}
    for image in images.values():
        labels = {spec.labels[class_id] for class_id in detect(network, spec, image).class_ids}
        assert labels, "a frame without any detection"
        for label in labels & seen.keys():
            seen[label] += 1
    assert len(images) == 20
    assert all(count >= 7 for count in seen.values()), seen
