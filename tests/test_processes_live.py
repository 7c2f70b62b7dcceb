"""Cameras that other processes read: lost, reached again, and never decoded ahead of time."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions
from streamer.sources.base import PushSource
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED_LIVE
from tests.fakes import wait_for
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.test_processes import CPU, LONG, Kept, opened


def test_a_camera_is_reached_again_over_there(one_process: DecoderPool) -> None:
    with (
        RtspServer() as camera,
        opened(one_process, camera.url, "door", SourceOptions(overflow_policy=OverflowPolicy.BLOCK)) as source,
    ):
        assert source.info.live and source.info.size_wh == (96, 64)
        consumer = Kept(source)
        source.start(consumer, paced=False)
        wait_for(lambda: len(consumer.frames) >= 5)
        camera.cut()
        wait_for(lambda: source.reconnects == 1)
        count = len(consumer.frames)
        wait_for(lambda: len(consumer.frames) >= count + 5)
        assert source.lost_s is None or source.reconnects == 1
        camera.close()
        wait_for(lambda: source.lost_s is not None)
        first_s = source.lost_s
        assert first_s is not None
        wait_for(lambda: (source.lost_s or 0.0) > first_s)
        assert consumer.ends == []
    wait_for(lambda: consumer.ends == [None])
    indices, pts_s = ([getattr(frame, name) for frame in consumer.frames] for name in ("index", "pts_s"))
    assert indices == list(range(len(indices)))
    assert pts_s == sorted(pts_s)


def test_a_camera_is_not_decoded_far_ahead(one_process: DecoderPool) -> None:
    with RtspServer(Loop(fps=60)) as camera, opened(one_process, camera.url) as source:
        consumer = Kept()
        source.start(consumer, paced=False)
        assert consumer.has_just(MAX_UNACKNOWLEDGED_LIVE)
        for _ in range(LONG):
            source.acknowledge()
        wait_for(lambda: len(consumer.frames) == MAX_UNACKNOWLEDGED_LIVE + LONG)
        wait_for(lambda: source.dropped)


def test_a_camera_that_refuses_may_come_later(one_process: DecoderPool) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
    source = one_process.open(SourceSpec.parse(f"rtsp://user:secret@127.0.0.1:{port}/live", name="door"), CPU)
    assert isinstance(source, PushSource)
    assert "secret" not in source.info.uri
    with source:
        with pytest.raises(SourceError, match="refused the connection") as caught:
            source.wait_ready()
        assert "secret" not in str(caught.value) and "secret" not in source.info.uri
        assert source.info.live
        consumer = Kept(source)
        source.start(consumer, paced=False)
        with RtspServer(port=port):
            wait_for(lambda: len(consumer.frames) >= 3)
            wait_for(lambda: source.info.size_wh == (96, 64))
        assert source.reconnects == 0  # it was never lost


def test_interrupting_ends_waiting_for_a_silent_camera(one_process: DecoderPool) -> None:
    with RtspServer(silent_after=10) as camera, opened(one_process, camera.url) as source:
        consumer = Kept(source)
        source.start(consumer, paced=False)
        wait_for(lambda: camera.sent == 10)
        source.interrupt()
        wait_for(lambda: consumer.ends == [None])
