"""The run's side of one decoding worker: its process, its channel, and the sources attached to it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from streamer.common.errors import ConfigError, EngineError, SourceError, StreamerError
from streamer.sources.workers import messages
from streamer.sources.workers.launch import launch
from streamer.sources.workers.message_channel import GarbledMessageError, MessageChannel
from streamer.sources.workers.remote import Attachment, RemoteSource, broken_off
from streamer.sources.workers.shared_counters import SOURCES, SharedCounters

if TYPE_CHECKING:
    from streamer.cuda.ipc import IpcImporter

log = logging.getLogger(__name__)


_HANDLING_S = 1.0


@dataclass(frozen=True)
class WorkerLimits:
    """Time-outs of decoding workers in seconds, and how many there may be.

    Attributes:
        start_s: until the first heartbeat; importing what CUDA needs takes long on a busy machine.
        silence_s: without a heartbeat, which comes every second, or without reading what is sent.
        exit_s: for a worker to exit before it is killed.
        stable_s: uptime after which earlier crashes no longer count.
        max_backoff_s: longest delay before a respawn.
        retry_s: delay before another attempt where the system can't start a process.
        max_extra_workers: beyond those wanted, to isolate sources that crash their worker.
    """

    start_s: float = 60.0
    silence_s: float = 15.0
    exit_s: float = 2.0
    stable_s: float = 60.0
    max_backoff_s: float = 60.0
    retry_s: float = 5.0
    max_extra_workers: int = 8

    def backoff_s(self, crashes: int) -> float:
        """Returns the delay before a respawn: none after the first crash, then 1, 2, 4 s and so on."""
        return min(self.max_backoff_s, 2.0 ** (crashes - 2)) if crashes > 1 else 0.0


DEFAULT_LIMITS = WorkerLimits()


class WorkerStatus(NamedTuple):
    """A worker as seen from the run.

    Attributes:
        pid: of its process.
        is_ready: whether it has sent its first heartbeat.
        load: how many sources are attached.
        crashes: how many workers in a row crashed with its sources.
        gpus: the GPUs of its sources; None among them stands for the CPU.
    """

    pid: int
    is_ready: bool
    load: int
    crashes: int
    gpus: frozenset[int | None]


class WorkerProcess:
    """One worker from its launch until it is reaped."""

    def __init__(self, limits: WorkerLimits = DEFAULT_LIMITS, crashes: int = 0) -> None:
        """Launches it.

        Raises:
            OSError: if the system can't start another process.
        """
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            descriptor = SharedCounters.create()
            stack.callback(os.close, descriptor)
            self._counters = SharedCounters(descriptor)
            self._channel = MessageChannel(ours, limits.silence_s)
            self._popen = launch(theirs.fileno(), descriptor)
        self._limits, self._crashes = limits, crashes
        self._started_s = time.perf_counter()
        self._sources: dict[int, RemoteSource | None] = {}  # None until it is closed, for one that has left
        self._lock = threading.Lock()
        self._handling, self._hangs = threading.Lock(), False
        self._is_ready = self._is_stopping = self._is_released = False
        self._error: StreamerError | None = None
        self._exit = "exited"  # how it ended
        self._importer: IpcImporter | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return not self._is_released and self._popen.poll() is None

    @property
    def load(self) -> int:
        """How many sources are attached."""
        return len(self._attached())

    def serves_only(self, gpu: int | None) -> bool:
        """Whether no source of another GPU is attached, so that no other GPU's failure reaches it."""
        return all(source.gpu == gpu for source in self._attached())

    def _attached(self) -> list[RemoteSource]:
        return [source for source in list(self._sources.values()) if source is not None]

    @property
    def crashes(self) -> int:
        """How many workers in a row crashed with its sources; 0 once it has run for `WorkerLimits.stable_s`."""
        return self._crashes if time.perf_counter() - self._started_s < self._limits.stable_s else 0

    def status(self) -> WorkerStatus:
        """Returns its state."""
        gpus = frozenset(source.gpu for source in self._attached())
        return WorkerStatus(self._popen.pid, self._is_ready, self.load, self.crashes, gpus)

    def attach(self, source: RemoteSource) -> None:
        """Gives it a source, which it opens as soon as it is ready.

        Raises:
            ConfigError: if it has as many as it can.
        """
        with self._lock:
            number = next((number for number in range(SOURCES) if number not in self._sources), None)
            if number is None:
                raise ConfigError(f"a decoding process has {SOURCES} sources already: use more --decode-processes")
            is_released, is_ready = self._is_released, self._is_ready
            if not is_released:
                self._sources[number] = source
        if is_released:
            source.on_ended(broken_off(source.info, self._exit))
        elif is_ready:
            self._open(number, source)

    def forget(self, source: RemoteSource) -> None:
        """Detaches a source: once this returns, nothing that the worker says reaches it.

        A message about it that hangs in a driver isn't waited for.
        """
        is_idle = not self._hangs and self._handling.acquire(timeout=_HANDLING_S)
        self._hangs = not is_idle
        try:
            with self._lock:
                for number, each in self._sources.items():
                    if each is source:
                        self._sources[number] = None
        finally:
            if is_idle:
                self._handling.release()

    def run(self) -> None:
        """Handles its messages until it exits, or is killed for silence or for a message that can't be read."""
        try:
            if not self._channel.poll(self._limits.start_s):
                raise TimeoutError
            while True:
                for message in self._channel.receive():
                    with self._handling:
                        self._handle(message)
                if not self._is_ready:
                    self._open_attached()
        except TimeoutError:
            silent = f"said nothing for {self._limits.silence_s:g} s" if self._is_ready else "was not ready in time"
            self._kill(f"hung: it {silent}")
        except GarbledMessageError as error:
            log.debug("a decoding process sent no message: %s", error)
            self._kill("sent what can't be read")
        except (EOFError, OSError):
            if self._channel.is_unread:
                self._kill(f"hung: it read nothing for {self._limits.silence_s:g} s")
                return
            try:
                self._exit = _describe_exit(self._popen.wait(self._limits.exit_s))
            except subprocess.TimeoutExpired:
                self._kill("no longer answers")
        except Exception as error:
            self._error = _as_streamer_error(error)
            self._kill("was killed")

    def stop(self) -> None:
        """Tells it to exit; returns at once."""
        self._is_stopping = True
        self._channel.shutdown()

    def release(self) -> list[RemoteSource]:
        """Frees what the run holds of it; returns the live sources that another worker takes over. All others end."""
        self._channel.close()
        if self._importer is not None:
            try:
                self._importer.close()
            except EngineError as error:
                log.warning("frames of a decoding process can't be unmapped: %s", error)
        with self._lock:
            self._is_released = True
            sources = self._attached()
        if self._is_stopping or self._error is not None:
            for source in sources:
                source.on_ended(None if self._is_stopping else self._error)
            return []
        moving = [source for source in sources if source.detach(broken_off(source.info, self._exit))]
        if moving:
            log.warning("a decoding process %s; another reconnects its live sources", self._exit)
        return moving

    def _kill(self, reason: str) -> None:
        self._exit = reason
        self._popen.kill()
        self._channel.shutdown()
        try:
            self._popen.wait(self._limits.exit_s)
        except subprocess.TimeoutExpired:
            log.warning("process %d, which decodes, can't be killed: a driver holds it", self._popen.pid)

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # `run` notices the same
            self._channel.send(message)

    def _open_attached(self) -> None:
        with self._lock:
            self._is_ready = True
            attached = list(self._sources.items())
        for number, source in attached:
            if source is not None:
                self._open(number, source)

    def _open(self, number: int, source: RemoteSource) -> None:
        leave = partial(self.forget, source)
        if not source.attach(Attachment(number, self._send, self._counters.acknowledged, leave)):
            with self._lock:  # closed meanwhile
                del self._sources[number]

    def _handle(self, message: object) -> None:
        """Handles one message; a failure ends the source that it is about."""
        source = self._sources.get(getattr(message, "number", -1))
        if source is not None:
            try:
                self._handle_for(source, message)
            except Exception as error:
                source.fail(_as_streamer_error(error))
        elif isinstance(message, messages.SurfaceExported):
            self._surfaces().map(message.slot, message.handle)
        elif isinstance(message, messages.SurfaceRetired):
            self._surfaces().unmap(message.slot, message.generation)
        elif isinstance(message, messages.FrameReady):  # of a source that has left
            self._surfaces().lease(message.slot, message.generation)
        elif isinstance(message, messages.Closed):
            with self._lock:
                self._sources.pop(message.number, None)

    def _handle_for(self, source: RemoteSource, message: object) -> None:
        if isinstance(message, messages.FrameReady):
            lease = self._surfaces().lease(message.slot, message.generation)
            if lease is None:
                source.on_lost()
            else:
                source.on_surface(message, lease)
        elif isinstance(message, messages.FrameCopied):
            source.on_frame(message.frame, message.capture_ms)
        elif isinstance(message, messages.StatusChanged):
            source.on_status(message.info, message.status)
        elif isinstance(message, messages.FormatChanged):
            source.on_format(message)
        elif isinstance(message, messages.Opened):
            source.on_opened(message.info, message.status)
        elif isinstance(message, messages.OpenFailed):
            source.on_open_failed(message.info, message.error)
        elif isinstance(message, messages.Ended):
            source.on_ended(message.error, message.status)
        elif isinstance(message, messages.Closed):
            source.on_closed()
            with self._lock:
                del self._sources[message.number]

    def _surfaces(self) -> IpcImporter:
        if self._importer is None:
            from streamer.cuda.ipc import IpcImporter

            self._importer = IpcImporter(self._counters.returned)
        return self._importer


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _as_streamer_error(error: Exception) -> StreamerError:
    if isinstance(error, StreamerError):
        return error
    return SourceError(f"frames of a decoding process can't be taken: {type(error).__name__}: {error}")
