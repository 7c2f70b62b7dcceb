"""Video files: every frame, its time, its colours, the right way up; and damaged ones."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Container
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
from streamer.sources.diagnosis import bytes_missing
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


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_files_that_are_no_video(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "whole.mp4", 30).read_bytes()
    fast = write_clip(tmp_path / "fast.mp4", 30, container_options={"movflags": "faststart"}).read_bytes()
    sound = write_clip(tmp_path / "both.mp4", 3, with_audio=True)
    cases = {
        write(tmp_path / "empty.mp4", b""): "is empty \\(0 bytes\\)",
        write(tmp_path / "text.mp4", b"Dear diary,\nnothing moved today.\n"): "holds text, not a video",
        write(tmp_path / "zeros.mp4", bytes(5000)): "holds only zeros",
        write(tmp_path / "noise.mp4", random.Random(3).randbytes(5000)): "is damaged or no video",
        write(tmp_path / "cut.mp4", clip[: len(clip) // 2]): "is cut off: its index \\(the moov box\\) is missing",
        write(tmp_path / "short.mp4", clip[:-200]): "is cut off: 200 bytes are missing",
        write(tmp_path / "index.mp4", fast[: fast.index(b"mdat") + 8]): "is cut off: [0-9]+ bytes are missing",
        write(tmp_path / "cut.mkv", b"\x1a\x45\xdf\xa3" + bytes(40)): "is damaged or no video",
        _only_sound(sound, tmp_path / "sound.m4a"): "holds no video, only audio",
    }
    for path, words in cases.items():
        with pytest.raises(SourceError, match=words) as caught:
            open_source(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def _only_sound(clip: Path, path: Path) -> Path:
    import av

    with av.open(str(clip)) as source, av.open(str(path), "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2)
    path.chmod(0)
    with pytest.raises(SourceError, match="permission denied"):
        open_source(str(path))


def test_a_cut_file_ends_with_what_it_had(tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "clip.mp4", 60, codec_options={"g": "10"}, container_options={"movflags": "faststart"}
    ).read_bytes()
    cut = write(tmp_path / "cut.mp4", whole[:-300])
    assert bytes_missing(cut) == 300
    with open_source(str(cut)) as source:
        frames = list(source)
        assert 10 <= len(frames) < 60
        assert source.skipped[-1] == "its end: 300 bytes of the file are missing"
    assert [number_of(frame.image) for frame in frames] == list(range(len(frames)))


def test_a_cut_file_of_another_format_says_where_it_stops(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mkv", 90, codec_options={"g": "10"}).read_bytes()
    cut = write(tmp_path / "cut.mkv", whole[: len(whole) // 2])
    assert bytes_missing(cut) is None
    with open_source(str(cut)) as source:
        last = list(source)[-1]
        assert last.pts_s < 2.0
        (note,) = source.skipped
        assert note.startswith("its end: pictures stop at ") and note.endswith(" of 3.0 s")


def _ruined(path: Path, numbers: Container[int]) -> Path:
    """Writes over the pictures of these numbers in a clip of JPEG pictures."""
    content = bytearray(path.read_bytes())
    jpegs = re.finditer(rb"\xff\xd8.*?\xff\xd9", bytes(content), re.DOTALL)
    for number, jpeg in enumerate(jpegs):
        if number in numbers:
            content[jpeg.start() : jpeg.end()] = bytes(jpeg.end() - jpeg.start())
    return write(path, bytes(content))


def test_damaged_packets_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = _ruined(write_clip(tmp_path / "clip.avi", 20, codec="mjpeg", pix_fmt="yuvj420p"), {4, 5, 11})
    with open_source(str(path)) as source:
        frames = list(source)
        assert source.skipped == ("3 damaged packets",)
    assert [number_of(frame.image) for frame in frames] == [n for n in range(20) if n not in (4, 5, 11)]
    assert frames[4].index == 4 and frames[4].pts_s == pytest.approx(6 / 30)


def test_damage_without_end_is_an_error(tmp_path: Path) -> None:
    path = _ruined(write_clip(tmp_path / "clip.avi", 130, codec="mjpeg", pix_fmt="yuvj420p"), range(5, 130))
    with open_source(str(path)) as source:
        frames = iter(source)
        assert [next(frames).index for _ in range(5)] == list(range(5))
        with pytest.raises(SourceError, match="is damaged: 100 packets in a row gave no picture"):
            next(frames)


def test_nothing_but_damage_is_an_error_on_opening(tmp_path: Path) -> None:
    path = _ruined(write_clip(tmp_path / "clip.avi", 5, codec="mjpeg", pix_fmt="yuvj420p"), range(5))
    with pytest.raises(SourceError, match="ended before its first frame after 5 damaged packets"):
        open_source(str(path))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_any_damage_ends_in_frames_or_one_clear_error(suffix: str, tmp_path: Path) -> None:
    content = write_clip(tmp_path / f"clip{suffix}", 20, codec_options={"g": "5"}).read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    outcomes = set()
    for seed in range(30):
        choose = random.Random(seed)
        bad = bytearray(content)
        if seed % 2:
            del bad[choose.randrange(len(bad)) :]
        else:
            for _ in range(choose.choice((1, 10, 100))):
                bad[choose.randrange(len(bad))] ^= 1 << choose.randrange(8)
        damaged.write_bytes(bad)
        try:
            with open_source(str(damaged)) as source:
                pts = [frame.pts_s for frame in source]
        except SourceError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
        else:
            assert pts and pts[0] == 0.0 and pts == sorted(pts)
            outcomes.add("frames")
    assert outcomes == {"error", "frames"}


def test_ffmpeg_says_nothing_of_damage(tmp_path: Path) -> None:
    content = bytearray(write_clip(tmp_path / "clip.ts", 30, codec_options={"g": "5"}).read_bytes())
    for at in random.Random(1).sample(range(len(content) // 4, len(content)), 40):
        content[at] ^= 0xFF
    bad = write(tmp_path / "bad.ts", bytes(content))
    code = "import sys; from streamer.sources import open_source; print(len(list(open_source(sys.argv[1]))) > 0)"
    done = subprocess.run([sys.executable, "-c", code, str(bad)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


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
    bad = write(tmp_path / "text.mp4", b"text")
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
