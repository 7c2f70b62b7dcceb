"""Decoded training pictures within a budget of memory."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.labels import Sample
from calibration.training import memory
from calibration.training.memory import available_memory_bytes
from calibration.training.picture_store import PictureStore
from streamer.common.errors import SourceError
from streamer.sources.image_decoding import read_image
from tests.training_pictures import write_pictures

BYTES = 60 * 40 * 3
PLENTY = 1 << 30


def test_pictures_are_decoded_once_and_read_only(tmp_path: Path) -> None:
    samples = write_pictures(tmp_path, 2)
    store = PictureStore(samples, budget_bytes=PLENTY)
    first = store.read(0)
    assert np.array_equal(first, read_image(samples[0].image))
    samples[0].image.unlink()
    assert store.read(0) is first
    assert not first.flags.writeable
    assert (store.kept_count, store.kept_bytes) == (1, BYTES)


def test_pictures_over_the_budget_are_decoded_again_but_for_the_last_ones(tmp_path: Path) -> None:
    samples = write_pictures(tmp_path, 30)[::3]  # of one size
    store = PictureStore(samples, budget_bytes=BYTES * 8)
    read = [store.read(index) for index in range(10)]
    assert store.kept_count == 7
    assert store.kept_bytes == BYTES * 8
    assert [store.read(index) is read[index] for index in range(10)] == [True] * 7 + [False, False, False]
    assert store.kept_bytes == BYTES * 8
    assert PictureStore(samples, budget_bytes=0).read(3).shape == read[3].shape


@pytest.mark.parametrize("size_wh", [(1600, 900), (900, 1600), (210, 100), (200, 100)])
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_larger_pictures_are_shrunk(tmp_path: Path, size_wh: tuple[int, int], ending: str) -> None:
    gradient = np.linspace(0, 255, size_wh[0]).astype(np.uint8)
    pixels = np.repeat(np.tile(gradient, (size_wh[1], 1))[..., None], 3, axis=2)
    file = tmp_path / f"a{ending}"
    cv2.imwrite(str(file), pixels)
    shrunk = PictureStore([Sample.of(file, [])], budget_bytes=PLENTY, longest_side=200).read(0)
    scale = 200 / max(size_wh)
    assert max(shrunk.shape) == 200
    assert shrunk.shape[:2] == pytest.approx((size_wh[1] * scale, size_wh[0] * scale), abs=1)
    expected = cv2.resize(pixels, shrunk.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("longest_side", [None, 40])
def test_pictures_are_upright_by_their_exif(tmp_path: Path, longest_side: int | None) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :100] = 255
    content = cv2.imencode(".jpg", pixels)[1].tobytes()
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: to be turned right
    segment = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    (tmp_path / "a.jpg").write_bytes(content[:2] + exif + content[2:])
    upright = PictureStore([Sample.of(tmp_path / "a.jpg", [])], budget_bytes=PLENTY, longest_side=longest_side).read(0)
    height, width = upright.shape[:2]
    assert (height, width) == ((200, 100) if longest_side is None else (40, 20))
    assert upright[: height // 2 - 2].min() > 250 and upright[height // 2 + 2 :].max() < 5


@pytest.mark.parametrize("shape", [(1, 3000, 3), (3000, 2, 3)])
def test_a_long_thin_picture_keeps_a_pixel_of_its_shorter_side(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 90, np.uint8))
    pixels = PictureStore([Sample.of(tmp_path / "a.png", [])], budget_bytes=PLENTY, longest_side=100).read(0)
    assert pixels.shape == tuple(100 if side == 3000 else 1 for side in shape[:2]) + (3,) and (pixels == 90).all()


def test_an_unreadable_picture_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    store = PictureStore([Sample.of(tmp_path / "a.jpg", []), Sample.of(tmp_path / "b.jpg", [])], budget_bytes=PLENTY)
    with pytest.raises(SourceError, match="not a picture"):
        store.read(0)
    with pytest.raises(SourceError, match="No such file"):
        store.read(1)


def test_available_memory_is_the_least_of_system_and_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    alone = available_memory_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory_bytes() > 1 << 20 and alone > 1 << 20
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_memory_bytes() == 4000
