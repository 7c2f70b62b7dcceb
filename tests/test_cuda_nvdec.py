"""Decoding by NVDEC, on the fake GPU, which decodes byte streams on the host. On a GPU: test_cuda_nvdec_gpu.py."""

from __future__ import annotations

import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamer.common.errors import EngineError, SourceError
from streamer.common.queues import OverflowPolicy
from streamer.cuda import nvdec
from streamer.cuda.nv12 import Nv12
from streamer.cuda.nvdec import NvdecPacketDecoder, check_nvdec
from streamer.frames.frame import Frame
from streamer.frames.packet_decoder import CorruptPacketError, DecodedPicture
from streamer.frames.pixels import UPRIGHT
from streamer.frames.yuv import Yuv420
from streamer.frames.yuv_matrix import Matrix
from streamer.sources import Source, SourceOptions, open_source
from streamer.sources.cpu_decoder import CpuDecoder
from tests.fake_gpu import FakeGpu, install
from tests.fakes import wait_for
from tests.media import number_of, write_clip
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

ON_GPU = SourceOptions(gpu=0, gpu_only=True)
WITH_B_FRAMES = {"preset": "medium", "bf": "2", "g": "12"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A fake GPU; the test must free everything on it."""
    fake = install(monkeypatch)
    yield fake
    wait_for(fake.is_all_freed)  # a connection's thread may still be ending


def frames_of(path: Path, options: SourceOptions = ON_GPU) -> list[Frame]:
    with open_source(str(path), options=options) as source:
        return list(source)


def planes_of(frame: Frame) -> list[np.ndarray]:
    pixels = frame.host_pixels
    assert isinstance(pixels, Yuv420)
    return [pixels.y, pixels.u, pixels.v]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {}),
        ("clip.mp4", "libx264", WITH_B_FRAMES),
        ("clip.mkv", "libx264", WITH_B_FRAMES),
        ("clip.ts", "libx264", WITH_B_FRAMES),
        ("clip.h264", "libx264", {}),
        ("clip.flv", "libx264", WITH_B_FRAMES),
        ("clip.mp4", "libx265", {"x265-params": "log-level=error:bframes=2:keyint=12"}),
        ("clip.ts", "libx265", {"x265-params": "log-level=error"}),
        ("clip.mp4", "mpeg4", {}),
        ("clip.avi", "mpeg4", {}),
        ("clip.mkv", "mpeg2video", {"bf": "2"}),
        ("clip.webm", "libvpx", {}),
        ("clip.webm", "libvpx-vp9", {}),
        ("clip.mp4", "libsvtav1", {"svtav1-params": "lp=1"}),
    ],
)
def test_pictures_times_and_count_equal_the_cpus(
    gpu: FakeGpu, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write_clip(tmp_path / name, 40, codec=codec, codec_options=options)
    wanted, got = frames_of(path, SourceOptions()), frames_of(path)
    assert [(frame.index, frame.pts_s) for frame in got] == [(frame.index, frame.pts_s) for frame in wanted]
    assert len(got) == 40
    for ours, theirs in zip(got, wanted, strict=True):
        assert isinstance(ours.pixels, Nv12)
        assert ours.size_wh == theirs.size_wh
        for plane, other in zip(planes_of(ours), planes_of(theirs), strict=True):
            np.testing.assert_array_equal(plane, other)
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_packets_form_one_complete_byte_stream(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, codec_options=WITH_B_FRAMES)
    frames = frames_of(path)
    assert all(content.startswith((b"\0\0\1", b"\0\0\0\1")) for content in gpu.fed[:-1])
    assert gpu.fed[-1] == b""
    assert gpu.fed.count(b"") == 1
    context = av.CodecContext.create("h264", "r")
    packets = [*context.parse(b"".join(gpu.fed)), *context.parse()]
    pictures = [picture for packet in [*packets, None] for picture in context.decode(packet)]
    assert len(packets) == len(pictures) == len(frames) == 30
    for picture, frame in zip(pictures, frames, strict=True):
        np.testing.assert_array_equal(Yuv420(picture).y, planes_of(frame)[0])


def test_parameter_sets_of_the_description_are_sent_first(gpu: FakeGpu) -> None:
    """An RTSP camera may send them in its description only."""
    film = Loop()
    film.pictures = [b"\0\0\1" + coded.rpartition(b"\0\0\1")[2] for coded in film.pictures]  # the slice alone
    with RtspServer(film) as server, open_source(server.url, options=ON_GPU) as source:
        frames = [frame for frame, _ in zip(source, range(5), strict=False)]
    assert all(isinstance(frame.pixels, Nv12) for frame in frames)
    first, second = gpu.fed[:2]
    assert first[4] & 0x1F == 7 and second[:5].lstrip(b"\0")[1] & 0x1F == 1


@pytest.mark.parametrize("first", [-300, 0, 1 << 40])
def test_stamps_of_any_size_are_kept(gpu: FakeGpu, tmp_path: Path, first: int) -> None:
    path = write_clip(tmp_path / "clip.ts", 10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        cpu = CpuDecoder(stream, 1.0)
        picture = next(made for packet in packets for made in cpu.decode(packet))
        decoder = NvdecPacketDecoder(stream, 0.5, picture, UPRIGHT, 0, live=False)
        for number, packet in enumerate(packets):
            packet.pts = None if number == 7 else first + number
        end: Any = av.Packet()
        made = [made for packet in [*packets, end] for made in decoder.decode(packet)]
    assert [picture.stamp_s for picture in made] == [None if n == 7 else (first + n) * 0.5 for n in range(10)]
    assert gpu.stamps[0] == first
    decoder.close()


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        ({"codec": "libx264", "pix_fmt": "yuv420p10le"}, "only 8-bit 4:2:0 is taken from NVDEC, this is yuv420p10le"),
        ({"codec": "libx264", "pix_fmt": "yuv444p"}, "only 8-bit 4:2:0 is taken from NVDEC, this is yuv444p"),
        ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, "NVDEC has no mjpeg"),
        ({"codec": "libx265", "size_wh": (98, 66), "rotation": 90}, "it is stored rotated or mirrored"),
        ({"codec": "libx264", "hflip": True}, "it is stored rotated or mirrored"),
        ({"codec": "mpeg4", "size_wh": (97, 64)}, "NVDEC gives no odd sizes, this is 97x64"),
    ],
)
def test_unsupported_videos_are_decoded_by_the_cpu_or_refused(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture, clip: dict[str, Any], said: str
) -> None:
    path = write_clip(tmp_path / "clip.mp4", 12, **clip)
    with pytest.raises(SourceError, match=said) as caught:
        frames_of(path)
    assert str(caught.value).startswith(f"source {str(path)!r} can't be decoded by the GPU: ")
    with caplog.at_level("INFO"):
        for _ in range(2):
            got = frames_of(path, SourceOptions(gpu=0))
    assert caplog.text.count(said) == 1
    assert [number_of(frame.image) for frame in got] == [
        number_of(frame.image) for frame in frames_of(path, SourceOptions())
    ]
    assert not gpu.fed


def test_a_refused_first_packet_loses_no_picture(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_clip(tmp_path / "clip.mp4", 20, codec_options=WITH_B_FRAMES)
    gpu.refused = {0}
    with caplog.at_level("INFO"):
        frames = frames_of(path, SourceOptions(gpu=0))
    assert f"source {str(path)!r} is decoded by the CPU: NVDEC: Codec not supported on this GPU" in caplog.text
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    assert not any(isinstance(frame.pixels, Nv12) for frame in frames)


def test_after_a_refused_packet_decoding_continues_at_a_key_frame(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, codec_options={"g": "10", "bf": "0"})
    gpu.refused = {13}
    with open_source(str(path), options=ON_GPU) as source:
        numbers = [number_of(frame.image) for frame in source]
        assert source.skipped == ("1 damaged packet",)
    assert numbers == [*range(13), *range(20, 30)]
    assert len(gpu.opened) == 2


def test_an_invalid_packet_is_counted_as_damage(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, codec_options={"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        damaged = packets[13].pos, packets[13].size
    content = bytearray(path.read_bytes())
    content[damaged[0] : damaged[0] + 4] = b"\xff\xff\xff\xff"  # longer than the packet
    path.write_bytes(bytes(content))
    with open_source(str(path), options=ON_GPU) as source:
        numbers = [number_of(frame.image) for frame in source]
        assert source.damaged == 1
    assert len(numbers) == 29
    assert len(gpu.opened) == 1


def test_too_many_pictures_in_use_is_an_error(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30)
    held = []
    monkeypatch.setattr(NvdecPacketDecoder, "max_surfaces", 10)
    with (
        open_source(str(path), options=ON_GPU) as source,
        pytest.raises(SourceError, match="clip.mp4' has 10 decoded pictures in use at once: lower --depth"),
    ):
        held += list(source)
        held.extend(source)
    del held


def test_a_deep_pipeline_has_enough_surfaces(gpu: FakeGpu, tmp_path: Path) -> None:
    assert len(frames_of(write_clip(tmp_path / "clip.mp4", 110))) == 110


def test_pictures_outlive_their_source(gpu: FakeGpu, tmp_path: Path) -> None:
    frames = frames_of(write_clip(tmp_path / "clip.mp4", 8))
    assert len(gpu.memory) == 8
    assert [number_of(frame.image) for frame in frames[2:5]] == [2, 3, 4]
    del frames[1:]
    assert (len(gpu.memory), gpu.retained) == (1, 1)


def test_surfaces_are_reused(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 40)
    with open_source(str(path), options=ON_GPU) as source:
        assert max(len(gpu.memory) for _ in source) < 10


def test_colours_equal_the_cpus(gpu: FakeGpu, tmp_path: Path) -> None:
    options = {"x264-params": "colormatrix=bt709:fullrange=on"}
    path = write_clip(tmp_path / "clip.mp4", 3, pix_fmt="yuvj420p", codec_options=options)
    frame = frames_of(path)[0]
    pixels = frame.host_pixels
    assert isinstance(frame.pixels, Nv12) and isinstance(pixels, Yuv420)
    assert (frame.pixels.matrix, frame.pixels.full_range) == (Matrix.BT709, True)
    assert (pixels.matrix, pixels.full_range, pixels.av_frame.format.name) == (Matrix.BT709, True, "yuvj420p")


# --- latency ---


def latencies(gpu: FakeGpu) -> list[str]:
    return [options["latency"].name for options in gpu.opened]


def test_a_stream_without_b_frames_is_decoded_without_delay(gpu: FakeGpu) -> None:
    with RtspServer() as server, open_source(server.url, options=ON_GPU) as source:
        assert isinstance(next(iter(source)).pixels, Nv12)
    assert latencies(gpu) == ["LOW"]
    assert set(gpu.flags) == {8}


def test_files_are_decoded_with_delay(gpu: FakeGpu, tmp_path: Path) -> None:
    frames_of(write_clip(tmp_path / "clip.mp4", 5))
    assert latencies(gpu) == ["NATIVE"]
    assert set(gpu.flags) == {0}


def test_unannounced_b_frames_end_low_latency(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", 40, codec_options=WITH_B_FRAMES)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        cpu = CpuDecoder(stream, 1.0)
        first = next(made for packet in packets for made in cpu.decode(packet))
        context = stream.codec_context
        known = ("codec", "pix_fmt", "width", "height", "extradata")
        unaware = types.SimpleNamespace(has_b_frames=False, **{name: getattr(context, name) for name in known})
        pretended: Any = types.SimpleNamespace(codec_context=unaware)
        decoder = NvdecPacketDecoder(pretended, 1.0, first, UPRIGHT, 0, live=True)
        for packet in packets:
            decoder.decode(packet)
    assert latencies(gpu) == ["LOW", "NATIVE"]
    decoder.close()


# --- a live source ---


def test_a_lost_camera_is_decoded_on_the_gpu_again(gpu: FakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")  # a stored record would keep the error's stack frames, and a picture
    options = SourceOptions(gpu=0, gpu_only=True, stall_timeout_s=2.0)
    with RtspServer() as server, open_source(server.url, options=options) as source:
        frames = iter(source)
        for _ in range(5):
            assert isinstance(next(frames).pixels, Nv12)
        server.cut()
        after = next(frame for frame in frames if source.reconnects)
        assert isinstance(after.pixels, Nv12)
        assert len(gpu.opened) == 2
        assert after.index > 4


def test_a_gpu_error_ends_a_connection(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NvdecPacketDecoder, "max_surfaces", 4)
    options = SourceOptions(gpu=0, gpu_only=True, reconnect=0, overflow_policy=OverflowPolicy.BLOCK)
    held: list[Frame] = []
    with RtspServer(Loop(fps=60)) as server, open_source(server.url, options=options) as source:
        with pytest.raises(SourceError, match="live' has 4 decoded pictures in use at once"):
            held.extend(source)
        wait_for(lambda: len(gpu.memory) == 4)


# --- opening and closing ---


def test_the_sample_is_decoded_on_the_gpu(gpu: FakeGpu) -> None:
    with open_source("sample", options=ON_GPU) as source:
        assert isinstance(next(iter(source)).pixels, Nv12)


def test_closing_twice_and_early(gpu: FakeGpu, tmp_path: Path) -> None:
    source: Source = open_source(str(write_clip(tmp_path / "clip.mp4", 5)), options=ON_GPU)
    source.close()
    source.close()
    assert list(source) == []


def test_a_decoder_that_cannot_be_opened(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import PyNvVideoCodec as nvc

    def refuse(**_: object) -> None:
        raise RuntimeError("out of sessions")

    path = write_clip(tmp_path / "clip.mp4", 5)
    monkeypatch.setattr(nvc, "CreateDecoder", refuse)
    with pytest.raises(SourceError, match="NVDEC can't be opened: out of sessions; use --decode cpu"):
        frames_of(path)
    assert len(frames_of(path, SourceOptions(gpu=0))) == 5


# --- what is missing ---


def test_without_the_package_the_fix_is_named(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"PyNvVideoCodec is not installed: pip install 'nanodet-streamer\[nvdec\]'"):
        nvdec.load_nvdec()


def test_a_package_that_cannot_load_says_why_in_one_line(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "PyNvVideoCodec")
    (tmp_path / "PyNvVideoCodec.py").write_text("raise RuntimeError('no libnvidia-encode.so\\n\\n=== STEPS ===\\n1.')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineError) as caught:
        check_nvdec(0)
    assert str(caught.value).startswith("PyNvVideoCodec can't be loaded (no libnvidia-encode.so): update the driver")


def test_a_missing_gpu(gpu: FakeGpu) -> None:
    check_nvdec(0)
    with pytest.raises(EngineError, match="there is no GPU 1"):
        check_nvdec(1)


def test_damage_contains_the_hardwares_message(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", 5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = list(container.demux(stream))
        cpu = CpuDecoder(stream, float(stream.time_base or Fraction(1)))
        first: DecodedPicture = next(made for packet in packets for made in cpu.decode(packet))
        decoder = NvdecPacketDecoder(stream, 1.0, first, UPRIGHT, 0, live=False)
        gpu.refused = {0}
        with pytest.raises(CorruptPacketError, match=r"^NVDEC: Codec not supported on this GPU$"):
            decoder.decode(packets[0])
        assert decoder.decode(packets[1]) == []
        decoder.close()


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "h264"), ("libx265", "hevc")])
def test_a_new_size_reopens_the_decoder_without_losing_a_picture(
    gpu: FakeGpu, tmp_path: Path, codec: str, suffix: str
) -> None:
    sizes = [(320, 240), (160, 128), (160, 128)]
    options = {"g": "10", "bf": "0"} if codec == "libx264" else {"x265-params": "log-level=error:bframes=0:keyint=10"}
    parts = [
        write_clip(tmp_path / f"{index}.{suffix}", 20, size_wh=size_wh, codec=codec, codec_options=options).read_bytes()
        for index, size_wh in enumerate(sizes)
    ]
    path = tmp_path / f"all.{suffix}"
    path.write_bytes(b"".join(parts))
    with open_source(str(path), options=SourceOptions(gpu=0, gpu_only=True)) as source:
        frames = list(source)
    assert [frame.size_wh for frame in frames] == [size_wh for size_wh in sizes for _ in range(20)]
    assert len(gpu.opened) == 2
