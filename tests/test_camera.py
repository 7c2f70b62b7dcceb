"""The simulated camera itself: what it sends can be read, and each of its faults is the fault that it is said to be."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from tests.rtsp.camera import Camera, answers
from tests.rtsp.code import Code, read_code

PATIENCE_S = 10.0
SILENCE_S = 0.5
FRESH_S = 5.0  # also where the processor is busy; a backlog would be older
soon_joined = functools.partial(Camera, key_interval=6)


def code_in(frame: av.VideoFrame) -> Code | None:
    return read_code(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8))


def watch(url: str, timeout_s: float = PATIENCE_S, transport: str = "tcp") -> Generator[Code | None, None, None]:
    """Yields the code of each picture that a client decodes; it raises when none came for `timeout_s`."""
    options = {"rtsp_transport": transport, "analyzeduration": "200000", "fpsprobesize": "2"}
    with av.open(url, options=options, timeout=timeout_s) as container:
        for frame in container.decode(video=0):
            yield code_in(frame)


def first(codes: Iterator[Code | None], count: int) -> list[Code]:
    """Returns the next codes; each must be readable."""
    read = list(islice(codes, count))
    assert len(read) == count and None not in read
    return [code for code in read if code is not None]


def consecutive(codes: list[Code]) -> bool:
    return [code.number - codes[0].number for code in codes] == list(range(len(codes)))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


@pytest.mark.parametrize(
    ("size_wh", "codec"),
    [
        ((640, 360), "h264"),
        ((640, 360), "mjpeg"),
        pytest.param((640, 360), "h265", marks=pytest.mark.slow),
        pytest.param((1280, 720), "h264", marks=pytest.mark.slow),
        pytest.param((1280, 720), "mjpeg", marks=pytest.mark.slow),
    ],
)
def test_a_client_reads_each_number_soon(size_wh: tuple[int, int], codec: Literal["h264", "h265", "mjpeg"]) -> None:
    with soon_joined(size_wh, codec=codec) as camera, contextlib.closing(watch(camera.url)) as codes:
        first(codes, 10)
        read, ages_s = [], []
        for _ in range(31):
            read += first(codes, 1)
            ages_s.append(time.monotonic() - read[-1].sent_s)
    assert consecutive(read)
    assert min(ages_s) > 0 and sorted(ages_s)[15] < FRESH_S
    assert 0.9 < read[-1].sent_s - read[0].sent_s < PATIENCE_S  # in real time


@pytest.mark.slow
def test_who_comes_late_gets_fresh_pictures() -> None:
    with Camera(fps=60, key_interval=10) as camera, contextlib.closing(watch(camera.url)) as early:
        seen = first(early, 40)[-1]
        with contextlib.closing(watch(camera.url)) as late:
            joined = first(late, 5)
            assert time.monotonic() - joined[-1].sent_s < FRESH_S
        assert consecutive(joined) and joined[0].number > seen.number
        assert joined[0].number % 10 == 0  # the key frame that it had to wait for
        assert consecutive([seen, *first(early, 20)])


def test_a_frozen_camera_keeps_its_sockets_and_says_nothing() -> None:
    with soon_joined() as camera:
        with contextlib.closing(watch(camera.url, SILENCE_S)) as codes:
            last = first(codes, 20)[-1]
            camera.freeze()
            with pytest.raises(av.error.ExitError):  # timed out, not ended
                for code in codes:
                    assert code is not None
                    last = code
        with socket.create_connection(("127.0.0.1", camera.wire.port), SILENCE_S) as client:
            client.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            with pytest.raises(TimeoutError):
                client.recv(1)
            thawed_s = time.monotonic()
            camera.thaw()
            client.settimeout(PATIENCE_S)
            assert client.recv(8) == b"RTSP/1.0"
        with contextlib.closing(watch(camera.url)) as codes:
            again = first(codes, 5)
            assert time.monotonic() - again[-1].sent_s < FRESH_S
        made_since_thawed = (again[0].sent_s - thawed_s) * 30
        assert again[0].number > last.number > again[0].number - made_since_thawed - SILENCE_S * 30
        camera.freeze()  # a frozen one can be killed and closed


def test_a_killed_camera_refuses_and_comes_back_on_its_port() -> None:
    with soon_joined() as camera:
        url = camera.url
        with contextlib.closing(watch(url)) as codes:
            read = first(codes, 20)
            camera.kill()
            with contextlib.suppress(OSError):  # ended or reset
                for code in codes:
                    assert code is not None
                    read.append(code)
        assert consecutive(read)
        for target in (url, camera.direct_url):
            with pytest.raises(av.error.ConnectionRefusedError):
                next(watch(target))
        with pytest.raises(RuntimeError, match="isn't running; call start"):
            camera.freeze()
        camera.start(size_wh=(320, 240), codec="mjpeg")
        with pytest.raises(RuntimeError, match="is running; call kill"):
            camera.start()
        assert camera.url == url
        with av.open(url, options={"rtsp_transport": "tcp"}, timeout=PATIENCE_S) as container:
            frame = next(container.decode(video=0))
            assert (frame.width, frame.height) == (320, 240)
            assert container.streams.video[0].codec_context.name == "mjpeg"
        code = code_in(frame)
        assert code is not None and code.number < read[-1].number and code.sent_s > read[-1].sent_s


@pytest.mark.slow
def test_key_frames_come_as_often_as_told() -> None:
    with (
        Camera(fps=60, key_interval=7) as camera,
        av.open(camera.url, options={"rtsp_transport": "tcp"}, timeout=PATIENCE_S) as container,
    ):
        keys = [n for n, packet in enumerate(islice(container.demux(video=0), 40)) if packet.is_keyframe]
    assert len(keys) >= 4 and {after - key for key, after in pairwise(keys)} == {7}


def test_a_wire_held_for_a_moment_lets_nothing_pass_and_loses_nothing() -> None:
    with soon_joined(fps=60) as camera, contextlib.closing(watch(camera.url)) as codes:
        read = first(codes, 20)
        camera.wire.hold()
        assert not answers(camera.wire.port, SILENCE_S)
        with socket.create_connection(("127.0.0.1", camera.wire.port), SILENCE_S) as client:
            client.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            with pytest.raises(TimeoutError):
                client.recv(1)
            camera.wire.pass_on()
            client.settimeout(PATIENCE_S)
            assert client.recv(8) == b"RTSP/1.0"
        read += first(codes, 60)
    assert consecutive(read)


@pytest.mark.slow
def test_a_client_that_takes_nothing_for_long_misses_pictures_and_the_others_none() -> None:
    with (
        Camera(fps=60, codec="mjpeg") as camera,
        contextlib.closing(watch(camera.url)) as held,
        contextlib.closing(watch(camera.direct_url)) as other,
    ):
        before = first(held, 20)[-1]
        camera.wire.hold()
        first(other, 2)
        assert consecutive(first(other, 300))
        camera.wire.pass_on()
        passed_on_s = time.monotonic()
        missed: list[int] = []
        while before.sent_s < passed_on_s:
            after = first(held, 1)[0]
            missed.append(after.number - before.number - 1)
            before = after
        assert sum(n > 0 for n in missed) == 1 and len(missed) > 30 and sum(missed) > 30


@pytest.mark.slow
def test_a_held_wire_silences_a_client() -> None:
    with soon_joined() as camera, contextlib.closing(watch(camera.url, SILENCE_S)) as codes:
        first(codes, 20)
        camera.wire.hold()
        held_s = time.monotonic()
        with pytest.raises(av.error.ExitError):
            for code in codes:
                assert code is not None and code.sent_s < held_s


def test_a_cut_wire_resets_and_a_refusing_one_refuses() -> None:
    with soon_joined() as camera:
        with (
            contextlib.closing(watch(camera.url)) as codes,
            socket.create_connection(("127.0.0.1", camera.wire.port), PATIENCE_S) as client,
        ):
            first(codes, 20)
            client.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            assert client.recv(1000).startswith(b"RTSP/1.0 200 OK")
            camera.wire.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            with contextlib.suppress(OSError):  # to FFmpeg it may be an end
                list(codes)
        with contextlib.closing(watch(camera.url)) as codes:
            first(codes, 5)
            camera.wire.refuse()
            with pytest.raises(av.error.ConnectionRefusedError):
                next(watch(camera.url))
            assert consecutive(first(codes, 20))
            camera.wire.accept()
            with contextlib.closing(watch(camera.url)) as more:
                assert first(more, 2)


@pytest.mark.slow
def test_a_corrupt_stream_is_damaged_and_heals() -> None:
    with Camera(fps=60, key_interval=10) as camera:
        camera.wire.corrupt(0.5, seed=4)
        options = {"rtsp_transport": "tcp", "analyzeduration": "200000", "fpsprobesize": "2"}
        with av.open(camera.url, options=options, timeout=PATIENCE_S) as container:
            whole, packets = 0, container.demux(video=0)
            for packet in islice(packets, 60):
                with contextlib.suppress(av.error.InvalidDataError):
                    whole += sum(code_in(f) is not None for f in packet.decode())
            assert whole < 50
            camera.wire.corrupt(0)
            healed: list[Code | None] = []
            for packet in islice(packets, 50):
                with contextlib.suppress(av.error.InvalidDataError):
                    healed += [code_in(f) for f in packet.decode()]
    assert len(healed) >= 30 and consecutive([code for code in healed[-20:] if code is not None])
    assert None not in healed[-20:]


def test_a_password() -> None:
    with soon_joined(credentials="admin:hunter2") as camera:
        for user in ("", "admin:hunter3@"):
            with pytest.raises(av.error.HTTPUnauthorizedError):
                next(watch(camera.url.replace("rtsp://", f"rtsp://{user}")))
        assert first(watch(camera.url.replace("rtsp://", "rtsp://admin:hunter2@")), 2)


@pytest.mark.slow
def test_udp_and_tcp_where_they_are_served() -> None:
    with soon_joined(transport="udp") as camera:
        assert consecutive(first(watch(camera.direct_url, transport="udp"), 20))
        with pytest.raises(av.error.FFmpegError):
            next(watch(camera.direct_url))
    with soon_joined(transport="both") as camera:
        for transport in ("udp", "tcp"):
            assert first(watch(camera.direct_url, transport=transport), 2)


def test_what_it_is_told_must_make_sense() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match=r"even numbers, got \(641, 360\)"):
        Camera((641, 360))
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1: .*KeyError: 'av1'"):
        Camera(codec="av1")  # type: ignore[arg-type]
    assert threading.active_count() == before


def test_a_camera_started_by_a_thread_that_ends_lives_on() -> None:
    with soon_joined() as camera:
        camera.kill()
        starter = threading.Thread(target=camera.start)
        starter.start()
        starter.join()
        assert first(watch(camera.url), 5)


def test_nothing_is_left() -> None:
    before, files_before = set(threading.enumerate()), open_files()
    with soon_joined() as camera, contextlib.closing(watch(camera.url)) as codes:
        assert first(codes, 1)
        pids = [camera.pid]
        camera.kill()
        camera.start()
        pids.append(camera.pid)
        camera.wire.hold()
        camera.freeze()
    assert set(threading.enumerate()) == before
    assert open_files() == files_before
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_frozen_server_dies_with_a_test_process_that_is_killed() -> None:
    script = (
        "import os, signal; from tests.rtsp.camera import Camera; camera = Camera(); camera.freeze();"
        "print(camera.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE
    )
    pid, deadline_s = int(done.stdout), time.monotonic() + PATIENCE_S
    while not gone(pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert gone(pid)
