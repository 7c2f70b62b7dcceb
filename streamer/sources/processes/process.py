"""A process that decodes sources, as the run has it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import ConfigError, SourceError, StreamerError
from streamer.sources.base import SourceInfo
from streamer.sources.options import SourceOptions
from streamer.sources.processes import messages
from streamer.sources.processes.board import SOURCES, Board
from streamer.sources.processes.remote import Place, RemoteSource, broken_off
from streamer.sources.processes.wire import Wire
from streamer.sources.uri import default_name, is_stream, redact

if TYPE_CHECKING:
    from streamer.cuda.lending import Borrower

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0
_STARTS_WITHIN_S, _SILENT_S = 60.0, 15.0  # it says that it lives every second
_STEADY_S, LONGEST_REST_S = 60.0, 60.0


@dataclass(frozen=True)
class Successor:
    """A process that is to be started.

    Attributes:
        follows: the one that is gone.
        sources: that it takes over.
        deaths: how many before it were gone, in a row, each soon after its start.
        due_s: when to start it, as by `time.perf_counter`.
    """

    follows: Process
    sources: list[RemoteSource]
    deaths: int
    due_s: float

    def end(self) -> None:
        """Ends the sources: it isn't to be."""
        for source in self.sources:
            source.ended(None)


class Process:
    """One of them."""

    def __init__(self, deaths: int) -> None:
        """Starts it.

        Args:
            deaths: how many that it follows were soon gone.

        Raises:
            OSError: if the system has no room for it.
        """
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            descriptor = Board.new()
            stack.callback(os.close, descriptor)
            self._board = Board(descriptor)
            ours.settimeout(_SILENT_S)  # for one that hangs in the middle of what it says
            self._wire = Wire(ours)
            path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
            arguments = (theirs.fileno(), descriptor, logging.getLogger().getEffectiveLevel())
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "streamer.sources.processes.child", *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=(theirs.fileno(), descriptor),
                stdin=subprocess.DEVNULL,
            )
        self._sources: dict[int, RemoteSource] = {}
        self._lock = threading.Lock()
        self._ending = self._is_hung = self._is_gone = self._has_spoken = False
        self._deaths = deaths
        self._started_s = time.perf_counter()
        self._patient_until_s = self._started_s + _STARTS_WITHIN_S
        self._borrower: Borrower | None = None
        self._homeless: list[RemoteSource] = []

    def fileno(self) -> int:
        """Returns the descriptor on which it says something."""
        return self._wire.fileno()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return not self._is_gone and self._popen.poll() is None

    @property
    def load(self) -> int:
        """How many sources it has."""
        return len(self._sources)

    def open(self, uri: str, name: str | None, options: SourceOptions) -> RemoteSource:
        """Opens a source, and returns at once.

        Raises:
            ConfigError: if it has as many as it can.
        """
        name = name or default_name(uri)
        shown, live = (redact(uri), True) if is_stream(uri) else (uri, False)
        source = RemoteSource(uri, SourceInfo(name, shown, live=live), options)
        self.adopt(source)
        if not self.is_alive:
            source.ended(broken_off(source.info, self._how_it_ended()))
        return source

    def adopt(self, source: RemoteSource) -> None:
        """Takes a source that has no place.

        Raises:
            ConfigError: if it has as many as it can.
        """
        with self._lock:
            number = next((number for number in range(SOURCES) if number not in self._sources), None)
            if number is None:
                raise ConfigError(f"a decoding process has {SOURCES} sources already: use more --decode-processes")
            self._sources[number] = source
        if not source.settle(Place(number, self._say, self._board.taken)):
            source.ended(None)  # let go while it had no place
            with self._lock:
                del self._sources[number]

    def end(self) -> None:
        """Has it end; returns at once."""
        self._ending = True
        self._wire.end()

    def wait(self) -> None:
        """Waits for its end, not for ever."""
        try:
            self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def let_go(self) -> None:
        """Frees what this process has of it, once nobody hears it any more."""
        self._wire.close()
        if self._borrower is not None:
            self._borrower.close()

    def _say(self, message: object) -> None:
        try:
            self._wire.send(message)
        except OSError:
            pass  # it is gone: `hear` says so

    def look(self) -> None:
        """Ends it where it has said nothing for too long, so that its sources don't hang."""
        if time.perf_counter() > self._patient_until_s and not self._is_hung:
            self._is_hung = True
            self._popen.kill()

    def hear(self) -> bool:
        """Hands on what it has said; returns False once it is gone, which its sources are told."""
        error: StreamerError | None = None
        self._patient_until_s = time.perf_counter() + _SILENT_S
        try:
            for message in self._wire.receive():
                self._has_spoken = True
                self._take(message)
            return True
        except TimeoutError:
            self._is_hung = True
        except (EOFError, OSError):
            pass
        except StreamerError as failed:  # a picture can't be mapped
            error = failed
        except Exception as failed:
            error = SourceError(f"frames of a decoding process can't be taken: {type(failed).__name__}: {failed}")
        if self._is_hung or error is not None:
            self._popen.kill()
        with self._lock:
            self._is_gone = True
            sources = list(self._sources.values())
        for source in sources:
            if self._ending:
                source.ended(None)
            elif source.lose(error or broken_off(source.info, self._how_it_ended())):
                self._homeless.append(source)
        return False

    def successors(self) -> list[Successor]:
        """Returns what is to follow it, now that it is gone."""
        if self._ending or not (self._has_spoken or self._homeless):
            return []
        now_s = time.perf_counter()
        deaths = 1 + (self._deaths if now_s - self._started_s < _STEADY_S else 0)
        rest_s = min(LONGEST_REST_S, 2.0 ** (deaths - 2)) if deaths > 1 else 0.0
        sources = self._homeless
        if sources:
            log.warning("a decoding process %s; what it read live is reached again in another", self._how_it_ended())
        halves = [sources[::2], sources[1::2]] if deaths > 1 and len(sources) > 1 else [sources]
        return [Successor(self, half, deaths, now_s + rest_s) for half in halves]

    def _take(self, message: object) -> None:
        if isinstance(message, messages.Given):
            self._sources[message.number].lent(message, self._borrowing().borrow(message.slot, message.turn))
        elif isinstance(message, messages.Copied):
            self._sources[message.number].arrive(message.frame, message.capture_ms)
        elif isinstance(message, messages.Told):
            self._sources[message.number].told(message.info, message.status)
        elif isinstance(message, messages.Lent):
            self._borrowing().add(message.slot, message.handle)
        elif isinstance(message, messages.Freed):
            self._borrowing().drop(message.slot, message.turn)
        elif isinstance(message, messages.Looks):
            self._sources[message.number].looks(message)
        elif isinstance(message, messages.Opened):
            self._sources[message.number].opened(message.info, message.status)
        elif isinstance(message, messages.Refused):
            self._sources[message.number].refused(message.info, message.error)
        elif isinstance(message, messages.Ended):
            self._sources[message.number].ended(message.error, message.status)
        elif isinstance(message, messages.Gone):
            self._sources[message.number].gone()
            with self._lock:
                del self._sources[message.number]

    def _borrowing(self) -> Borrower:
        if self._borrower is None:
            from streamer.cuda.lending import Borrower

            self._borrower = Borrower(self._board.returned)
        return self._borrower

    def _how_it_ended(self) -> str:
        if self._is_hung:
            return f"hung: it said nothing for {_SILENT_S:g} s"
        try:
            status = self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return "no longer answers"
        if status >= 0:
            return f"ended with status {status}"
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
