"""Pictures that another process decodes on a GPU and this one reads there. Skipped where there is no GPU."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.cuda.gpu import Gpu
from streamer.cuda.nv12 import Nv12
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool
from tests.fakes import wait_for
from tests.media import number_of, write_clip
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_cuda_nvdec_gpu import B_FRAMES, ON_GPU, SIZE_WH, assert_same, frames_of, gpu  # noqa: F401

pytestmark = pytest.mark.gpu


def test_pictures_are_the_cpus_to_the_bit(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 60, size_wh=SIZE_WH, codec_options=B_FRAMES)
    with DecoderPool(2) as processes:
        sources = [processes.open(SourceSpec.parse(str(path), name=str(number)), ON_GPU) for number in range(3)]
        wanted = frames_of(path, SourceOptions())
        for source in sources:
            source.wait_ready()
            assert_same([_kept(frame) for frame in source], wanted)


def _kept(frame: Frame) -> Frame:
    """Brings a frame's pixels to the host while they are there."""
    assert isinstance(frame.pixels, Nv12)
    _ = frame.host_pixels
    return frame


def test_a_picture_stays_as_long_as_it_is_kept(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 40, size_wh=SIZE_WH)
    with DecoderPool(1) as processes:
        kept = list(processes.open(SourceSpec.parse(str(path), name="a"), ON_GPU))
        assert_same(kept, frames_of(path, SourceOptions()))


def test_memory_goes_back(tmp_path: Path, gpu: Gpu) -> None:  # noqa: F811
    path = write_clip(tmp_path / "clip.mp4", 40, size_wh=(1280, 720))
    with DecoderPool(1) as processes:
        used = []
        for _ in range(4):
            sources = [processes.open(SourceSpec.parse(str(path), name=str(number)), ON_GPU) for number in range(8)]
            for source in sources:
                source.wait_ready()
                assert sum(1 for _ in source) == 40
                source.close()
            gc.collect()
            wait_for(lambda: processes.status()[0].load == 0)
            time.sleep(0.3)
            used.append(gpu.memory_used())
    assert max(used[1:]) - min(used[1:]) <= 32 << 20, used


def test_a_camera_that_goes_and_comes_back() -> None:
    with DecoderPool(1) as processes, RtspServer(Loop(size_wh=SIZE_WH)) as server:
        source = processes.open(SourceSpec.parse(server.url, name="door"), ON_GPU)
        source.wait_ready()
        frames = iter(source)
        before = [_kept(next(frames)) for _ in range(20)]
        server.cut()
        after = _kept(next(frame for frame in frames if source.reconnects == 1))
        assert after.index > before[-1].index and after.pts_s > before[-1].pts_s
        assert 0 <= number_of(after.image) < 30
        source.close()


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_command_line_finds_the_same(tmp_path: Path, processes: str) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30, size_wh=(640, 480))
    sources = [part for name in "abcd" for part in ("--source", f"{name}={path}")]
    status = main(
        [*sources, "--output", f"{tmp_path}/{{source}}.jsonl", "--decode", "gpu", "--decode-processes", processes,
         "--engine", "torch", "--model", "nanodet-g_416_float", "--conf", "0.05", "--batch", "4", "--no-progress"]
    )  # fmt: skip
    assert status == 0
    lines = [Path(tmp_path, f"{name}.jsonl").read_text().splitlines() for name in "abcd"]
    assert [len(each) for each in lines] == [30] * 4
    found = [[json.loads(line)["detections"] for line in each] for each in lines]
    assert any(found[0])
