"""Named pipes as outputs: a reader that is late, slow, gone or missing."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.jsonl import JsonlSink
from tests.fakes import wait_for
from tests.media import picture

NOTHING = Detections.empty()


def frame(number: int = 0, source: str = "door") -> Frame:
    return Frame(picture(number), source, number, number / 30, 0.0)


class Reader:
    """Reads a pipe on a thread."""

    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        self._path = path
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._path.open() as file:
            self.lines.extend(file)

    def end(self) -> list[str]:
        """Waits for the end; returns the lines."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.lines


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe."""
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    return path


def test_a_pipe_gets_every_line_whenever_its_reader_comes(pipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "streamer.sinks")
    sink = JsonlSink(pipe, [])

    def write() -> None:
        with sink:
            for number in range(2000):  # more than a pipe holds
                sink.write(frame(number), NOTHING)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    wait_for(lambda: caplog.messages == [f"waiting for a reader of the pipe {pipe}"])
    reader = Reader(pipe)
    writer.join(60)
    assert not writer.is_alive()
    assert len(reader.end()) == 2000
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_interrupt_ends_a_write_to_a_pipe_without_a_reader(pipe: Path) -> None:
    sink = JsonlSink(pipe, [])
    sink.interrupt()
    with pytest.raises(SinkError, match=r"pipe\.jsonl broke off: nothing reads the pipe"):
        sink.write(frame(), NOTHING)
    sink.close()
    sink.close()


def test_interrupt_ends_a_write_to_a_pipe_that_is_not_read(pipe: Path) -> None:
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonlSink(pipe, [])
    sink.interrupt()
    with pytest.raises(SinkError, match="its reader has stopped reading"):
        for number in range(10_000):
            sink.write(frame(number), NOTHING)
    sink.close()
    os.close(descriptor)


def test_a_closed_reader_fails_only_its_own_pipe(pipe: Path) -> None:
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonlSink(pipe, [])
    sink.write(frame(), NOTHING)
    os.close(descriptor)
    with pytest.raises(SinkError, match="broke off: Broken pipe"):
        sink.write(frame(1), NOTHING)
    sink.close()
