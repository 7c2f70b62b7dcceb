"""One connection in a process of its own: a real stream, and a server that never answers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions, open_source
from streamer.sources.spec import SourceSpec
from streamer.sources.video import VideoSource
from streamer.sources.workers.isolated import IsolatedSource
from streamer.sources.workers.pool import is_possible
from tests.fakes import wait_for
from tests.media import SIZE_WH, number_of
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

pytestmark = pytest.mark.skipif(not is_possible(), reason="this system can't have decoding processes")

EVERY = SourceOptions(overflow_policy=OverflowPolicy.BLOCK, open_timeout_s=30.0, stall_timeout_s=30.0)


def children() -> list[str]:
    """Returns this process's decoding workers, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_text()
            if parent == os.getpid() and "decoder_worker" in command:
                found.append(command)
    return found


def test_frames_of_a_stream_read_apart() -> None:
    with RtspServer(Loop(fps=60)) as server, IsolatedSource(SourceSpec.parse(server.url, name="door"), EVERY) as source:
        assert source.info.live and source.info.name == "door" and source.info.size_wh == SIZE_WH
        frames = list(islice(source, 5))
        assert children()
    assert [number_of(frame.image) for frame in frames] == list(range(5))
    wait_for(lambda: not children())


def test_a_server_that_never_answers_ends_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        options = SourceOptions(open_timeout_s=0.2, key_frame_timeout_s=0.2, stall_timeout_s=0.2)
        with pytest.raises(SourceError, match=r"did not answer|gave no picture"):
            IsolatedSource(SourceSpec.parse(f"rtsp://127.0.0.1:{server.getsockname()[1]}/", name="door"), options)


@pytest.mark.slow
def test_a_source_whose_opening_hangs_in_this_process_is_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(source: VideoSource, *arguments: object, **options: object) -> None:
        ended.wait(60)
        raise SourceError("hangs")

    monkeypatch.setattr(VideoSource, "__init__", hang)
    options = replace(EVERY, open_timeout_s=3.0, key_frame_timeout_s=1.0, stall_timeout_s=1.0)
    with RtspServer(Loop(fps=60)) as server, open_source(server.url, options=options, wait=False) as source:
        assert [number_of(frame.image) for frame in islice(source, 3)] == [0, 1, 2]
        ended.set()
