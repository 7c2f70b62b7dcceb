"""Pictures: order, damage, orientation, patterns."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import SourceError
from streamer.sources import open_source
from streamer.sources.diagnosis import why_unreadable
from streamer.sources.spec import PICTURE_SUFFIXES
from tests.media import SIZE_WH, number_of, picture, write_clip, write_image


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100, 2):
        write_image(tmp_path / f"Image{number}.png", number)
    write_image(tmp_path / "image3.PNG".lower(), 3)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "inner").mkdir()
    write_image(tmp_path / "inner" / "4.png", 4)
    write_image(tmp_path / ".hidden.png", 5)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        info = source.info
        assert source.skipped == () and list(source) == []
    assert [number_of(frame.image) for frame in frames] == [1, 2, 3, 9, 10, 100]
    assert [frame.name for frame in frames][:3] == ["Image1.png", "Image2.png", "image3.png"]
    assert [(frame.index, frame.pts_s) for frame in frames] == [(n, float(n)) for n in range(6)]
    assert (info.name, info.frame_count, info.duration_s, info.fps) == (tmp_path.name, 6, 6.0, None)
    assert not info.live and info.size_wh is None and info.path == tmp_path


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_one_picture_of_each_format(suffix: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / f"image{suffix}", 77)
    with open_source(str(path)) as source:
        (frame,) = source
        assert (source.info.size_wh, source.info.path, source.info.frame_count) == (SIZE_WH, path, 1)
    assert number_of(frame.image) == 77 and frame.name == path.name and frame.pts_s == 0.0


def test_patterns(tmp_path: Path) -> None:
    for folder, number in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / f"{number}.jpg", number)
        write_image(tmp_path / folder / f"{number}0.png", 10 * number)
    for pattern, numbers in (("*/*.jpg", [1, 2]), ("**/*", [1, 10, 2, 20]), ("a/?.jpg", [1]), ("[b]/*.png", [20])):
        with open_source(str(tmp_path / pattern)) as source:
            assert [number_of(frame.image) for frame in source] == numbers
            assert source.info.path is None


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    path = write_image(tmp_path / "shot[1].png", 6)
    write_image(tmp_path / "shot1.png", 7)
    with open_source(str(path)) as source:
        assert [number_of(frame.image) for frame in source] == [6]


def test_bad_pictures_are_passed_over_and_named(tmp_path: Path) -> None:
    write_image(tmp_path / "1.jpg", 1)
    (tmp_path / "2.jpg").touch()
    (tmp_path / "3.jpg").write_text("no picture")
    whole = write_image(tmp_path / "4.png", 4, (300, 300))
    whole.write_bytes(whole.read_bytes()[:200])
    write_image(tmp_path / "5.bmp", 5)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert source.skipped == (
            "2.jpg (0 bytes)",
            "3.jpg (damaged, or not a picture)",
            "4.png (cut off, or damaged at byte 33)",
        )
    assert [(frame.index, frame.name) for frame in frames] == [(0, "1.jpg"), (1, "5.bmp")]


@settings(max_examples=100)
@given(st.data())
def test_a_png_is_refused_for_its_checksums(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_image(tmp_path_factory.getbasetemp() / "damage.png", 4)
    content = bytearray(path.read_bytes())
    assert why_unreadable(bytes(content)) is None
    pixels = content.index(b"IDAT") + 4
    length = int.from_bytes(content[pixels - 8 : pixels - 4], "big")
    at = data.draw(st.integers(pixels, pixels + length - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del content[at:]
    assert why_unreadable(bytes(content)) is not None


def test_a_damaged_remark_in_a_png_is_no_matter(tmp_path: Path) -> None:
    path = write_image(tmp_path / "1.png", 4)
    content = path.read_bytes()
    path.write_bytes(content[:33] + (3).to_bytes(4, "big") + b"tEXta\0b" + b"oops" + content[33:])
    with open_source(str(path)) as source:
        assert [number_of(frame.image) for frame in source] == [4]
        assert source.skipped == ()


def test_nothing_to_show(tmp_path: Path) -> None:
    empty, bad, other = (tmp_path / name for name in ("empty", "bad", "other"))
    for folder in (empty, bad, other):
        folder.mkdir()
    for number in range(5):
        (bad / f"{number}.jpg").touch()
    (other / "clip.doc").touch()
    cases = {
        str(empty): "holds no picture or video; files that end in .jpg",
        f"{bad}/": r"has no picture that can be read: 0.jpg \(0 bytes\), 1.jpg \(0 bytes\), 2.jpg \(0 bytes\), \.\.\.;",
        f"{bad}/0.jpg": r"has no picture that can be read: 0.jpg \(0 bytes\)",
        str(other): r"holds no picture or video \(1 other entry\)",
        str(empty / "*.jpg"): "no picture or video matches",
        str(other / "*.doc"): r"no picture or video matches .* \(1 other entry\)",
    }
    for uri, words in cases.items():
        with pytest.raises(SourceError, match=words) as caught:
            open_source(uri)
        assert "\n" not in str(caught.value)


def test_videos_and_pictures_of_a_folder_come_one_after_another(tmp_path: Path) -> None:
    write_clip(tmp_path / "10.mp4", 3, fps=10)
    write_image(tmp_path / "2.png", 7)
    write_clip(tmp_path / "1.mkv", 2, fps=10)
    (tmp_path / "3.avi").write_text("no video")
    write_image(tmp_path / "11.png", 9)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert source.info.frame_count is source.info.duration_s is source.info.size_wh is None
        assert source.info.fps == 10 and not source.info.live and source.info.path == tmp_path
        (skipped,) = source.skipped
    assert skipped.startswith("3.avi (") and "holds text, not a video" in skipped
    assert [number_of(frame.image) for frame in frames] == [0, 1, 7, 0, 1, 2, 9]
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 1.2, 1.3, 1.4, 1.5])
    assert [frame.name for frame in frames] == [
        "1_000000.jpg", "1_000001.jpg", "2.png", "10_000000.jpg", "10_000001.jpg", "10_000002.jpg", "11.png",
    ]  # fmt: skip


def test_a_pattern_may_match_videos(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "deep/b.mkv"):
        write_clip(tmp_path / name, 2)
    with open_source(str(tmp_path / "**" / "*.m*")) as source:
        assert [number_of(frame.image) for frame in source] == [0, 1, 0, 1]


def test_a_video_that_breaks_off_is_noted_and_the_next_one_follows(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "1.mkv", 120)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    write_clip(tmp_path / "2.mkv", 2)
    with open_source(str(tmp_path)) as source:
        numbers = [number_of(frame.image) for frame in source]
        assert numbers[-2:] == [0, 1] and 2 < len(numbers) < 122
        assert any("its end: " in phrase and "of 1.mkv" in phrase for phrase in source.skipped)


def test_closing_in_the_middle_of_a_video_closes_it(tmp_path: Path) -> None:
    write_clip(tmp_path / "1.mkv", 30)
    with open_source(str(tmp_path)) as source:
        next(iter(source))
    assert list(source) == []


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    jpeg = write_image(tmp_path / "plain.jpg", 0x1234, (64, 48)).read_bytes()
    # APP1 with one TIFF directory entry: tag 0x0112, orientation 6 (the camera was turned to the right)
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\0\0" + tiff
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:])
    with open_source(str(turned)) as source:
        (frame,) = source
    assert frame.size_wh == (48, 64)
    assert number_of(np.ascontiguousarray(np.rot90(frame.image))) == 0x1234
    reference = cv2.imread(str(turned))
    assert reference is not None and np.array_equal(frame.image, reference)


def test_transparency_and_grey_become_bgr(tmp_path: Path) -> None:
    image = picture(9)
    cv2.imwrite(str(tmp_path / "1.png"), np.dstack([image, np.zeros(image.shape[:2], np.uint8)]))
    cv2.imwrite(str(tmp_path / "2.png"), image[..., 1])
    cv2.imwrite(str(tmp_path / "3.png"), image.astype(np.uint16) * 257)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert all(frame.image.shape == image.shape for frame in frames)
    assert [number_of(frame.image) for frame in frames] == [9, 9, 9]


def test_a_picture_that_vanishes_is_named(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_image(tmp_path / f"{number}.png", number)
    with open_source(str(tmp_path)) as source:
        (tmp_path / "2.png").unlink()
        assert [number_of(frame.image) for frame in source] == [1, 3]
        assert source.skipped == ("2.png (No such file or directory)",)


def test_closing_ends_the_iteration(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_image(tmp_path / f"{number}.png", number)
    source = open_source(str(tmp_path))
    frames = iter(source)
    assert number_of(next(frames).image) == 1
    source.close()
    source.close()
    assert list(frames) == []


def test_opencv_says_nothing_of_bad_pictures(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "1.png", 4, (300, 300))
    (tmp_path / "2.bmp").write_bytes(b"BM123")
    (tmp_path / "3.tif").write_bytes(b"II*\0\xff\xff\0\0")
    (tmp_path / "4.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    content = whole.read_bytes()
    for step in range(20):  # libpng would say something of each
        at = len(content) * (step + 1) // 21
        (tmp_path / f"5.{step}.png").write_bytes(content[:at])
        (tmp_path / f"6.{step}.png").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    code = "import sys; from streamer.sources import open_source; print(len(list(open_source(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
