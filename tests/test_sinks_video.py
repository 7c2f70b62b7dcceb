"""Video files: read back and compared with what was written."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from streamer.detections import Detections
from streamer.draw import Annotator
from streamer.errors import SinkError
from streamer.frame import Frame
from streamer.sinks.video import VideoSink
from streamer.sources.base import SourceInfo
from streamer.yuv import Yuv420
from tests.media import number_of, picture, write_clip

ENDINGS = (".mp4", ".mov", ".mkv", ".avi")
NOTHING = Detections.empty()
SIZE_WH = (96, 64)


def info(fps: float | None = 30.0, path: Path | None = None) -> SourceInfo:
    return SourceInfo("clip", "clip.mp4", fps=fps, path=path)


def frames(times_s: Sequence[float], size_wh: tuple[int, int] = SIZE_WH) -> Iterator[Frame]:
    for number, time_s in enumerate(times_s):
        yield Frame(picture(number, size_wh), "clip", number, time_s, 0.0)


def write(path: Path, source: SourceInfo, pictures: Iterator[Frame]) -> None:
    with VideoSink(path, source) as sink:
        for frame in pictures:
            sink.write(frame, NOTHING)


def even(count: int, fps: float = 30.0) -> list[float]:
    return [index / fps for index in range(count)]


def read(path: Path) -> tuple[list[int], list[float], float]:
    """Returns the numbers and the times of a file's pictures, times from the first, and the video's duration."""
    with av.open(str(path)) as opened:
        decoded = list(opened.decode(video=0))
        numbers = [number_of(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)) for frame in decoded]
        times_s = [frame.time - decoded[0].time for frame in decoded]
        stream = opened.streams.video[0]
        if stream.duration is not None and stream.time_base is not None:
            return numbers, times_s, float(stream.duration * stream.time_base)
        return numbers, times_s, (opened.duration or 0) / av.time_base


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


@pytest.mark.parametrize("ending", ENDINGS)
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


def as_planes(frame: Frame, colorspace: int = 5, color_range: int = 1, format: str = "yuv420p") -> Frame:
    picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24").reformat(
        format=format, dst_colorspace=colorspace, dst_color_range=color_range
    )
    picture.colorspace, picture.color_range = colorspace, color_range
    return Frame(Yuv420(picture), frame.source, frame.index, frame.pts_s, frame.captured_at_s)


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
    write(tmp_path / f"out{ending}", info(25.0), iter(drawn))
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


def audio(path: Path) -> list[tuple[float, bytes]]:
    """Returns time and content of each audio packet."""
    with av.open(str(path)) as opened:
        return [(float(p.pts * p.time_base), bytes(p)) for p in opened.demux(audio=0) if p.pts is not None]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_sound_of_a_file_is_copied_in_step(ending: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=60, with_audio=True)
    write(tmp_path / f"out{ending}", info(path=clip), frames(even(60)))
    wanted, got = audio(clip), audio(tmp_path / f"out{ending}")
    assert wanted[0][0] < 0, "the encoder's lead-in, which players are told to skip"
    if ending in (".mkv", ".avi"):
        del wanted[0]
    assert [content for _, content in got] == [content for _, content in wanted]
    np.testing.assert_allclose([t for t, _ in got], [t for t, _ in wanted], atol=1.1e-3)
    assert read(tmp_path / f"out{ending}")[0] == list(range(60))


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_sound_ends_where_the_run_was_cut(ending: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=90, with_audio=True)
    write(tmp_path / f"out{ending}", info(path=clip), frames(even(30)))
    assert 0.95 < audio(tmp_path / f"out{ending}")[-1][0] < 1.0


def test_the_sound_starts_with_the_first_picture_written(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=60, with_audio=True)
    write(tmp_path / "out.mp4", info(path=clip), frames([index / 30 for index in range(30, 60)]))
    got = audio(tmp_path / "out.mp4")
    assert 0.0 <= got[0][0] < 0.022
    later = [content for time_s, content in audio(clip) if time_s >= 1.0 - 1e-6]
    assert [content for _, content in got] == later


def test_sound_longer_than_the_pictures_is_kept_to_its_end(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", times_s=[0.0, 0.1, 0.2], with_audio=True)
    long = tmp_path / "long.mkv"
    lengthen_sound(clip, long)
    write(tmp_path / "out.mp4", info(10.0, long), frames([0.0, 0.1, 0.2]))
    assert audio(tmp_path / "out.mp4")[-1][0] == pytest.approx(audio(long)[-1][0], abs=2e-3)


def lengthen_sound(clip: Path, to: Path) -> None:
    """Copies a clip and repeats its sound once more after its end."""
    sound = audio(clip)
    with av.open(str(clip)) as opened, av.open(str(to), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in opened.streams}
        packets = [packet for packet in opened.demux() if packet.pts is not None]
        for again in (0, 1):
            for packet in packets:
                if again and packet.stream.type == "video":
                    continue
                shift = round(again * (sound[-1][0] + 0.03) / packet.time_base)
                copied = av.Packet(bytes(packet))
                copied.pts, copied.dts, copied.time_base = packet.pts + shift, packet.pts + shift, packet.time_base
                copied.stream = streams[packet.stream.index]
                output.mux(copied)


def test_sound_that_the_container_does_not_take_is_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as output:
        video, sound = output.add_stream("mpeg4", rate=30), output.add_stream("libopus", rate=48_000)
        video.width, video.height = SIZE_WH
        for number in range(6):
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="bgr24")))
        silence = av.AudioFrame(format="s16", layout="stereo", samples=960)
        silence.sample_rate = 48_000
        output.mux(sound.encode(silence))
        output.mux([*video.encode(None), *sound.encode(None)])
    write(tmp_path / "out.avi", info(path=clip), frames(even(6)))
    assert any("no sound: a avi file can't hold" in m or "can't hold the" in m for m in caplog.messages)
    assert read(tmp_path / "out.avi")[0] == list(range(6))


def test_a_source_without_sound_is_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    write(tmp_path / "out.mp4", info(path=clip), frames(even(3)))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert len(opened.streams) == 1
    assert not caplog.records


def test_a_size_that_changes_is_scaled_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    write(tmp_path / "out.mp4", info(), frames(even(5), (97, 65)))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert opened.streams.video[0].codec_context.name == "mpeg4"
        assert opened.streams.video[0].width == 97
    assert read(tmp_path / "out.mp4")[0] == list(range(5))
    assert "no libx264" in caplog.text


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


# A run that is killed, or that fills the disk. Incompressible pictures make for large files.


def noise(count: int) -> Iterator[Frame]:
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(5)]
    for index in range(count):
        yield Frame(pictures[index % 5], "noise", index, index / 30, 0.0)


@contextmanager
def file_size_limit(most_bytes: int) -> Iterator[None]:
    """Makes writes beyond a size fail, as on a full disk."""
    resource = pytest.importorskip("resource", reason="no file size limits on this system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def count_playable(path: Path) -> int:
    """Returns how many pictures a strict reader gets from a file without meeting an error."""
    with av.open(str(path)) as opened:
        return sum(1 for _ in opened.decode(video=0))


@pytest.mark.parametrize("with_sound", [False, True], ids=["silent", "sound"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_ends_with_the_cause_and_a_file_that_plays(ending: str, with_sound: bool, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    clip = write_clip(tmp_path / "clip.mp4", frames=30, with_audio=True) if with_sound else None
    sink = VideoSink(path, info(path=clip))
    with file_size_limit(1_500_000), pytest.raises(SinkError) as caught:
        for frame in noise(400):
            sink.write(frame, NOTHING)
    sink.close()
    assert str(caught.value) == f"{path} broke off: File too large; what it holds can be played"
    assert isinstance(caught.value.__cause__, (OSError, av.FFmpegError))
    assert sink.written == (path,)
    assert 0 < path.stat().st_size <= 1_500_000
    assert count_playable(path) >= 30


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_while_the_file_is_finished(ending: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole{ending}"
    write(whole, info(), noise(70))
    for missing in (1, 300, 900, 2000):
        path = tmp_path / f"out{missing}{ending}"
        sink = VideoSink(path, info())
        with file_size_limit(whole.stat().st_size - missing), pytest.raises(SinkError, match="can be played"):
            for frame in noise(70):
                sink.write(frame, NOTHING)
            sink.close()
        sink.close()
        assert count_playable(path) >= 30


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_was_full_before_leaves_no_empty_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    sink = VideoSink(path, info())
    with file_size_limit(100), pytest.raises(SinkError, match="can't write .*: File too large; nothing was kept"):
        for frame in noise(100):
            sink.write(frame, NOTHING)
        sink.close()
    sink.close()
    assert sink.written == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_sound", [False, True], ids=["silent", "sound"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_killed_run_leaves_all_but_the_last_two_seconds(ending: str, with_sound: bool, tmp_path: Path) -> None:
    path, frames_s = tmp_path / f"out{ending}", 6.0
    clip = write_clip(tmp_path / "clip.mp4", frames=45, with_audio=True) if with_sound else None
    code = (
        "import sys; from pathlib import Path; from tests.test_sinks_video import *\n"
        "sink = VideoSink(Path(sys.argv[1]), info(path=Path(sys.argv[2]) if sys.argv[2] else None))\n"
        "for frame in frames(even(180)): sink.write(frame, NOTHING)\n"
        "print('written', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(clip or "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        os.kill(child.pid, signal.SIGKILL)
    numbers, times_s, _ = read(path)
    assert numbers == list(range(len(numbers)))
    assert times_s[-1] >= frames_s - 2
    opened = cv2.VideoCapture(str(path))
    assert opened.read()[0]


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
