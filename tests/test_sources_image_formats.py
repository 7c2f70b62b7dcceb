"""Formats of pictures, their sizes by header, and the limit of pixels for pictures, videos and streams."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import cv2
import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import SourceError
from streamer.sources import SourceOptions, open_source
from streamer.sources.image_decoding import decode_image
from streamer.sources.image_size import image_size
from streamer.sources.options import MAX_PIXELS
from tests.media import number_of, picture, png_chunk, png_header, write_clip, write_image

SMALL = SourceOptions(max_pixels=64 * 48)
TURNED_RIGHT = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
"""EXIF: one TIFF directory entry, tag 0x0112, orientation 6."""


def with_exif(jpeg: bytes) -> bytes:
    segment = b"Exif\0\0" + TURNED_RIGHT
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def write_gif(path: Path, numbers: list[int]) -> Path:
    with av.open(str(path), "w", format="gif") as output:
        stream = output.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr8"
        for number in numbers:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="bgr24")))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".avif"])
def test_the_size_is_told_from_the_header(suffix: str, tmp_path: Path) -> None:
    content = write_image(tmp_path / f"a{suffix}", 7, (72, 40)).read_bytes()
    assert image_size(content) == (72, 40)
    assert image_size(content[:11]) is None


@pytest.mark.parametrize(
    ("content", "size_wh"),
    [
        (png_header(40_000, 30_000), (40_000, 30_000)),
        (b"GIF89a" + struct.pack("<HH", 70, 50), (70, 50)),
        (b"BM" + bytes(12) + struct.pack("<IHH", 12, 70, 50), (70, 50)),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 70, -50), (70, 50)),
        (
            b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (69).to_bytes(3, "little") + (49).to_bytes(3, "little"),
            (70, 50),
        ),
        (b"MM\0*" + struct.pack(">IHHHIHHHHIHH", 8, 2, 256, 3, 1, 70, 0, 257, 3, 1, 50, 0), (70, 50)),
        (b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 256, 3, 1, 70, 0), None),
        (b"II+\0" + struct.pack("<IQQHHQQHHQQ", 0, 16, 2, 256, 4, 1, 70, 257, 16, 1, 50), (70, 50)),
        (
            b"\0\0\0\x18ftypheic" + b"ispe" + struct.pack(">III", 0, 9, 9) + b"ispe" + struct.pack(">III", 0, 70, 50),
            (70, 50),
        ),
        (b"\xff\xd8\xff\xd0\xff\xe0\0\x04ab\xff\xff\xc2\0\x0b\x08" + struct.pack(">HH", 50, 70), (70, 50)),
        (b"\xff\xd8\xff\xe0\0\x04abcd", None),
        (png_header(0, 9), None),
        (b"", None),
        (b"hello, world", None),
    ],
)
def test_sizes_by_hand(content: bytes, size_wh: tuple[int, int] | None) -> None:
    assert image_size(content) == size_wh


@settings(max_examples=300)
@given(st.sampled_from([b"\xff\xd8\xff", b"II*\0", b"MM\0+", b"BM", b"RIFF____WEBPVP8 ", b"____ftypavif"]), st.binary())
def test_any_header_has_a_size_or_none(start: bytes, rest: bytes) -> None:
    size_wh = image_size(start + rest)
    assert size_wh is None or min(size_wh) > 0


def test_a_picture_of_a_billion_pixels_is_refused_from_its_header(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", 1)
    (tmp_path / "2.png").write_bytes(png_header(40_000, 30_000))
    with open_source(str(tmp_path)) as source:
        assert [number_of(frame.image) for frame in source] == [1]
        assert source.skipped == ("2.png (40000x30000 is above the limit of 200000000 pixels (--max-pixels))",)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".avif"])
def test_the_limit_of_pixels_for_pictures(suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / f"1{suffix}", 1, (64, 48))
    write_image(tmp_path / f"2{suffix}", 2, (72, 48))
    with open_source(str(tmp_path), options=SMALL) as source:
        assert [number_of(frame.image) for frame in source] == [1]
        assert source.skipped == (f"2{suffix} (72x48 is above the limit of 3072 pixels (--max-pixels))",)


def test_the_limit_of_pixels_for_gifs(tmp_path: Path) -> None:
    write_gif(tmp_path / "1.gif", [1])
    with pytest.raises(SourceError, match=r"1.gif \(64x48 is above the limit of 100 pixels"):
        open_source(f"{tmp_path}/", options=SourceOptions(max_pixels=100))


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".gif"])
def test_the_limit_of_pixels_for_videos(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{suffix}"
    write_gif(path, [1, 2]) if suffix == ".gif" else write_clip(path, 30)
    with pytest.raises(SourceError, match=r"is too large: \d+x\d+ is above the limit of 100 pixels") as caught:
        open_source(str(path), options=SourceOptions(max_pixels=100))
    assert "\n" not in str(caught.value)


def test_a_video_whose_pictures_become_too_large(tmp_path: Path) -> None:
    small = write_clip(tmp_path / "1.ts", 60, size_wh=(64, 48))
    large = write_clip(tmp_path / "2.ts", 5, size_wh=(128, 96))
    both = tmp_path / "3.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    got = []
    with (
        open_source(str(both), options=SMALL) as source,
        pytest.raises(SourceError, match="is too large: 128x96 is above the limit of 3072 pixels"),
    ):
        got += [frame.size_wh for frame in source]
    assert set(got) <= {(64, 48)}


def test_a_folder_with_other_formats_names_each_kind_once(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", 1)
    for name in ("a.jxl", "b.jxl", "c.cr2", "d.rm", "e.txt", "f.json", "G.PSD"):
        (tmp_path / name).touch()
    with open_source(str(tmp_path)) as source:
        assert [number_of(frame.image) for frame in source] == [1]
        assert source.skipped == (
            "1 .cr2 file (convert them to JPEG or PNG)",
            "2 .jxl files (convert them to JPEG or PNG)",
            "1 .psd file (convert them to JPEG or PNG)",
        )


def test_a_gif_in_a_folder_gives_all_its_pictures(tmp_path: Path) -> None:
    write_gif(tmp_path / "1.gif", [1, 2, 3])
    write_image(tmp_path / "2.png", 4)
    (tmp_path / "3.gif").write_bytes(b"GIF89a")
    (tmp_path / "4.gif").write_bytes((tmp_path / "1.gif").read_bytes()[:60])
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert source.info.frame_count is None
        assert source.skipped == ("3.gif (damaged, or not a picture)", "4.gif (damaged, or not a picture)")
    assert [number_of(frame.image) for frame in frames] == [1, 2, 3, 4]
    assert [frame.name for frame in frames] == ["1.gif"] * 3 + ["2.png"]


def test_a_gif_alone_is_a_video(tmp_path: Path) -> None:
    with open_source(str(write_gif(tmp_path / "1.gif", [1, 2, 3]))) as source:
        assert [(number_of(frame.image), round(frame.pts_s, 2)) for frame in source] == [(1, 0), (2, 0.1), (3, 0.2)]


def test_avif_is_turned_and_mirrored(tmp_path: Path) -> None:
    content = write_image(tmp_path / "a.avif", 0x1234, (64, 48)).read_bytes()
    plain = decode_image(content)
    assert number_of(plain) == 0x1234
    turned = decode_image(content + b"\0\0\0\x09irot\x03")  # looked for in the file's first part, wherever it is
    assert number_of(np.ascontiguousarray(np.rot90(turned))) == 0x1234 and turned.shape == (64, 48, 3)
    mirrored = decode_image(content + b"\0\0\0\x09imir\x01")
    assert np.array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize("property_", [b"clap", b"grid", b"nothing"])
def test_heic_that_is_not_read_is_named_with_a_cure(property_: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(12) + b"ispe" + struct.pack(">III", 0, 70, 50) + property_)
    with pytest.raises(SourceError, match=r"a.heic \(a HEIC picture that .*; convert it to JPEG or PNG\)"):
        open_source(str(path))


def test_sixteen_bit_grey_and_palette_tiff(tmp_path: Path) -> None:
    image = picture(9)
    cv2.imwrite(str(tmp_path / "1.tiff"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "2.tiff"), image[..., 1].astype(np.uint16) * 257)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == [9, 9]
    assert all(frame.image.dtype == np.uint8 and frame.image.shape == image.shape for frame in frames)


def test_webp_and_png_are_turned_by_their_exif(tmp_path: Path) -> None:
    png = write_image(tmp_path / "1.png", 0x1234, (64, 48))
    content = png.read_bytes()
    png.write_bytes(content[:33] + png_chunk(b"eXIf", TURNED_RIGHT) + content[33:])
    webp = write_image(tmp_path / "2.webp", 0x1234, (64, 48))
    body = webp.read_bytes()[12:]
    header = b"VP8X" + struct.pack("<I4B", 10, 8, 0, 0, 0) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    exif = b"EXIF" + struct.pack("<I", len(TURNED_RIGHT)) + TURNED_RIGHT
    content = b"WEBP" + header + body + exif
    webp.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [frame.size_wh for frame in frames] == [(48, 64)] * 2
    assert [number_of(np.ascontiguousarray(np.rot90(frame.image))) for frame in frames] == [0x1234] * 2


def test_motion_jpeg_with_exif_is_turned(tmp_path: Path) -> None:
    """PyAV 18 raises ValueError for a picture's side data where FFmpeg attaches its EXIF."""
    jpeg = with_exif(write_image(tmp_path / "1.jpg", 0x1234, (64, 48)).read_bytes())
    video = tmp_path / "clip.mjpeg"
    video.write_bytes(jpeg * 3)
    with open_source(str(video)) as source:
        frames = list(source)
    assert len(frames) == 3
    assert number_of(np.ascontiguousarray(np.rot90(frames[0].image))) == 0x1234


def test_the_default_limit_fits_the_largest_cameras() -> None:
    assert MAX_PIXELS >= 16_320 * 12_240


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("reduced_by", [1, 2, 4, 8])
def test_pictures_are_reduced_while_decoding(ending: str, reduced_by: Literal[1, 2, 4, 8]) -> None:
    pixels = np.full((64, 96, 3), (10, 120, 240), np.uint8)
    reduced = decode_image(cv2.imencode(ending, pixels)[1].tobytes(), reduced_by=reduced_by)
    assert reduced.shape == (64 // reduced_by, 96 // reduced_by, 3)
    assert np.abs(reduced.astype(int) - pixels[: len(reduced), : reduced.shape[1]]).max() < 8
