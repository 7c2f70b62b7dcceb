"""Decoding workers that are killed, hang, or send no messages: their sources end with an error, no others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import PushSource
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool, worker_process
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED
from streamer.sources.workers.worker_process import WorkerLimits
from tests.fakes import wait_for
from tests.rtsp.server import RtspServer
from tests.test_processes import LONG, WAIT_S, Kept, opened

CPU = SourceOptions()
SILENCE_S = 3.0  # heartbeats come every second
QUICK = WorkerLimits(silence_s=SILENCE_S, exit_s=0.5)


def pid_of(processes: DecoderPool, number: int = 0) -> int:
    return processes.status()[number].pid


def state_of(pid: int) -> str:
    """Returns a process's state as ps shows it, Z also where there is none any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def within(body: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Returns what it returns, or raises what it raises; fails the test where it hangs."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append((body(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert result, "it hangs"
    value, error = result[0]
    if error is not None:
        raise error
    return value


def worker_that(code: str) -> Callable[[int, int], subprocess.Popen[bytes]]:
    """Returns a stand-in for `launch` whose process runs this code with a `channel` to the run."""
    begin = (
        f"import socket, sys, time; sys.path[:] = {sys.path!r}\n"
        "from streamer.common.errors import SourceError\n"
        "from streamer.sources.workers.message_channel import MessageChannel\n"
        "from streamer.sources.workers.messages import *\n"
        "end = socket.socket(fileno=int(sys.argv[1])); channel = MessageChannel(end)\n"
    )

    def start(channel: int, counters: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", begin + code, str(channel)], pass_fds=(channel, counters))

    return start


def started(processes: DecoderPool, clip: Path, names: str) -> tuple[list[PushSource], list[Iterator[Frame]]]:
    """Opens a source for each name, and takes its first frame."""
    sources = [opened(processes, clip, name) for name in names]
    frames = [iter(source) for source in sources]
    for each in frames:
        next(each)
    return sources, frames


def test_a_worker_that_is_killed_ends_its_files_alone(long_clip: Path) -> None:
    with DecoderPool(2) as processes:
        sources, frames = started(processes, long_clip, "abc")
        os.kill(pid_of(processes), signal.SIGKILL)
        for source, each in ((sources[0], frames[0]), (sources[2], frames[2])):
            with pytest.raises(SourceError, match=f"{long_clip}' broke off: the process .* was killed by SIGKILL"):
                list(each)
            consumer = Kept()
            source.start(consumer, paced=False)
            assert len(consumer.ends) == 1 and "SIGKILL" in str(consumer.ends[0])
        assert len(list(frames[1])) == LONG - 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_group_do_not_end_a_worker(
    one_process: DecoderPool, long_clip: Path, number: signal.Signals
) -> None:
    source = opened(one_process, long_clip)
    pid = pid_of(one_process)
    os.kill(pid, number)
    assert len(list(source)) == LONG
    assert pid_of(one_process) == pid


def test_closing_ends_workers_and_sources(long_clip: Path) -> None:
    with DecoderPool(2) as processes:
        sources, frames = started(processes, long_clip, "ab")
        pids = [worker.pid for worker in processes.status()]
        processes.close()
    assert all(len(list(each)) <= MAX_UNACKNOWLEDGED for each in frames)
    assert [state_of(pid) for pid in pids] == ["Z", "Z"]
    for source in sources:
        source.close()
    processes.close()


def test_a_worker_does_not_outlive_the_run(long_clip: Path) -> None:
    code = (
        "import os, sys; from streamer.sources.workers import DecoderPool as D; from streamer.sources import *;"
        "d = D(1); d.open(SourceSpec.parse(sys.argv[1], name='a'), SourceOptions()).wait_ready();"
        "print(d.status()[0].pid, flush=True); os._exit(0)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(long_clip)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    with closing(run.stdout):
        pid = int(run.stdout.readline())
        assert run.wait(WAIT_S) == 0
        wait_for(lambda: state_of(pid) == "Z")


# --- silence ---


def test_a_worker_that_hangs_is_killed(long_clip: Path) -> None:
    with DecoderPool(1, QUICK) as processes:
        consumer = Kept()
        opened(processes, long_clip).start(consumer, paced=False)
        pid = pid_of(processes)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: consumer.ends)
        assert isinstance(consumer.ends[0], SourceError)
        assert f"broke off: the process that decoded it hung: it said nothing for {SILENCE_S:g} s" in str(
            consumer.ends[0]
        )
        assert state_of(pid) == "Z"


def test_a_worker_that_never_gets_ready_is_killed(long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "launch", worker_that("time.sleep(60)"))
    with DecoderPool(1, WorkerLimits(start_s=0.2)) as processes:
        source = processes.open(SourceSpec.parse(str(long_clip)), CPU)
        with pytest.raises(SourceError, match="hung: it was not ready in time"):
            within(source.wait_ready)


@pytest.mark.parametrize("part", [2, 1_000_000])
def test_a_worker_that_hangs_in_the_middle_of_a_message_delays_no_other(
    part: int, long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"channel.send(Heartbeat()); end.sendall((3_000_000).to_bytes(4, 'big')[:{part}] + bytes({part})[2:])"
    monkeypatch.setattr(worker_process, "launch", worker_that(f"{code}; time.sleep(60)"))
    with DecoderPool(1, QUICK) as processes:
        stuck = processes.open(SourceSpec.parse(str(long_clip)), CPU)
        monkeypatch.undo()
        with DecoderPool(1) as others:
            assert len(list(opened(others, long_clip))) == LONG
        with pytest.raises(SourceError, match="hung: it said nothing"):
            within(stuck.wait_ready)


def test_a_worker_that_does_not_read_is_killed(long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "launch", worker_that("while True: channel.send(Heartbeat()); time.sleep(0.1)"))
    with DecoderPool(1, WorkerLimits(silence_s=1.0, exit_s=0.1)) as processes:
        wait_for(lambda: processes.status()[0].is_ready)
        # Each exceeds the socket's buffer: a smaller message is sent even if the worker never reads it.
        sources = within(lambda: [processes.open(SourceSpec.parse("x" * 1_000_000, name=n), CPU) for n in "abcd"])
        for source in sources:
            with pytest.raises(SourceError, match=r"hung: it read nothing for 1 s|does not exist"):
                within(source.wait_ready)


def test_a_worker_that_reads_late_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "channel.send(Heartbeat()); sizes = {}\n"
        "while len(sizes) < 5: sizes.update({each.number: len(each.spec.uri.reveal()) for each in channel.receive()})\n"
        "channel.send(*(Ended(n, SourceError(f'it is {size}'), Status()) for n, size in sizes.items())); time.sleep(60)"
    )
    monkeypatch.setattr(worker_process, "launch", worker_that(code))
    with DecoderPool(1) as processes:
        wait_for(lambda: processes.status()[0].is_ready)
        os.kill(pid_of(processes), signal.SIGSTOP)
        sources: list[Any] = []
        names = "abcde"
        opener = threading.Thread(
            target=lambda: sources.extend(processes.open(SourceSpec.parse("x" * 200_000, name=n), CPU) for n in names)
        )
        opener.start()
        os.kill(pid_of(processes), signal.SIGCONT)
        opener.join(WAIT_S)
        for source in sources:
            with pytest.raises(SourceError, match="it is 200000"):
                within(source.wait_ready)
        assert len(sources) == len(names)


def test_a_worker_that_cannot_be_killed_is_left_behind(
    long_clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver may hold one indefinitely."""
    with DecoderPool(1, WorkerLimits(silence_s=SILENCE_S, exit_s=0.05)) as processes:
        consumer = Kept()
        opened(processes, long_clip).start(consumer, paced=False)
        pid = pid_of(processes)
        monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: consumer.ends)
        assert "hung: it said nothing" in str(consumer.ends[0])
        wait_for(lambda: not processes.status())
        assert f"process {pid}, which decodes, can't be killed" in caplog.text
        os.kill(pid, signal.SIGKILL)


# --- what is no message ---


@pytest.mark.parametrize(
    "code",
    [
        "end.sendall(bytes(range(256)) * 1000)",
        "end.sendall(b'\\xff' * 12)",
        "end.sendall((-5).to_bytes(4, 'big', signed=True))",
        "end.sendall((5).to_bytes(4, 'big') + b'hello')",
        "channel.send(Heartbeat()); end.sendall(b'GET / HTTP/1.1\\r\\n')",
    ],
    ids=["bytes", "an enormous message", "a negative length", "no pickle", "text"],
)
def test_data_that_is_no_message_ends_that_worker(code: str, long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "launch", worker_that(f"{code}; time.sleep(60)"))
    with RtspServer() as camera, DecoderPool(1) as processes:
        monkeypatch.undo()  # the next one is real
        file = processes.open(SourceSpec.parse(str(long_clip), name="file"), CPU)
        live = processes.open(SourceSpec.parse(camera.url, name="live"), CPU)
        with pytest.raises(SourceError, match="process that decoded it sent what can't be read"):
            within(file.wait_ready)
        consumer = Kept()
        assert isinstance(live, PushSource)
        live.start(consumer, paced=False)
        wait_for(lambda: consumer.frames)
        assert len(list(opened(processes, long_clip))) == LONG


def test_a_surface_that_cannot_be_mapped_ends_that_worker(long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "channel.send(Heartbeat()); channel.send(SurfaceExported(0, None)); time.sleep(60)"
    monkeypatch.setattr(worker_process, "launch", worker_that(code))
    with DecoderPool(1) as processes:
        monkeypatch.undo()
        source = processes.open(SourceSpec.parse(str(long_clip)), CPU)
        with pytest.raises(SourceError, match="can't be taken: AttributeError"):
            within(source.wait_ready)
        wait_for(lambda: not processes.status())
        assert len(list(opened(processes, long_clip))) == LONG
