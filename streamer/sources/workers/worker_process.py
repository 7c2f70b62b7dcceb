"""A process that decodes sources, as the run has it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from streamer.common.errors import ConfigError, EngineError, SourceError, StreamerError
from streamer.sources.workers import messages
from streamer.sources.workers.launch import launch
from streamer.sources.workers.message_channel import Garbled, MessageChannel
from streamer.sources.workers.remote import Place, RemoteSource, broken_off
from streamer.sources.workers.shared_counters import SOURCES, SharedCounters

if TYPE_CHECKING:
    from streamer.cuda.ipc import IpcImporter

log = logging.getLogger(__name__)

_EXITS_WITHIN_S = 2.0
_STARTS_WITHIN_S, _SILENT_S = 60.0, 15.0  # it says that it lives every second
_STEADY_S = 60.0


class Process:
    """One process, from its start until nothing is left of it."""

    def __init__(self, deaths: int = 0, sources: Sequence[RemoteSource] = ()) -> None:
        """Starts it.

        Args:
            deaths: how many processes in a row, whose sources it takes, were gone; all but the first within a minute.
            sources: that it takes once it listens.

        Raises:
            OSError: if the system has no room for it.
        """
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            descriptor = SharedCounters.new()
            stack.callback(os.close, descriptor)
            self._board = SharedCounters(descriptor)
            ours.setblocking(False)  # nobody waits for one that hangs in the middle of what it says, or doesn't listen
            self._wire = MessageChannel(ours)
            self._popen = launch(theirs.fileno(), descriptor)
        self._sources: dict[int, RemoteSource] = {}
        self._awaiting = list(sources)
        self._lock = threading.Lock()
        self._ending = self._is_hung = self._is_gone = self._has_spoken = self._is_left = self._is_garbled = False
        self._error: StreamerError | None = None
        self._deaths = deaths
        self._started_s = self._gone_s = self._listened_s = time.perf_counter()
        self._patient_until_s = self._started_s + _STARTS_WITHIN_S
        self._borrower: IpcImporter | None = None

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
        return len(self._sources) + len(self._awaiting)

    @property
    def deaths(self) -> int:
        """How many before it, see `__init__`; none any more once it has lived for a minute."""
        return self._deaths if time.perf_counter() - self._started_s < _STEADY_S else 0

    def adopt(self, source: RemoteSource) -> None:
        """Takes a source that has no place; returns at once.

        Raises:
            ConfigError: if it has as many as it can.
        """
        with self._lock:
            number = next((number for number in range(SOURCES) if number not in self._sources), None)
            if number is None:
                raise ConfigError(f"a decoding process has {SOURCES} sources already: use more --decode-processes")
            is_late = self._is_left
            if not is_late:
                self._sources[number] = source
        if is_late:
            source.ended(broken_off(source.info, self._how_it_ended()))
        elif not source.settle(Place(number, self._say, self._board.taken)):
            with self._lock:  # let go meanwhile
                del self._sources[number]

    def end(self) -> None:
        """Has it end; returns at once."""
        self._ending = True
        self._wire.end()

    def wait(self) -> None:
        """Waits for its end, not for ever."""
        for give_up in (self._popen.kill, lambda: log.warning("a decoding process can't be ended and is left behind")):
            try:
                self._popen.wait(_EXITS_WITHIN_S)
                return
            except subprocess.TimeoutExpired:
                give_up()

    def let_go(self) -> None:
        """Frees what this process has of it, once nobody hears it any more. Safe to call twice."""
        self._wire.close()
        if self._borrower is not None:
            try:
                self._borrower.close()
            except EngineError as error:
                log.warning("pictures of a decoding process can't be let go: %s", error)

    def _say(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it is gone: `hear` says so
            self._wire.send(message)

    @property
    def is_receiving(self) -> bool:
        """Whether a part of something has come that it says."""
        return self._wire.is_receiving

    @property
    def is_deaf(self) -> bool:
        """Whether it hasn't read all that it was told: `flush` tries again."""
        return self._wire.is_sending

    def flush(self) -> None:
        """Tells it what it hasn't read yet, as far as it reads now."""
        with contextlib.suppress(OSError):
            self._wire.flush()
        if not self.is_deaf:
            self._listened_s = time.perf_counter()

    def look(self) -> None:
        """Ends it where it has said nothing, or read nothing, for too long, so that its sources don't hang."""
        now_s = time.perf_counter()
        if not self.is_deaf:
            self._listened_s = now_s
        is_deaf = self._has_spoken and now_s - self._listened_s > _SILENT_S
        if (is_deaf or now_s > self._patient_until_s) and not self._is_hung:
            self._give_up()

    def _give_up(self) -> None:
        """Ends it because it hangs; one that a driver holds ends later, but nobody waits for it."""
        self._is_hung = True
        self._popen.kill()
        self._wire.end()

    def hear(self) -> bool:
        """Hands on what it has said; returns False once nothing more comes: see `is_over`."""
        try:
            said = self._wire.receive()
            for message in said:
                self._take(message)
            if said:
                self._patient_until_s = time.perf_counter() + _SILENT_S
                self._has_spoken = True
                awaiting, self._awaiting = self._awaiting, []
                for source in awaiting:
                    self.adopt(source)
            return True
        except (EOFError, OSError):
            pass
        except Garbled as error:
            log.debug("a decoding process sent no message: %s", error)
            self._is_garbled = True
            self._popen.kill()
        except Exception as error:
            self._error = _as_ours(error)
            self._popen.kill()
        self._is_gone = True
        self._gone_s = time.perf_counter()
        return False

    def is_over(self) -> bool:
        """Whether one that says nothing more has ended, so that it is known how; not waited for is one that doesn't."""
        if self._popen.poll() is None:
            if time.perf_counter() - self._gone_s < _EXITS_WITHIN_S:
                return False
            self._popen.kill()
        return True

    def leave(self) -> list[RemoteSource]:
        """Frees what this process has of it; returns the sources that another is to take: all others have ended."""
        self.let_go()
        with self._lock:
            self._is_left = True
            sources = [*self._sources.values(), *self._awaiting]
        if self._ending or self._error is not None:
            for source in sources:
                source.ended(None if self._ending else self._error)
            return []
        how = self._how_it_ended()
        homeless = [source for source in sources if source.lose(broken_off(source.info, how))]
        if homeless:
            log.warning("a decoding process %s; what it read live is reached again in another", how)
        return homeless

    def abandon(self, error: StreamerError) -> None:
        """Ends it and its sources, because it can't be heard any more."""
        self._error = error
        self._popen.kill()
        self.leave()

    def _take(self, message: object) -> None:
        """Hands on something that it has said; an error in that ends the source that it is said of."""
        source = self._sources.get(getattr(message, "number", -1))
        if source is None:
            self._take_of_itself(message)
            return
        try:
            self._take_of_source(source, message)
        except Exception as error:
            source.fail(_as_ours(error))

    def _take_of_itself(self, message: object) -> None:
        if isinstance(message, messages.Lent):
            self._borrowing().add(message.slot, message.handle)
        elif isinstance(message, messages.Freed):
            self._borrowing().drop(message.slot, message.turn)

    def _take_of_source(self, source: RemoteSource, message: object) -> None:
        if isinstance(message, messages.Given):
            source.lent(message, self._borrowing().borrow(message.slot, message.turn))
        elif isinstance(message, messages.Copied):
            source.arrive(message.frame, message.capture_ms)
        elif isinstance(message, messages.Told):
            source.told(message.info, message.status)
        elif isinstance(message, messages.Looks):
            source.looks(message)
        elif isinstance(message, messages.Opened):
            source.opened(message.info, message.status)
        elif isinstance(message, messages.Refused):
            source.refused(message.info, message.error)
        elif isinstance(message, messages.Ended):
            source.ended(message.error, message.status)
        elif isinstance(message, messages.Gone):
            source.gone()
            with self._lock:
                del self._sources[message.number]

    def _borrowing(self) -> IpcImporter:
        if self._borrower is None:
            from streamer.cuda.ipc import IpcImporter

            self._borrower = IpcImporter(self._board.returned)
        return self._borrower

    def _how_it_ended(self) -> str:
        if self._is_garbled:
            return "sent what can't be read"
        if self._is_hung:
            said_nothing = f"said nothing for {_SILENT_S:g} s" if self._has_spoken else "was not ready in time"
            return f"hung: it {said_nothing}"
        status = self._popen.poll()
        if status is None:
            return "no longer answers"
        if status >= 0:
            return f"ended with status {status}"
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"


def _as_ours(error: Exception) -> StreamerError:
    if isinstance(error, StreamerError):
        return error
    return SourceError(f"frames of a decoding process can't be taken: {type(error).__name__}: {error}")
