"""Decoder workers as threads of this process, so that they use the same fake GPU; see `tests.fake_gpu`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
import types
from collections.abc import Callable, Iterator

import pytest

from streamer.sources.workers import decoder_worker, worker_process
from streamer.sources.workers.message_channel import MessageChannel
from streamer.sources.workers.shared_counters import SharedCounters


class _Over(Exception):
    """Ends a thread of a worker when the test is over."""


class _WorkerThread:
    """A thread in place of a process; it serves the same channel, over descriptors of its own."""

    def __init__(self, channel: int, counters: int) -> None:
        channel, counters = os.dup(channel), os.dup(counters)
        self.pid = 0
        self._channel = MessageChannel(socket.socket(fileno=channel))
        self._worker = decoder_worker.DecoderWorker(self._channel, SharedCounters(counters))
        os.close(counters)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._worker.serve()
        self._channel.close()
        self._worker.send(None)  # ends the sending thread, as it can't send None

    def poll(self) -> int | None:
        return None if self._thread.is_alive() else 0

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return 0

    def kill(self) -> None:
        self._channel.shutdown()


@contextlib.contextmanager
def threads_for_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block decoder workers are threads of this process."""
    over = threading.Event()

    def sleep(seconds: float) -> None:
        if over.wait(seconds):
            raise _Over

    def until_over(body: Callable[[], None]) -> None:
        with contextlib.suppress(_Over):
            body()

    monkeypatch.setattr(worker_process, "launch", _WorkerThread)
    monkeypatch.setattr(decoder_worker, "time", types.SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter))
    monkeypatch.setattr(decoder_worker, "_or_exit", until_over)
    try:
        yield
    finally:
        over.set()
