"""Video files: every frame, its time, its colours, the right way up."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.frames.yuv_matrix import Matrix
from streamer.sources import Source, open_source
from streamer.sources.presentation_clock import PresentationClock
from tests.media import number_of, picture, write_clip


def frames_of(path: Path) -> list[Frame]:
    with open_source(str(path)) as source:
        return list(source)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size_wh", "planar"),
    [
        ("h264.mp4", "libx264", "yuv420p", (96, 64), True),
        ("h265.mp4", "libx265", "yuv420p", (96, 64), True),
        ("vp9.webm", "libvpx-vp9", "yuv420p", (96, 64), True),
        ("odd.mkv", "ffv1", "yuv420p", (97, 65), True),
        ("full.avi", "mjpeg", "yuvj420p", (97, 65), True),
        ("full422.avi", "mjpeg", "yuvj422p", (97, 65), True),
        ("444.mp4", "libx264", "yuv444p", (97, 65), True),
        ("10bit.mp4", "libx264", "yuv420p10le", (96, 64), True),
        ("nv12.avi", "rawvideo", "nv12", (96, 64), True),
        ("rgb.mov", "png", "rgb24", (97, 65), False),
        ("palette.gif", "gif", "rgb8", (97, 65), False),
        ("grey.mkv", "ffv1", "gray", (97, 65), False),
        ("transport.ts", "libx264", "yuv420p", (96, 64), True),
    ],
)
def test_every_frame_of_any_codec(
    name: str, codec: str, pix_fmt: str, size_wh: tuple[int, int], planar: bool, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / name, 6, size_wh=size_wh, codec=codec, pix_fmt=pix_fmt)
    with open_source(str(path)) as source:
        assert source.info.size_wh == size_wh
        assert not source.info.live and source.info.path == path
        frames = list(source)
        assert list(source) == []  # once
        assert source.skipped == ()
    assert [number_of(frame.image) for frame in frames] == list(range(6))
    assert [frame.index for frame in frames] == list(range(6))
    assert all(isinstance(frame.pixels, Yuv420) is planar for frame in frames)
    assert all(frame.size_wh == size_wh and frame.source == path.stem for frame in frames)
    captured = [frame.captured_at_s for frame in frames]
    assert captured == sorted(captured)
    if pix_fmt != "gray":
        assert np.abs(frames[3].image.astype(int) - picture(3, size_wh)).mean() < 24


def test_what_is_known_of_a_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 12, fps=24, with_audio=True)
    with open_source(str(path)) as source:
        info = source.info
    assert (info.name, info.uri, info.fps, info.frame_count) == ("clip", str(path), 24.0, 12)
    assert info.duration_s == pytest.approx(0.5, abs=0.05)


def test_a_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.05, 0.5, 2.0, 2.01]
    frames = frames_of(write_clip(tmp_path / "vfr.mp4", times_s=times))
    assert [frame.pts_s for frame in frames] == pytest.approx(times, abs=1e-4)
    assert [number_of(frame.image) for frame in frames] == list(range(6))


def test_time_counts_from_the_first_frame(tmp_path: Path) -> None:
    frames = frames_of(write_clip(tmp_path / "late.mkv", times_s=[3.0, 3.5, 4.0]))
    assert [frame.pts_s for frame in frames] == pytest.approx([0.0, 0.5, 1.0], abs=2e-3)


def test_missing_time_stamps_are_made_from_the_rate(tmp_path: Path) -> None:
    frames = frames_of(write_clip(tmp_path / "raw.h264", 5, fps=25))
    assert [frame.pts_s for frame in frames] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size_wh"),
    [
        ("libx264", "yuv420p", (96, 64)),
        ("libx264", "yuv444p", (97, 65)),
        ("mjpeg", "yuvj420p", (97, 64)),
        ("png", "rgb24", (97, 65)),
    ],
)
def test_rotation_is_applied(rotation: int, codec: str, pix_fmt: str, size_wh: tuple[int, int], tmp_path: Path) -> None:
    path = write_clip(tmp_path / "turned.mov", 3, size_wh=size_wh, codec=codec, pix_fmt=pix_fmt, rotation=rotation)
    upright = write_clip(tmp_path / "upright.mov", 3, size_wh=size_wh, codec=codec, pix_fmt=pix_fmt)
    with open_source(str(path)) as source:
        assert source.info.size_wh == (size_wh if rotation % 180 == 0 else size_wh[::-1])
        frames = list(source)
    for frame, stored in zip(frames, frames_of(upright), strict=True):
        assert isinstance(frame.pixels, Yuv420) is (codec != "png")
        expected = np.rot90(stored.image, rotation // 90)  # both count counter-clockwise
        assert frame.image.shape == expected.shape
        assert np.abs(frame.image.astype(int) - expected).mean() < 6  # chroma of odd sizes moves by half a pixel


@pytest.mark.parametrize(("hflip", "vflip", "flip_code"), [(True, False, 1), (False, True, 0)])
def test_mirroring_is_applied(hflip: bool, vflip: bool, flip_code: int, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2, hflip=hflip, vflip=vflip)
    frame = frames_of(path)[1]
    assert number_of(np.asarray(cv2.flip(frame.image, flip_code), np.uint8)) == 1


def test_colour_tags_survive_the_change_of_format(tmp_path: Path) -> None:
    bt709 = {"x264-params": "colormatrix=bt709:fullrange=on"}
    path = write_clip(tmp_path / "444.mp4", 2, pix_fmt="yuv444p", codec_options=bt709, rotation=90)
    pixels = frames_of(path)[0].pixels
    assert isinstance(pixels, Yuv420)
    assert pixels.matrix is Matrix.BT709 and pixels.full_range


def test_frames_stay_as_they_are_while_decoding_goes_on(tmp_path: Path) -> None:
    with open_source(str(write_clip(tmp_path / "clip.mp4", 12))) as source:
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(12))  # first looked at after closing
    pixels = frames[0].pixels
    assert isinstance(pixels, Yuv420) and not pixels.y.flags.writeable


def test_closing_is_safe_at_any_time(tmp_path: Path) -> None:
    source = open_source(str(write_clip(tmp_path / "clip.mp4", 30)))
    iterator = iter(source)
    frame = next(iterator)
    source.close()
    source.close()
    assert list(iterator) == [] and list(source) == []
    assert number_of(frame.image) == 0  # its pixels outlive the file


def _read(source: Source, seen: list[int], stop_at: int, reached: threading.Event) -> None:
    for frame in source:
        seen.append(frame.index)
        if frame.index == stop_at:
            reached.set()


def test_closing_from_another_thread_ends_the_iteration(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", 60))
    for stop_at in range(0, 60, 6):
        source, reached = open_source(path), threading.Event()
        seen: list[int] = []
        reader = threading.Thread(target=_read, args=(source, seen, stop_at, reached))
        reader.start()
        assert reached.wait(30)
        source.close()
        reader.join(30)
        assert not reader.is_alive() and seen == list(range(len(seen)))


def test_a_failed_open_leaves_no_file_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc to count open files")
    bad = tmp_path / "text.mp4"
    bad.write_bytes(b"text")
    whole = write_clip(tmp_path / "clip.mp4", 3)
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        with contextlib.suppress(SourceError):
            open_source(str(bad))
        frames_of(whole)
    assert len(list(descriptors.iterdir())) == before


class TestPresentationClock:
    def test_stamps_count_from_the_first(self) -> None:
        clock = PresentationClock(0.1)
        assert [clock.at(stamp) for stamp in (7.0, 7.1, 7.5)] == pytest.approx([0.0, 0.1, 0.5])

    def test_missing_stamps_are_a_frame_apart(self) -> None:
        clock = PresentationClock(0.1)
        assert [clock.at(stamp) for stamp in (None, None, 5.0, None, 5.2)] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])

    def test_one_stamp_that_goes_back_is_held(self) -> None:
        clock = PresentationClock(0.1)
        assert [clock.at(stamp) for stamp in (1.0, 1.1, 0.2, 1.3)] == pytest.approx([0.0, 0.1, 0.1, 0.3])

    def test_a_clock_that_starts_again_goes_on(self) -> None:
        clock = PresentationClock(0.1)
        stamps = (50.0, 50.1, 0.0, 0.1, 0.2, 0.3)
        assert [clock.at(stamp) for stamp in stamps] == pytest.approx([0.0, 0.1, 0.1, 0.2, 0.3, 0.4])

    @given(st.lists(st.none() | st.floats(-1e6, 1e6)))
    def test_time_never_runs_backwards(self, stamps: list[float | None]) -> None:
        clock = PresentationClock(0.04)
        times = [clock.at(stamp) for stamp in stamps]
        assert times == sorted(times) and all(time >= 0 for time in times)


def stamps_moved(path: Path, moved: Path, by_s: Callable[[int], float]) -> Path:
    """Copies a clip's packets with the stamps of each number moved."""
    with av.open(str(path)) as clip, av.open(str(moved), "w") as output:
        copied = output.add_stream_from_template(clip.streams.video[0])
        packets = [packet for packet in clip.demux(video=0) if packet.pts is not None]
        for number, packet in enumerate(packets):
            assert packet.pts is not None and packet.time_base is not None
            packet.stream = copied
            packet.dts = packet.pts + round(min(by_s(number), by_s(len(packets) - 1)) / packet.time_base)
            packet.pts += round(by_s(number) / packet.time_base)
            output.mux_one(packet)
    return moved


@pytest.mark.parametrize("stray", [5, 29])
def test_a_stray_stamp_in_a_file_shifts_nothing(tmp_path: Path, stray: int, caplog: pytest.LogCaptureFixture) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 30)
    path = stamps_moved(clip, tmp_path / "moved.nut", lambda number: 37_600.0 if number == stray else 0.0)
    with open_source(str(path)) as source:
        times = [frame.pts_s for frame in source]
    assert len(times) == 30
    if stray == 29:  # nothing after it says that it is stray
        assert times[-1] == pytest.approx(37_600 + 29 / 30, abs=2e-3)
    assert times[:29] == pytest.approx([number / 30 for number in range(29)], abs=2e-3)
    assert ("ahead of the next one" in caplog.text) is (stray == 5)


def test_a_gap_in_a_file_stays(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 30)
    path = stamps_moved(clip, tmp_path / "moved.nut", lambda number: 36_000.0 if number >= 10 else 0.0)
    with open_source(str(path)) as source:
        times = [frame.pts_s for frame in source]
    assert times == pytest.approx([n / 30 + 36_000.0 * (n >= 10) for n in range(30)], abs=2e-3)


def test_pictures_are_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 40)
    gc.collect()
    gc.disable()
    try:
        with open_source(str(path)) as source:
            frames = iter(source)
            next(frames)
            gc.collect()
            assert sum(1 for _ in frames) == 39
            assert gc.collect() < 39
    finally:
        gc.enable()
