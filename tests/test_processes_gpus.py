"""Decoding workers of several GPUs, and sources that move. The GPUs aren't there: CPUs decode."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import PushSource
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool, default_process_count, worker_process
from streamer.sources.workers.pool import is_possible
from tests.fakes import WAIT_S, wait_for
from tests.media import write_clip
from tests.rtsp.server import RtspServer
from tests.test_processes import Kept

pytestmark = pytest.mark.skipif(not is_possible(), reason="decoding processes need Linux")


def on_gpu(index: int) -> SourceOptions:
    return SourceOptions(gpu=index)


class UpTo(Kept):
    """Acknowledges each frame, until it has `most`; beyond, the source waits."""

    def __init__(self, source: PushSource, most: int) -> None:
        super().__init__()
        self.source, self.limit = source, most

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        super().on_frame(frame, capture_ms)
        if len(self.frames) <= self.limit:
            self.source.acknowledge()


@pytest.mark.parametrize(
    ("videos", "cores", "gpus", "wanted"),
    [(0, 16, 2, 0), (1, 16, 2, 2), (60, 16, 2, 4), (240, 32, 2, 16), (240, 8, 3, 6), (1, 1, 2, 2), (2, 16, 1, 0)],
)
def test_each_gpu_has_as_many_workers(videos: int, cores: int, gpus: int, wanted: int) -> None:
    assert default_process_count(videos, cores, gpus) == wanted


def test_a_file_that_moves_loses_no_frame(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 60)
    with DecoderPool(2) as pool:
        source = pool.open(SourceSpec.parse(str(clip)), on_gpu(1))
        assert isinstance(source, PushSource)
        source.wait_ready()
        consumer = UpTo(source, 10)
        source.start(consumer, paced=False)
        wait_for(lambda: len(consumer.frames) == 10 + source.max_unacknowledged)
        consumer.limit = 1000
        source.move_to_gpu(0)
        for _ in range(source.max_unacknowledged):
            source.acknowledge()
        wait_for(lambda: consumer.ends)
        assert consumer.ends == [None]
        assert [frame.index for frame in consumer.frames] == list(range(60))
        wait_for(lambda: sorted(worker.load for worker in pool.status()) == [0, 0])


def test_a_camera_that_moves_goes_on() -> None:
    with RtspServer() as camera, DecoderPool(2) as pool:
        source = pool.open(SourceSpec.parse(camera.url), on_gpu(1))
        assert isinstance(source, PushSource)
        source.wait_ready()
        consumer = UpTo(source, 10_000)
        source.start(consumer, paced=False)
        wait_for(lambda: len(consumer.frames) > 5)
        source.move_to_gpu(0)
        seen = len(consumer.frames)
        wait_for(lambda: len(consumer.frames) > seen + 5)
        indices = [frame.index for frame in consumer.frames]
        assert indices == sorted(set(indices))
        assert source.reconnects == 1
        assert not consumer.ends


def test_gpus_have_workers_of_their_own(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    with DecoderPool(2) as pool:
        sources = [pool.open(SourceSpec.parse(str(clip)), on_gpu(number % 2)) for number in range(6)]
        assert [worker.load for worker in pool.status()] == [3, 3]
        assert [worker.gpus for worker in pool.status()] == [{0}, {1}]
        for source in sources:
            source.close()


def test_a_source_leaves_a_worker_whose_messages_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_HANDLING_S", 0.05)
    clip = write_clip(tmp_path / "clip.mp4", 5)
    with DecoderPool(2) as pool:
        sources = [pool.open(SourceSpec.parse(str(clip), name=f"s{number}"), on_gpu(1)) for number in range(3)]
        for source in sources:
            source.wait_ready()
        workers = list(pool._workers)
        for worker in workers:
            assert worker._handling.acquire(timeout=WAIT_S)  # as while a message waits for a driver that hangs
        try:
            for source in sources:
                source.move_to_gpu(0)
            assert all(None in worker._sources.values() for worker in workers if worker._hangs)
        finally:
            for worker in workers:
                worker._handling.release()
        for source in sources:
            assert [frame.index for frame in source] == list(range(5))
