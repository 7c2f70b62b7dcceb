"""Decoding processes that are killed, hang or are left alone: their sources end, with a word, and no others do."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.base import PushSource, SourceInfo
from streamer.sources.workers import DecoderPool, pool, worker_process
from streamer.sources.workers.remote import RemoteSource
from streamer.sources.workers.shared_counters import AHEAD
from tests.fakes import wait_for
from tests.media import write_clip
from tests.test_processes import LONG, WAIT_S, Kept, opened

CPU = SourceOptions()


def pid_of(processes: DecoderPool, number: int = 0) -> int:
    return processes._processes[number]._popen.pid


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


def begun(processes: DecoderPool, clip: Path, names: str) -> tuple[list[PushSource], list[Iterator[Frame]]]:
    """Opens a source for each name, and takes its first frame."""
    sources = [opened(processes, clip, name) for name in names]
    frames = [iter(source) for source in sources]
    for each in frames:
        next(each)
    return sources, frames


def test_a_process_that_is_killed_ends_its_sources_alone(long_clip: Path) -> None:
    with DecoderPool(2) as processes:
        sources, frames = begun(processes, long_clip, "abc")
        os.kill(pid_of(processes), signal.SIGKILL)
        for source, each in ((sources[0], frames[0]), (sources[2], frames[2])):
            with pytest.raises(SourceError, match=f"{long_clip}' broke off: the process .* was killed by SIGKILL"):
                list(each)
            consumer = Kept()
            source.start(consumer, paced=False)
            assert len(consumer.ends) == 1 and "SIGKILL" in str(consumer.ends[0])
        assert len(list(frames[1])) == LONG - 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_the_run_does_not_end_the_process(
    one_process: DecoderPool, long_clip: Path, number: signal.Signals
) -> None:
    source = opened(one_process, long_clip)
    os.kill(pid_of(one_process), number)
    assert len(list(source)) == LONG
    assert one_process._processes[0]._popen.poll() is None


def test_closing_ends_processes_and_sources(long_clip: Path) -> None:
    with DecoderPool(2) as processes:
        sources, frames = begun(processes, long_clip, "ab")
        started = processes._processes
        processes.close()
    assert all(len(list(each)) <= AHEAD for each in frames)
    assert [each._popen.returncode for each in started] == [0, 0]
    for source in sources:
        source.close()
    processes.close()


def test_a_process_does_not_outlive_the_run(long_clip: Path) -> None:
    code = (
        "import os, sys; from streamer.sources.workers import DecoderPool as D; from streamer.sources import *;"
        "d = D(1); d.open(sys.argv[1], name='a', options=SourceOptions()).wait_ready();"
        "print(d._processes[0]._popen.pid, flush=True); os._exit(0)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(long_clip)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    with closing(run.stdout):
        pid = int(run.stdout.readline())
        assert run.wait(WAIT_S) == 0
        wait_for(lambda: state_of(pid) == "Z")


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has processes looked at more often than once a second."""
    monkeypatch.setattr(pool, "_LOOK_S", 0.02)


def stop(processes: DecoderPool) -> None:
    """Stops a process as it stands."""
    os.kill(pid_of(processes), signal.SIGSTOP)
    wait_for(lambda: state_of(pid_of(processes)) == "T")


def lose_patience(hung: worker_process.Process) -> bool:
    """Says that a process has been silent for too long; returns True."""
    hung._patient_until_s = 0.0
    return True


@pytest.mark.usefixtures("watchful")
def test_a_process_that_hangs_is_ended(one_process: DecoderPool, long_clip: Path) -> None:
    consumer = Kept()
    opened(one_process, long_clip).start(consumer, paced=False)
    stop(one_process)
    (hung,) = one_process._processes
    wait_for(lambda: lose_patience(hung) and consumer.ends)
    assert isinstance(consumer.ends[0], SourceError)
    assert "broke off: the process that decoded it hung: it said nothing for 15 s" in str(consumer.ends[0])
    assert state_of(hung._popen.pid) == "Z"


@pytest.mark.usefixtures("watchful")
def test_a_process_that_hangs_in_the_middle_of_a_message_holds_up_no_other(long_clip: Path, tmp_path: Path) -> None:
    with DecoderPool(2) as processes:
        large = opened(processes, write_clip(tmp_path / "large.mp4", AHEAD, size_wh=(1920, 1080)), "large")
        gate, consumer = threading.Event(), Kept()
        other = Kept(before=gate)
        small = opened(processes, long_clip, "small")
        small.start(other, paced=False)
        wait_for(lambda: other.frames)
        large.start(consumer, paced=False)  # 3 MB each, and nobody hears what is said
        hung = processes._processes[0]
        waiting = bytearray(4)

        def is_full() -> bool:
            fcntl.ioctl(hung, termios.FIONREAD, waiting)
            return struct.unpack("i", waiting)[0] > 100_000

        wait_for(is_full)
        stop(processes)
        gate.set()
        for taken in range(LONG):
            wait_for(lambda taken=taken: len(other.frames) > taken)
            small.acknowledge()
        wait_for(lambda: other.ends)
        assert other.ends == [None] and len(other.frames) == LONG
        assert hung.is_alive and hung.is_receiving and not consumer.ends
        wait_for(lambda: lose_patience(hung) and consumer.ends)
        assert "hung" in str(consumer.ends[0])


def child_that(code: str) -> Callable[[int, int], subprocess.Popen[bytes]]:
    """Returns what starts a process, in place of `launch`, that has a `wire` to the run."""
    begin = (
        f"import socket, sys, time; sys.path[:] = {sys.path!r}\n"
        "from streamer.sources.workers.message_channel import MessageChannel\n"
        "from streamer.sources.workers.messages import Alive\n"
        "end = socket.socket(fileno=int(sys.argv[1])); wire = MessageChannel(end)\n"
    )

    def start(connection: int, board: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", begin + code, str(connection)], pass_fds=(connection, board))

    return start


@pytest.mark.parametrize(
    "code",
    [
        "end.sendall(bytes(range(256)) * 100); time.sleep(60)",
        "end.sendall(b'\\xff' * 8); time.sleep(60)",
        "end.sendall((5).to_bytes(8, 'big') + b'hello'); time.sleep(60)",
        "wire.send(Alive()); end.sendall(b'GET / HTTP/1.1\\r\\n'); time.sleep(60)",
    ],
    ids=["bytes", "an enormous message", "no pickle", "text"],
)
def test_what_is_no_message_ends_the_process_alone(code: str, long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DecoderPool(1) as processes:
        monkeypatch.setattr(worker_process, "launch", child_that(code))
        assert processes._start()
        good, odd = processes._processes
        monkeypatch.undo()
        source = processes.open(str(long_clip), name="a", options=CPU)
        assert good.load == 1
        uri = str(long_clip)  # what can be read: the process that takes `live` over ends it else
        file, live = (RemoteSource(uri, SourceInfo("x", uri, live=live), CPU) for live in (False, True))
        for each in (file, live):
            odd.adopt(each)
        with pytest.raises(SourceError, match="process that decoded it sent what can't be read"):
            within(file.wait_ready)
        assert len(list(source)) == LONG
        wait_for(lambda: odd not in processes._processes)
        assert live.is_wanted and not odd.is_alive


@pytest.mark.usefixtures("watchful")
def test_a_process_that_does_not_listen_holds_up_nobody(long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DecoderPool(1) as processes:
        monkeypatch.setattr(worker_process, "launch", child_that("while True: wire.send(Alive()); time.sleep(0.01)"))
        assert processes._start()
        _, deaf = processes._processes
        wait_for(lambda: deaf._has_spoken)
        source = RemoteSource("x", SourceInfo("x", "x"), CPU)
        deaf.adopt(source)

        def speak() -> None:
            while not deaf.is_deaf:
                deaf._say(b"x" * 10_000)
            deaf._say(b"x" * 1_000_000)

        within(speak)
        assert len(list(opened(processes, long_clip))) == LONG
        assert deaf.is_alive
        monkeypatch.setattr(worker_process, "_SILENT_S", 0.5)
        with pytest.raises(SourceError, match="hung"):
            within(source.wait_ready)


def test_a_process_that_listens_late_is_told_all(long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "wire.send(Alive()); told = []\nwhile len(told) < 203: told += wire.receive()\n"
        "assert [len(each) for each in told[:200]] == [10_000] * 200; end.sendall(b'x' * 8)"
    )
    with DecoderPool(1) as processes:
        monkeypatch.setattr(worker_process, "launch", child_that(code))
        assert processes._start()
        late = processes._processes[1]
        wait_for(lambda: late._has_spoken)
        os.kill(late._popen.pid, signal.SIGSTOP)
        for _ in range(200):
            within(lambda: late._say(b"x" * 10_000))
        within(lambda: late._say(b"x" * 3_000_000))
        assert late.is_deaf
        os.kill(late._popen.pid, signal.SIGCONT)
        for _ in range(2):
            late._say(b"y")
        wait_for(lambda: late._is_garbled)  # which it says once it has heard all
        assert not late.is_deaf


@pytest.mark.usefixtures("watchful")
def test_a_process_that_cannot_be_killed_is_left_behind(
    one_process: DecoderPool, long_clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver may hold one for ever."""
    monkeypatch.setattr(worker_process, "_EXITS_WITHIN_S", 0.05)
    consumer = Kept()
    opened(one_process, long_clip).start(consumer, paced=False)
    (hung,) = one_process._processes
    kill = hung._popen.kill
    monkeypatch.setattr(hung._popen, "kill", lambda: None)
    stop(one_process)
    wait_for(lambda: lose_patience(hung) and consumer.ends)
    assert "hung: it said nothing for 15 s" in str(consumer.ends[0])
    wait_for(lambda: one_process._processes == [])
    hung.wait()
    assert "a decoding process can't be ended and is left behind" in caplog.text
    kill()
