"""The process of a decoding worker: opens sources and sends their frames to the run; `launch` starts it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamer.common.errors import EngineError, SourceError, StreamerError
from streamer.common.logs import start_logging
from streamer.cuda.ipc import IpcExporter, SurfaceSlots
from streamer.frames.frame import Frame
from streamer.sources import open_source
from streamer.sources.base import Pace, Source, as_source_error
from streamer.sources.pacing import Pacer
from streamer.sources.workers import messages
from streamer.sources.workers.launch import IGNORED_SIGNALS
from streamer.sources.workers.message_channel import MessageChannel
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED_LIVE, SharedCounters

if TYPE_CHECKING:
    from streamer.cuda.nv12 import Nv12

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.001, 0.02, 1.5
_CHECK_S, _CHECKS_PER_HEARTBEAT = 0.1, 10
_SEND_INTERVAL_S = 0.003  # waking the run's thread costs it more than handling what has gathered by then

Send = Callable[..., None]


class DecoderWorker:
    """Serves one run until its channel closes."""

    def __init__(self, channel: MessageChannel, counters: SharedCounters) -> None:
        """Takes the channel to the run, and the counters shared with it."""
        self._channel, self._counters = channel, counters
        self._outbox: queue.SimpleQueue[tuple[object, Callable[[], None] | None]] = queue.SimpleQueue()
        self._sources: dict[int, WorkerSource] = {}
        self._slots = SurfaceSlots(counters.returned)

    def serve(self) -> None:
        """Handles the run's messages; stops all sources and returns when the run has closed the channel."""
        for body in (self._send_all, self._check_all):
            threading.Thread(target=_or_exit, args=(body,), name=body.__name__, daemon=True).start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                for message in self._channel.receive():
                    self._handle(message)
        for source in list(self._sources.values()):
            source.stop()

    def send(self, message: object, wait: Callable[[], None] | None = None) -> None:
        """Queues a message; `wait` returns once what it announces is written on the GPU."""
        self._outbox.put((message, wait))

    def _handle(self, message: object) -> None:
        if isinstance(message, messages.Open):
            self._sources[message.number] = WorkerSource(message, self._counters, self.send, self._slots)
            return
        assert isinstance(message, (messages.Hold, messages.Start, messages.Stop))
        source = self._sources.get(message.number)
        if source is None:
            return  # it has ended meanwhile
        if isinstance(message, messages.Stop):
            source.stop()
        elif isinstance(message, messages.Hold):
            source.hold()
        else:
            source.start(paced=message.paced)

    def _send_all(self) -> None:
        """Sends what is queued, several messages together."""
        while True:
            queued = [self._outbox.get()]
            while not self._outbox.empty():
                queued.append(self._outbox.get())
            for _, wait in queued:
                if wait is not None:
                    wait()
            try:
                self._channel.send(*(message for message, _ in queued))
            except OSError:
                return
            time.sleep(_SEND_INTERVAL_S)

    def _check_all(self) -> None:
        """Sends heartbeats and changes of status, and removes closed sources."""
        for count in itertools.count():
            if count % _CHECKS_PER_HEARTBEAT == 0:
                self.send(messages.Heartbeat())
            time.sleep(_CHECK_S)
            for number, source in list(self._sources.items()):
                if source.check_closed():
                    del self._sources[number]
                    self.send(messages.Closed(number))


class WorkerSource:
    """One source, read on a thread of its own."""

    def __init__(self, request: messages.Open, counters: SharedCounters, send: Send, slots: SurfaceSlots) -> None:
        self._request, self._counters, self._send, self._slots = request, counters, send, slots
        self._number = request.number
        self._started, self._stopped = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # guards the exporter
        self._source: Source | None = None
        self._paced = False
        self._sent = 0
        self._format: tuple[object, object] = (None, None)
        self._exporter: IpcExporter | None = None
        self._last_status: tuple[object, messages.Status] | None = None
        self._has_ended = False
        threading.Thread(target=self._run, name=f"decode {request.spec.name}", daemon=True).start()

    def start(self, *, paced: bool) -> None:
        """Has its frames sent, each at its own time where they are paced."""
        self._paced = paced
        self._started.set()

    def hold(self) -> None:
        """Holds it until it is started."""
        source = self._source
        if source is not None and not self._started.is_set():
            source.hold()

    def stop(self) -> None:
        """Ends it; returns at once."""
        self._stopped.set()
        self._started.set()
        source = self._source
        if source is not None:
            source.interrupt()

    def check_closed(self) -> bool:
        """Sends a changed status; returns True once it has ended and all its surfaces are returned."""
        with self._lock:
            if self._exporter is not None:
                self._exporter.reclaim()
            if self._has_ended:
                return self._exporter is None or not self._exporter.in_flight
        source = self._source
        if source is not None:
            status = (source.info, _status_of(source))
            if status != self._last_status:
                self._last_status = status
                self._send(messages.StatusChanged(self._number, *status))
        return False

    def _run(self) -> None:
        error: StreamerError | None = None
        status = messages.Status()
        try:
            request = self._request
            with open_source(request.spec, options=request.options, wait=False) as source:
                self._source = source
                if self._stopped.is_set():  # before there was something to interrupt
                    source.interrupt()
                self._open(source)
                self._started.wait()
                try:
                    self._send_frames(source)
                finally:
                    status = _status_of(source)
        except Exception as failed:
            error = as_source_error(failed, self._request.spec.name)
        self._send(messages.Ended(self._number, error, status))
        with self._lock:
            self._has_ended = True

    def _open(self, source: Source) -> None:
        try:
            source.wait_ready()
        except SourceError as error:
            if not source.info.live:
                raise
            self._send(messages.OpenFailed(self._number, source.info, error))
        else:
            self._send(messages.Opened(self._number, source.info, _status_of(source)))

    def _send_frames(self, source: Source) -> None:
        frames, pacer = iter(source), Pacer()
        while self._wait_for_acknowledgement(source):
            started_s = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            if frame.index < self._request.first_index:
                continue
            capture_ms = (time.perf_counter() - started_s) * 1e3
            if source.info.pace(paced=self._paced) is Pace.SOURCE:
                frame = pacer.wait(frame, self._stopped)
            self._sent += 1
            self._send_frame(frame, capture_ms)

    def _wait_for_acknowledgement(self, source: Source) -> bool:
        """Waits until few enough frames are unacknowledged; returns False when the source was stopped."""
        most = MAX_UNACKNOWLEDGED_LIVE if source.info.live else MAX_UNACKNOWLEDGED
        pause_s = _FIRST_PAUSE_S
        while self._sent - int(self._counters.acknowledged[self._number]) >= most:
            if self._stopped.wait(pause_s):
                break
            pause_s = min(_LONGEST_PAUSE_S, pause_s * _PAUSE_GROWTH)
        return not self._stopped.is_set()

    def _send_frame(self, frame: Frame, capture_ms: float) -> None:
        pixels: Any = frame.pixels
        if not hasattr(pixels, "surface"):
            self._send(messages.FrameCopied(self._number, frame, capture_ms))
            return
        picture: Nv12 = pixels
        surface: Any = picture.surface
        with self._lock:
            if self._exporter is None:
                self._exporter = self._start_exporting(picture)
            slot, generation = self._exporter.export(surface, picture)
        if (picture.tags, picture.size_wh) != self._format:
            self._format = (picture.tags, picture.size_wh)
            self._send(messages.FormatChanged(self._number, picture.size_wh, picture.tags))
        times = (frame.pts_s, frame.captured_at_s, capture_ms)
        self._send(messages.FrameReady(self._number, slot, generation, frame.index, *times), surface.wait)

    def _start_exporting(self, first: Nv12) -> IpcExporter:
        """Exports all surfaces that exist: doing it later would delay frames."""
        exporter = IpcExporter(
            self._slots,
            lambda slot, handle: self._send(messages.SurfaceExported(slot, handle)),
            lambda slot, generation: self._send(messages.SurfaceRetired(slot, generation)),
        )
        for surface in first.pool.idle() if first.pool is not None else ():
            with contextlib.suppress(EngineError):  # a connection that ends may free it meanwhile
                exporter.announce(surface)
        return exporter


def _status_of(source: Source) -> messages.Status:
    lost_s = source.lost_s
    lost_at_s = None if lost_s is None else round(time.perf_counter() - lost_s, 2)  # the same at each check
    return messages.Status(lost_at_s, source.reconnects, source.dropped, source.damaged, source.skipped)


def _or_exit(body: Callable[[], None]) -> None:
    """Exits the process when a thread fails that it can't work without; the run sees that."""
    try:
        body()
    except BaseException as error:
        log.error("decoding failed: %s", error)
        os._exit(1)


def main(channel: int, counters: int, log_level: int) -> None:
    """Serves the run that started this process; see `launch`.

    `channel` and `counters` are descriptors: of the socket to the run, and of the memory shared with it.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)
    start_logging(log_level)
    DecoderWorker(MessageChannel(socket.socket(fileno=channel)), SharedCounters(counters)).serve()
    os._exit(0)  # whatever still hangs in a driver or library
