"""Decoding by NVDEC on a GPU: the same pictures, times and findings as on the CPU. Skipped where there is none."""

from __future__ import annotations

import gc
import json
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamer.app.cli import main
from streamer.common.errors import EngineError, SourceError
from streamer.common.queues import OverflowPolicy
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.nv12 import Nv12
from streamer.cuda.nvdec import NvdecPacketDecoder, check_nvdec
from streamer.cuda.staging import BufferLease, BufferPool
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.packet_decoder import DecodedPicture
from streamer.frames.pixels import UPRIGHT
from streamer.frames.yuv import Yuv420
from streamer.sinks.video.sink import VideoSink
from streamer.sources import SourceOptions, open_source
from streamer.sources.cpu_decoder import CpuDecoder
from tests.fakes import wait_for
from tests.media import number_of, write_clip
from tests.real_gpu import opened_gpu
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

pytestmark = pytest.mark.gpu

ON_GPU = SourceOptions(gpu=0, gpu_only=True)
SIZE_WH = (320, 240)  # NVDEC's least is 144 for some codecs
B_FRAMES = {"preset": "medium", "bf": "2", "g": "12"}


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Gpu]:
    """GPU 0, where it decodes."""
    try:
        check_nvdec(0)
    except EngineError as error:
        pytest.skip(str(error))
    with opened_gpu() as opened:
        yield opened
        gc.collect()


def frames_of(uri: Path | str, options: SourceOptions = ON_GPU) -> list[Frame]:
    with open_source(str(uri), options=options) as source:
        return list(source)


def planes_of(frame: Frame) -> list[np.ndarray]:
    pixels = frame.host_pixels
    assert isinstance(pixels, Yuv420)
    return [pixels.y, pixels.u, pixels.v]


def assert_same(got: list[Frame], wanted: list[Frame], most: int = 0) -> None:
    assert [frame.index for frame in got] == [frame.index for frame in wanted]
    assert [frame.pts_s for frame in got] == pytest.approx([frame.pts_s for frame in wanted], abs=1e-6)
    for ours, theirs in zip(got, wanted, strict=True):
        assert isinstance(ours.pixels, Nv12)
        assert ours.size_wh == theirs.size_wh
        for plane, other in zip(planes_of(ours), planes_of(theirs), strict=True):
            assert np.abs(plane.astype(int) - other).max() <= most, f"frame {ours.index}"


def test_planes_round_trip(gpu: Gpu) -> None:
    made = np.random.default_rng(1).integers(0, 256, (6, 8), np.uint8)
    pool: BufferPool[DeviceBuffer] = BufferPool(lambda nbytes: DeviceBuffer(gpu, nbytes), 1)
    buffer = pool.acquire(made.nbytes)
    assert buffer is not None
    buffer.write(made)
    picture = Nv12(BufferLease(buffer, pool.release), (8, 4), Yuv420(av.VideoFrame(2, 2, "yuv420p")))
    planes = picture.to_host()
    np.testing.assert_array_equal(planes.y, made[:4])
    np.testing.assert_array_equal(planes.u, made[4:, 0::2])
    np.testing.assert_array_equal(planes.v, made[4:, 1::2])
    del picture
    gc.collect()
    pool.close()
    assert gpu.device_bytes == 0


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {}),
        ("clip.mp4", "libx264", B_FRAMES),
        ("clip.mkv", "libx264", B_FRAMES),
        ("clip.ts", "libx264", B_FRAMES),
        ("clip.flv", "libx264", {}),
        ("clip.h264", "libx264", {}),
        ("clip.mp4", "libx265", {"x265-params": "log-level=error:bframes=2:keyint=12"}),
        ("clip.ts", "libx265", {"x265-params": "log-level=error"}),
    ],
)
def test_h264_and_hevc_are_the_cpus_to_the_bit(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = write_clip(tmp_path / name, 60, size_wh=SIZE_WH, codec=codec, codec_options=options)
    got = frames_of(path)
    assert len(got) == 60
    assert_same(got, frames_of(path, SourceOptions()))


@pytest.mark.parametrize(
    ("name", "codec", "options", "most"),
    [
        ("clip.webm", "libvpx", {}, 0),
        ("clip.webm", "libvpx-vp9", {}, 0),
        ("clip.mp4", "libsvtav1", {}, 0),
        ("clip.mkv", "mpeg2video", {"bf": "2"}, 4),  # inverse transforms may round as they like
        ("clip.mp4", "mpeg4", {}, 4),
        ("clip.avi", "mpeg4", {}, 4),
    ],
)
def test_other_codecs(tmp_path: Path, name: str, codec: str, options: dict[str, str], most: int) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"no encoder {codec}")
    path = write_clip(tmp_path / name, 40, size_wh=SIZE_WH, codec=codec, codec_options=options)
    try:
        got = frames_of(path)
    except SourceError as error:
        if "not supported on this GPU" not in str(error):
            raise
        pytest.skip(str(error))
    assert_same(got, frames_of(path, SourceOptions()), most)


def test_the_sample(tmp_path: Path) -> None:
    wanted = frames_of("sample", SourceOptions())
    with open_source("sample", options=ON_GPU) as source:
        got = 0
        for frame, other in zip(source, wanted, strict=True):
            got += 1
            assert frame.pts_s == pytest.approx(other.pts_s, abs=1e-6)
            if frame.index % 10 == 0:
                assert np.abs(planes_of(frame)[0].astype(int) - planes_of(other)[0]).max() == 0
    assert got == len(wanted)


@pytest.mark.parametrize(("pix_fmt", "params"), [("yuvj420p", "colormatrix=bt709:fullrange=on"), ("yuv420p", "")])
def test_colours_are_the_cpus(tmp_path: Path, pix_fmt: str, params: str) -> None:
    options = {"x264-params": params} if params else {}
    path = write_clip(tmp_path / "clip.mp4", 3, size_wh=SIZE_WH, pix_fmt=pix_fmt, codec_options=options)
    ours, theirs = frames_of(path)[2], frames_of(path, SourceOptions())[2]
    np.testing.assert_array_equal(ours.image, theirs.image)


def test_a_drawn_recording(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, size_wh=SIZE_WH)
    found = Detections(np.array([[4, 4, 60, 40]], np.float32), np.array([0.9], np.float32), np.array([0]))
    annotator = Annotator(["cat"])
    for name, options in (("gpu.mp4", ON_GPU), ("cpu.mp4", SourceOptions())):
        with open_source(str(path), options=options) as source, VideoSink(tmp_path / name, source.info) as sink:
            for frame in source:
                drawn = annotator.annotate(frame, found, ("30 FPS",))
                assert isinstance(drawn.pixels, Yuv420)
                sink.write(drawn, found)
    assert (tmp_path / "gpu.mp4").read_bytes() == (tmp_path / "cpu.mp4").read_bytes()


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_the_command_line_finds_the_same(tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    if engine == "torch" and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("PyTorch finds no CUDA")
    lines: list[list[dict[str, Any]]] = []
    for decode in ("gpu", "cpu"):
        output = tmp_path / f"{decode}.jsonl"
        arguments = ["--source", "sample", "--output", str(output), "--model", "nanodet-g_416_float"]
        arguments += ["--engine", engine, "--decode", decode, "--max-frames", "40", "--no-progress"]
        assert main(arguments) == 0
        lines.append([json.loads(line) for line in output.read_text().splitlines()])
    assert len(lines[0]) == len(lines[1]) == 40
    assert any(line["detections"] for line in lines[0])
    for ours, theirs in zip(*lines, strict=True):
        assert (ours["index"], ours["pts_s"]) == (theirs["index"], pytest.approx(theirs["pts_s"], abs=1e-6))
        assert [found["label"] for found in ours["detections"]] == [found["label"] for found in theirs["detections"]]
        for mine, other in zip(ours["detections"], theirs["detections"], strict=True):
            assert mine["score"] == pytest.approx(other["score"], abs=0.01)
            assert mine["box_xyxy"] == pytest.approx(other["box_xyxy"], abs=0.5)


def test_a_camera_that_goes_and_comes_back() -> None:
    options = SourceOptions(gpu=0, gpu_only=True, stall_timeout_s=2.0)
    server = RtspServer(Loop(size_wh=SIZE_WH))
    port = server.port
    with open_source(server.url, options=options) as source:
        frames = iter(source)
        before = [next(frames) for _ in range(20)]
        assert all(isinstance(frame.pixels, Nv12) and frame.size_wh == SIZE_WH for frame in before)
        server.cut()
        assert isinstance(next(frame for frame in frames if source.reconnects == 1).pixels, Nv12)
        server.close()
        with RtspServer(Loop(size_wh=SIZE_WH), port=port):
            last = next(frame for frame in frames if source.reconnects == 2)
            assert isinstance(last.pixels, Nv12)
            assert last.index > before[-1].index and last.pts_s > before[-1].pts_s
            assert 0 <= number_of(last.image) < 30
            assert source.damaged == 0


def test_a_camera_is_joined_at_the_same_picture_as_on_the_cpu() -> None:
    for options in (
        SourceOptions(gpu=0, gpu_only=True, overflow_policy=OverflowPolicy.BLOCK),
        SourceOptions(overflow_policy=OverflowPolicy.BLOCK),
    ):
        with (
            RtspServer(Loop(size_wh=SIZE_WH, first=5)) as server,
            open_source(server.url, options=options) as source,
        ):
            numbers = [number_of(frame.image) for frame, _ in zip(source, range(15), strict=False)]
        assert numbers == list(range(10, 25))


def packets_of(path: Path) -> tuple[Any, list[Any], DecodedPicture]:
    """Returns a clip's stream, its packets, and its first picture by the CPU; the container stays open."""
    container = av.open(str(path))
    stream = container.streams.video[0]
    packets = list(container.demux(stream))
    cpu = CpuDecoder(stream, 1.0)
    return stream, packets, next(made for packet in packets for made in cpu.decode(packet))


def test_live_pictures_come_with_their_packets(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", 30, size_wh=SIZE_WH, codec_options={"bf": "0"})
    stream, packets, first = packets_of(path)
    decoder = NvdecPacketDecoder(stream, 1.0, first, UPRIGHT, 0, live=True)
    try:
        made = [decoder.decode(packet) for packet in packets]
    finally:
        decoder.close()
    assert [len(pictures) for pictures in made] == [1] * 30 + [0]
    assert [pictures[0].stamp_s for pictures in made[:30]] == [packet.pts for packet in packets[:30]]


def test_b_frames_nobody_announced(tmp_path: Path) -> None:
    stream, packets, first = packets_of(write_clip(tmp_path / "clip.ts", 60, size_wh=SIZE_WH, codec_options=B_FRAMES))
    known = ("codec", "pix_fmt", "width", "height", "extradata")
    context = {name: getattr(stream.codec_context, name) for name in known}
    pretended: Any = types.SimpleNamespace(codec_context=types.SimpleNamespace(has_b_frames=False, **context))
    decoder = NvdecPacketDecoder(pretended, 1.0, first, UPRIGHT, 0, live=True)
    stamps = []
    for packet in packets:
        stamps += [picture.stamp_s for picture in decoder.decode(packet)]
    decoder.close()
    keys = [packet.pts for packet in packets if packet.is_keyframe]
    after = [stamp for stamp in stamps if stamp is not None and stamp >= keys[1]]
    assert len(after) >= 40
    assert after == sorted(after)


@pytest.mark.parametrize("clip", [{"rotation": 90}, {"pix_fmt": "yuv420p10le"}, {"pix_fmt": "yuv444p"}])
def test_what_nvdec_cannot_do_is_the_cpus(tmp_path: Path, clip: dict[str, Any]) -> None:
    path = write_clip(tmp_path / "clip.mp4", 12, size_wh=SIZE_WH, **clip)
    got, wanted = frames_of(path, SourceOptions(gpu=0)), frames_of(path, SourceOptions())
    assert [frame.size_wh for frame in got] == [frame.size_wh for frame in wanted]
    assert not any(isinstance(frame.pixels, Nv12) for frame in got)
    np.testing.assert_array_equal(got[5].image, wanted[5].image)
    with pytest.raises(SourceError, match="can't be decoded by the GPU: .*; use --decode cpu"):
        frames_of(path)


@pytest.mark.parametrize("sizes", [((320, 240), (640, 480)), ((640, 480), (320, 240))])
def test_a_stream_that_changes_its_size_goes_on(tmp_path: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    path = tmp_path / "both.h264"
    parts = [
        write_clip(tmp_path / f"{index}.h264", 30, size_wh=size_wh, codec_options={"g": "10", "bf": "0"}).read_bytes()
        for index, size_wh in enumerate(sizes)
    ]
    path.write_bytes(b"".join(parts))
    frames = frames_of(path)
    assert [frame.size_wh for frame in frames].count(sizes[0]) == 30
    after = [frame for frame in frames if frame.size_wh == sizes[1]]
    assert len(after) >= 20  # up to a key frame interval may be lost
    assert number_of(after[-1].image) == 29


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_damage_ends_in_frames_or_one_clear_error(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}", 60, size_wh=SIZE_WH, codec_options={"g": "10"})
    content = clip.read_bytes()
    outcomes = set()
    for seed in range(8):
        random = np.random.default_rng(seed)
        bad = np.frombuffer(content, np.uint8).copy()
        at = random.integers(len(bad) // 4, len(bad) * 3 // 4)
        bad[at : at + 200] = random.integers(0, 256, len(bad[at : at + 200]))
        path = tmp_path / f"damaged{seed}{suffix}"
        path.write_bytes(bad.tobytes())
        try:
            outcomes.add(len(frames_of(path)) > 20)
        except SourceError as error:
            assert "\n" not in str(error)
    assert True in outcomes


def test_many_at_once(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 90, size_wh=SIZE_WH, codec_options=B_FRAMES)
    numbers: dict[int, list[int]] = {}

    def read(number: int) -> None:
        numbers[number] = [number_of(frame.image) for frame in frames_of(path)]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(numbers.values()) == [list(range(90))] * 16


def test_nothing_is_left_behind(tmp_path: Path, gpu: Gpu) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, size_wh=SIZE_WH)
    for _ in range(5):
        frames_of(path)
    gc.collect()
    before = gpu.memory_used()
    for _ in range(40):
        frames_of(path)
    gc.collect()
    wait_for(lambda: gpu.memory_used() - before < 32 << 20)  # forty decoders have several hundred MB


def test_frames_outlive_the_source(tmp_path: Path) -> None:
    frames = frames_of(write_clip(tmp_path / "clip.mp4", 100, size_wh=SIZE_WH))
    gc.collect()
    assert [number_of(frame.image) for frame in frames] == list(range(100))


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(SourceError, match="holds text, not a video"):
        frames_of(path)
