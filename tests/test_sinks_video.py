"""Video files: read back and compared with what was written."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import av
import numpy as np
import numpy.typing as npt
import pytest

from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.options import Encoding, crf_of, parse_quality
from streamer.sinks.video import encoders
from streamer.sinks.video.sink import VideoSink
from tests.media import picture
from tests.recordings import ENDINGS, EXACT_ENDINGS, NOTHING, as_planes, even, frames, info, read, write


def psnr(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(np.float64) - other) ** 2))))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("fps", [12.5, 24000 / 1001, 25.0, 30000 / 1001, 60.0])
def test_speed_and_duration_are_the_sources(ending: str, fps: float, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    write(path, info(fps), frames(even(40, fps)))
    numbers, times_s, duration_s = read(path)
    assert numbers == list(range(40))
    np.testing.assert_allclose(times_s, even(40, fps), atol=1.1e-3)  # Matroska counts milliseconds
    assert abs(duration_s - 40 / fps) < 0.1 / fps
    opened = cv2.VideoCapture(str(path))
    assert opened.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=2e-3)
    assert opened.get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(40, abs=1)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [30.0, None])
def test_a_variable_frame_rate_is_kept(ending: str, fps: float | None, tmp_path: Path) -> None:
    times_s = list(itertools.accumulate([0.02, 0.1, 0.033, 0.5] * 8, initial=0.0))
    write(tmp_path / f"out{ending}", info(fps), frames(times_s))
    numbers, read_s, duration_s = read(tmp_path / f"out{ending}")
    assert numbers == list(range(33))
    np.testing.assert_allclose(read_s, times_s, atol=1.1e-3)
    assert times_s[-1] + 0.01 < duration_s < times_s[-1] + 0.2


def test_a_variable_frame_rate_in_avi_is_rounded_to_frame_times(tmp_path: Path) -> None:
    times_s = list(itertools.accumulate([0.05, 0.1, 0.04, 0.5] * 5, initial=0.0))
    write(tmp_path / "out.avi", info(30.0), frames(times_s))
    numbers, _, duration_s = read(tmp_path / "out.avi")
    assert numbers == list(range(21))
    assert abs(duration_s - times_s[-1]) < 2 / 30
    with av.open(str(tmp_path / "out.avi")) as opened:  # readers guess when to show H.264 in AVI: the packets tell
        packets_s = [float(packet.dts * packet.time_base) for packet in opened.demux(video=0) if packet.size]
    np.testing.assert_allclose(packets_s, times_s, atol=1 / 60 + 1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_times_and_times_that_go_back_keep_their_order(ending: str, tmp_path: Path) -> None:
    write(tmp_path / f"out{ending}", info(), frames([5.0, 5.0, 5.1, 5.05, 5.3]))
    numbers, times_s, _ = read(tmp_path / f"out{ending}")
    assert numbers == [0, 1, 2, 3, 4]
    assert all(later > earlier for earlier, later in itertools.pairwise(times_s))
    assert times_s[-1] == pytest.approx(0.3, abs=1 / 60)


@pytest.mark.parametrize("ending", EXACT_ENDINGS)
def test_one_frame_makes_a_file_of_one_frame(ending: str, tmp_path: Path) -> None:
    write(tmp_path / f"out{ending}", info(25.0), frames([7.0]))
    numbers, _, duration_s = read(tmp_path / f"out{ending}")
    assert numbers == [0]
    assert duration_s == pytest.approx(0.04, abs=2e-3)


def test_pictures_a_second_apart_are_seen_a_second_each(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", info(None), frames([0.0, 1.0, 2.0]))
    assert read(tmp_path / "out.mp4")[1:] == ([0.0, 1.0, 2.0], 3.0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("planar", [False, True], ids=["bgr", "planes"])
@pytest.mark.parametrize("size_wh", [(97, 64), (96, 65), (641, 359), (16, 16)])
def test_the_size_is_the_sources_own(size_wh: tuple[int, int], planar: bool, ending: str, tmp_path: Path) -> None:
    source = frames(even(4), size_wh)
    write(tmp_path / f"out{ending}", info(), (as_planes(f) for f in source) if planar else source)
    with av.open(str(tmp_path / f"out{ending}")) as opened:
        assert (opened.streams.video[0].width, opened.streams.video[0].height) == size_wh
    assert read(tmp_path / f"out{ending}")[0] == [0, 1, 2, 3]


@pytest.mark.parametrize("size_wh", [(96, 64), (97, 65)])
@pytest.mark.parametrize(
    "colorspace,color_range,format",
    [(1, 1, "yuv420p"), (1, 2, "yuv420p"), (5, 1, "yuv420p"), (6, 2, "yuvj420p"), (2, 1, "yuv420p")],
)
def test_decoded_pictures_keep_their_matrix_and_range(
    size_wh: tuple[int, int], colorspace: int, color_range: int, format: str, tmp_path: Path
) -> None:
    source = [as_planes(frame, colorspace, color_range, format) for frame in frames(even(3), size_wh)]
    write(tmp_path / "out.mp4", info(), iter(source))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        decoded = list(opened.decode(video=0))
    assert {int(frame.colorspace) for frame in decoded} == {colorspace}
    ranges = {2 if frame.format.name.startswith("yuvj") else int(frame.color_range) or 1 for frame in decoded}
    assert ranges == {color_range}
    for written, frame in zip(source, decoded, strict=True):
        assert isinstance(written.pixels, Yuv420)
        luma = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
        assert psnr(written.pixels.y, luma[: size_wh[1], : size_wh[0]]) > 38


def test_bgr_is_tagged_with_the_matrix_it_was_converted_by(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", info(), frames(even(2)))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        frame = next(opened.decode(video=0))
    assert (int(frame.colorspace), int(frame.color_range)) == (6, 1)


@pytest.mark.parametrize("planar", [False, True], ids=["bgr", "planes"])
@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_what_is_seen_is_what_was_drawn(ending: str, planar: bool, tmp_path: Path) -> None:
    drawn = [as_planes(frame) if planar else frame for frame in photographs(24)]
    boxes = Detections(np.array([[20, 30, 120, 140], [200, 90, 300, 230]]), np.array([0.9, 0.6]), np.array([0, 2]))
    annotator = Annotator(["person", "bicycle", "car"])
    drawn = [annotator.annotate(frame, boxes, ["25.0 FPS", "0 dropped"]) for frame in drawn]
    write(tmp_path / f"out{ending}", info(25.0), iter(drawn), Encoding(crf=20))
    with av.open(str(tmp_path / f"out{ending}")) as opened:
        decoded = [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in opened.decode(video=0)]
    quality_db = [psnr(frame.image, seen) for frame, seen in zip(drawn, decoded, strict=True)]
    assert min(quality_db) >= 36


def photographs(count: int) -> Iterator[Frame]:
    """A camera that pans over a wall with soft shapes, fine structure and sensor noise, 320x240."""
    random = np.random.default_rng(11)
    wall = np.zeros((240, 480, 3), np.float32)
    for cell, strength in ((60, 60), (20, 25), (6, 8), (2, 3)):
        coarse = random.normal(0, strength, (240 // cell + 2, 480 // cell + 2, 3)).astype(np.float32)
        coarse[..., :] = 0.8 * coarse.mean(axis=2, keepdims=True) + 0.2 * coarse  # nature is seldom gaudy
        wall += cv2.resize(coarse, (480, 240), interpolation=cv2.INTER_CUBIC)
    for index in range(count):
        view = wall[:, 4 * index : 4 * index + 320] + 120 + random.normal(0, 1, (240, 320, 1))
        yield Frame(np.clip(view, 0, 255).astype(np.uint8), "wall", index, index / 25, 0.0)


@pytest.mark.shared
def test_real_footage_in_720p_keeps_36_db(shared: Path, tmp_path: Path) -> None:
    annotator = Annotator(["car"])
    boxes = Detections(np.array([[300, 200, 520, 420], [700, 300, 900, 500]]), np.array([0.9, 0.6]), np.array([0, 0]))
    drawn = []
    with av.open(str(shared / "clips" / "car-detection.mp4")) as clip:
        for index, picture in enumerate(itertools.islice(clip.decode(video=0), 60, 85)):
            planes = picture.reformat(1280, 720, "yuv420p")
            frame = Frame(Yuv420(planes), "road", index, index / 12.5, 0.0)
            drawn.append(annotator.annotate(frame, boxes, ["12.5 FPS"]))
    write(tmp_path / "out.mp4", info(12.5), iter(drawn))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        seen = [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in opened.decode(video=0)]
    assert min(psnr(frame.image, image) for frame, image in zip(drawn, seen, strict=True)) >= 40


def test_another_size_is_scaled_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = [(96, 64), (48, 32), (192, 128), (97, 63)]
    mixed = [Frame(picture(n, size), "clip", n, n / 30, 0.0) for n, size in enumerate(sizes * 2)]
    mixed[4:] = [as_planes(frame) for frame in mixed[4:]]
    write(tmp_path / "out.mp4", info(), iter(mixed))
    assert read(tmp_path / "out.mp4")[0] == list(range(8))
    assert caplog.messages == ["clip isn't always 96x64: other sizes are scaled to it"]


def test_a_build_without_x264_writes_mpeg4_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    encoders._log_choice.cache_clear()  # it is said once in a process
    write(tmp_path / "out.mp4", info(), frames(even(5), (97, 65)))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert opened.streams.video[0].codec_context.name == "mpeg4"
        assert opened.streams.video[0].width == 97
    assert read(tmp_path / "out.mp4")[0] == list(range(5))
    assert "no libx264" in caplog.text


@pytest.mark.parametrize("ending", EXACT_ENDINGS)
def test_mpeg4_of_full_range_pictures_is_read_back_as_they_were(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    source = [as_planes(frame, 5, 2, "yuvj420p") for frame in frames(even(3))]
    write(tmp_path / f"out{ending}", info(), iter(source))
    with av.open(str(tmp_path / f"out{ending}")) as opened:
        decoded = [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in opened.decode(video=0)]
    for written, seen in zip(source, decoded, strict=True):
        assert np.abs(written.image.astype(int) - seen).mean() < 3


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_better_quality_is_nearer_and_larger(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    sizes, quality_db = [], []
    for quality in ("low", "medium", "high", "best", "100"):
        path = tmp_path / f"{quality}.mp4"
        with VideoSink(path, info(25.0), encoding=Encoding(crf_of(parse_quality(quality)))) as sink:
            for frame in photographs(8):
                sink.write(frame, NOTHING)
        with av.open(str(path)) as opened:
            seen = [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in opened.decode(video=0)]
        sizes.append(path.stat().st_size)
        quality_db.append(min(psnr(frame.image, image) for frame, image in zip(photographs(8), seen, strict=True)))
    assert all(later >= earlier for earlier, later in itertools.pairwise(sizes)), sizes
    assert all(later >= earlier for earlier, later in itertools.pairwise(quality_db)), quality_db
    assert sizes[3] > 2 * sizes[0]


@pytest.mark.parametrize("hours", [10, 40, 24 * 9])
@pytest.mark.parametrize("ending", EXACT_ENDINGS)
def test_hours_between_two_pictures_are_kept(ending: str, hours: int, tmp_path: Path) -> None:
    gap_s = 3600.0 * hours
    write(tmp_path / f"out{ending}", info(1.0), frames([0.0, 1.0, 2.0, gap_s, gap_s + 1.0]))
    numbers, times_s, duration_s = read(tmp_path / f"out{ending}")
    assert list(dict.fromkeys(numbers)) == [0, 1, 2, 3, 4]
    assert times_s[numbers.index(3)] == pytest.approx(gap_s, abs=1e-2)
    assert times_s[-1] == pytest.approx(gap_s + 1, abs=1e-2)
    assert duration_s == pytest.approx(gap_s + 2, abs=1e-2)


def test_a_gap_says_nothing_of_the_frame_rate(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", info(None), frames([0.0, 0.1, 0.2, 3600.0, 3600.1]))
    assert read(tmp_path / "out.mp4")[2] == pytest.approx(3600.2, abs=1e-2)


def test_a_file_to_be_replaced_stays_until_the_first_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with VideoSink(path, info()) as sink:
        assert sink.written == ()
    assert path.read_bytes() == b"precious"
    with caplog.at_level(logging.INFO):
        write(path, info(), frames(even(3)))
    assert caplog.messages[-1] == f"replacing {path}"
    assert read(path)[0] == [0, 1, 2]


def test_a_run_without_frames_leaves_no_file(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", info()) as sink:
        pass
    sink.close()
    assert not list(tmp_path.iterdir())


def test_names_that_look_like_addresses_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "12:00 http:%03d ü.mp4"
    write(path, info(path=path), frames(even(2)))
    assert read(path)[0] == [0, 1]


def test_two_files_can_take_the_same_pictures_at_once(tmp_path: Path) -> None:
    pictures = [as_planes(frame) for frame in frames(even(120))]
    for frame in pictures[::7]:
        assert isinstance(frame.pixels, Yuv420)
        frame.pixels.av_frame.pict_type = 1
    slow = [Frame(f.pixels, f.source, f.index, 2 * f.pts_s, 0.0) for f in pictures]
    paths = [tmp_path / f"out{number}.mp4" for number in range(4)]
    threads = [
        threading.Thread(target=write, args=(path, info(), iter(given)))
        for path, given in zip(paths, (pictures, slow, pictures, slow), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path, speed in zip(paths, (1, 2, 1, 2), strict=True):
        numbers, times_s, _ = read(path)
        assert numbers == list(range(120))
        np.testing.assert_allclose(times_s, [speed * t for t in even(120)], atol=1e-3)


@pytest.mark.parametrize("ending", ENDINGS)
def test_there_is_a_key_frame_every_two_seconds(ending: str, tmp_path: Path) -> None:
    write(tmp_path / f"out{ending}", info(10.0), frames(even(65, 10.0)))
    with av.open(str(tmp_path / f"out{ending}")) as opened:
        keys = [n for n, frame in enumerate(opened.decode(video=0)) if frame.key_frame]
    assert keys == [0, 20, 40, 60]


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_a_finished_file_is_not_fragmented(ending: str, tmp_path: Path) -> None:
    write(tmp_path / f"out{ending}", info(), frames(even(90)))
    content = (tmp_path / f"out{ending}").read_bytes()
    boxes, at = [], 0
    while at < len(content):
        boxes.append(content[at + 4 : at + 8])
        at += int.from_bytes(content[at : at + 4], "big")
    assert b"moov" in boxes
    assert b"moof" not in boxes
