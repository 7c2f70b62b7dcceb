"""The process that reads and decodes sources for a run; `launch` starts it."""

from __future__ import annotations

import contextlib
import gc
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
from streamer.cuda.ipc import IpcExporter, Slots
from streamer.frames.frame import Frame
from streamer.sources import open_source
from streamer.sources.base import Source, as_source_error
from streamer.sources.pacing import Pacer
from streamer.sources.workers import messages
from streamer.sources.workers.launch import HELD_BACK
from streamer.sources.workers.message_channel import MessageChannel
from streamer.sources.workers.shared_counters import AHEAD, AHEAD_LIVE, SharedCounters

if TYPE_CHECKING:
    from streamer.cuda.nv12 import Nv12

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LONGER = 0.001, 0.02, 1.5
_LOOK_S, _LOOKS_A_SIGN = 0.1, 10
_LEAST_BETWEEN_S = 0.001


class DecoderWorker:
    """Serves one run until its connection closes."""

    def __init__(self, wire: MessageChannel, board: SharedCounters) -> None:
        """Takes the wire to the run, and its counters."""
        self._wire, self._board = wire, board
        self._outbox: queue.SimpleQueue[tuple[object, Callable[[], None] | None]] = queue.SimpleQueue()
        self._hosted: dict[int, WorkerSource] = {}
        self._slots = Slots(board.returned)
        self._is_settled = False

    def serve(self) -> None:
        """Does what it is told; returns when the run has gone."""
        for body in (self._send, self._look_around):
            threading.Thread(target=_or_die, args=(body,), name=body.__name__, daemon=True).start()
        while True:
            try:
                received = self._wire.receive()
            except (EOFError, OSError):
                return
            for message in received:
                self._take(message)

    def _take(self, message: object) -> None:
        if isinstance(message, messages.Open):
            self._hosted[message.number] = WorkerSource(message, self._board, self._say, self._slots, self._settle)
            return
        assert isinstance(message, (messages.Begin, messages.LetGo))
        hosted = self._hosted.get(message.number)
        if hosted is None:
            return  # it has ended meanwhile
        if isinstance(message, messages.LetGo):
            hosted.let_go()
            return
        hosted.begin(paced=message.paced)

    def _settle(self) -> None:
        """Leaves alone what was loaded for the first source: it stays."""
        if not self._is_settled:
            self._is_settled = True
            gc.freeze()

    def _say(self, message: object, ready: Callable[[], None] | None = None) -> None:
        self._outbox.put((message, ready))

    def _send(self) -> None:
        """Sends what is to be said, a picture only when it is written; what comes in quick succession goes together."""
        while True:
            said = [self._outbox.get()]
            while not self._outbox.empty():
                said.append(self._outbox.get())
            for _, ready in said:
                if ready is not None:
                    ready()
            try:
                self._wire.send(*(message for message, _ in said))
            except OSError:
                return
            time.sleep(_LEAST_BETWEEN_S)

    def _look_around(self) -> None:
        """Tells what has changed, and lets go what was given back, a few times a second; and that the process lives."""
        for looked in itertools.count():
            if looked % _LOOKS_A_SIGN == 0:
                self._say(messages.Alive())
            time.sleep(_LOOK_S)
            for number, hosted in list(self._hosted.items()):
                if hosted.look():
                    del self._hosted[number]
                    self._say(messages.Gone(number))


class WorkerSource:
    """One source, on a thread of its own."""

    def __init__(
        self,
        wanted: messages.Open,
        board: SharedCounters,
        say: Callable[..., None],
        slots: Slots,
        settle: Callable[[], None],
    ) -> None:
        self._wanted, self._board, self._say, self._slots, self._settle = wanted, board, say, slots, settle
        self._number = wanted.number
        self._begun, self._is_let_go = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._pacer: Pacer | None = None
        self._given = 0
        self._looks: tuple[object, object] = (None, None)
        self._lending: IpcExporter | None = None
        self._told: tuple[object, messages.Status] | None = None
        self._has_ended = False
        threading.Thread(target=self._run, name=f"host {wanted.name}", daemon=True).start()

    def begin(self, *, paced: bool) -> None:
        """Has the frames given, each at its own time where they are paced."""
        self._pacer = Pacer() if paced else None
        self._begun.set()

    def let_go(self) -> None:
        """Ends the source; returns at once."""
        self._is_let_go.set()
        self._begun.set()
        source = self._source
        if source is not None:
            source.interrupt()

    def look(self) -> bool:
        """Tells what has changed; returns True once the source has ended and nothing of it is lent any more."""
        with self._lock:
            if self._lending is not None:
                self._lending.take_back()
            if self._has_ended:
                return self._lending is None or not self._lending.out
        source = self._source
        if source is not None:
            now = (source.info, self._status(source))
            if now != self._told:
                self._told = now
                self._say(messages.Told(self._number, *now))
        return False

    def _run(self) -> None:
        error: StreamerError | None = None
        status = messages.Status()
        try:
            wanted = self._wanted
            with open_source(wanted.uri, name=wanted.name, options=wanted.options, wait=False) as source:
                self._source = source
                if self._is_let_go.is_set():  # before it was there to be interrupted
                    source.interrupt()
                self._open(source)
                self._begun.wait()
                self._settle()
                try:
                    self._give_all(source)
                finally:
                    status = self._status(source)
        except Exception as failed:
            error = as_source_error(failed, self._wanted.name)
        self._say(messages.Ended(self._number, error, status))
        with self._lock:
            self._has_ended = True

    def _open(self, source: Source) -> None:
        try:
            source.wait_ready()
        except SourceError as error:
            if not source.info.live:
                raise
            self._say(messages.Refused(self._number, source.info, error))
        else:
            self._say(messages.Opened(self._number, source.info, self._status(source)))

    def _give_all(self, source: Source) -> None:
        frames = iter(source)
        while self._wait_for_room(source):
            began = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            capture_ms = (time.perf_counter() - began) * 1e3
            if self._pacer is not None and not source.info.live:
                frame = self._pacer.wait(frame, self._is_let_go)
            self._given += 1
            self._give(frame, capture_ms)

    def _wait_for_room(self, source: Source) -> bool:
        """Waits until the run has taken what was given, but a few; returns False when the source was let go."""
        ahead = AHEAD_LIVE if source.info.live else AHEAD
        pause_s = _FIRST_PAUSE_S
        while self._given - int(self._board.taken[self._number]) >= ahead:
            if self._is_let_go.wait(pause_s):
                break
            pause_s = min(_LONGEST_PAUSE_S, pause_s * _LONGER)
        return not self._is_let_go.is_set()

    def _give(self, frame: Frame, capture_ms: float) -> None:
        pixels: Any = frame.pixels
        if not hasattr(pixels, "surface"):
            self._say(messages.Copied(self._number, frame, capture_ms))
            return
        picture: Nv12 = pixels
        surface: Any = picture.surface
        with self._lock:
            if self._lending is None:
                self._lending = self._begin_lending(picture)
            slot, turn = self._lending.lend(surface, picture)
        if (picture.tags, picture.size_wh) != self._looks:
            self._looks = (picture.tags, picture.size_wh)
            self._say(messages.Looks(self._number, picture.size_wh, picture.tags))
        where = (self._number, slot, turn)
        given = messages.Given(*where, frame.index, frame.pts_s, frame.captured_at_s, capture_ms)
        self._say(given, surface.wait)

    def _begin_lending(self, first: Nv12) -> IpcExporter:
        """Offers the surfaces that there are at once: later it would hold up pictures."""
        lending = IpcExporter(
            self._slots,
            lambda slot, handle: self._say(messages.Lent(slot, handle)),
            lambda slot, turn: self._say(messages.Freed(slot, turn)),
        )
        spare: Any = first.spare()
        for surface in spare:
            with contextlib.suppress(EngineError):  # a connection that ends may free it meanwhile
                lending.offer(surface)
        return lending

    def _status(self, source: Source) -> messages.Status:
        lost_s = source.lost_s
        lost_at_s = None if lost_s is None else round(time.perf_counter() - lost_s, 2)  # the same at each look
        return messages.Status(lost_at_s, source.reconnects, source.dropped, source.damaged, source.skipped)


def _or_die(body: Callable[[], None]) -> None:
    """Ends the process where a thread fails without which the others are of no use; the run then hears of it."""
    try:
        body()
    except BaseException as error:
        log.error("decoding failed: %s", error)
        os._exit(1)


def main(connection: int, board: int, log_level: int) -> None:
    """Serves the run that started this process; see `launch`.

    Args:
        connection: descriptor of the socket to the run.
        board: descriptor of the memory shared with it.
        log_level: least level to log.
    """
    for number in HELD_BACK:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    start_logging(log_level)
    DecoderWorker(MessageChannel(socket.socket(fileno=connection)), SharedCounters(board)).serve()
    os._exit(0)  # whatever still hangs in a driver or library
