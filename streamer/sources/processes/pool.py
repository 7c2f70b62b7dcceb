"""Starting decoding processes, and giving them sources."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.closing import Closing
from streamer.errors import ConfigError, SourceError, StreamerError
from streamer.sources.base import Source, SourceInfo
from streamer.sources.options import SourceOptions
from streamer.sources.processes import messages
from streamer.sources.processes.board import SOURCES, Board
from streamer.sources.processes.remote import RemoteSource, broken_off
from streamer.sources.processes.wire import Wire
from streamer.sources.uri import default_name, is_stream, redact

if TYPE_CHECKING:
    from streamer.cuda.lending import Borrower

log = logging.getLogger(__name__)

_LEAST, _SOURCES_EACH = 2, 16
_WORTH_IT = 4
_PATIENCE_S = 2.0
_LEAST_BETWEEN_S = 0.002
_LOOK_S = 1.0
_STARTS_WITHIN_S, _SILENT_S = 60.0, 15.0  # it says that it lives every second


def processes_for(videos: int, cores: int) -> int:
    """Returns how many processes are to decode so many videos on a GPU, 0 where this one may do it itself.

    Args:
        videos: how many there are.
        cores: that this program may use.
    """
    if not is_possible() or videos < _WORTH_IT:
        return 0
    return max(1, min(max(_LEAST, -(-videos // _SOURCES_EACH)), cores // 2))


def is_possible() -> bool:
    """Whether this system has what decoding processes need."""
    return hasattr(os, "memfd_create")


class DecodingProcesses(Closing):
    """Some processes that read and decode sources for this one, and the thread that hears what they say."""

    def __init__(self, count: int) -> None:
        """Starts them, and returns at once.

        Raises:
            ConfigError: if this system can't have them.
        """
        if not is_possible():
            raise ConfigError(f"decoding processes need Linux, this is {sys.platform}: use --decode-processes 0")
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._hear, name="hear", daemon=True)
        try:
            for _ in range(count):
                self._processes.append(process := _Process())
                self._selector.register(process, selectors.EVENT_READ)
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def open(self, uri: str, *, name: str | None = None, options: SourceOptions) -> Source:
        """Opens a source in the process that has the fewest, and returns at once; see `Source.wait_ready`."""
        alive = [process for process in self._processes if process.is_alive]
        return min(alive or self._processes, key=lambda process: process.load).open(uri, name, options)

    def close(self) -> None:
        """Ends them, and the sources that are still open. Safe to call twice."""
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.wait()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)
        self._selector.close()
        for process in self._processes:
            process.let_go()

    def _hear(self) -> None:
        """Hands on what they say until none lives. Not at once where much is said: each waking costs more than it."""
        looked_s = time.perf_counter()
        while self._selector.get_map():
            woken_s = time.perf_counter()
            for key, _ in self._selector.select(_LOOK_S):
                process = key.fileobj
                assert isinstance(process, _Process)
                if not process.hear():
                    self._selector.unregister(process)
            if woken_s - looked_s > _LOOK_S:
                looked_s = woken_s
                for process in self._processes:
                    process.look()
            rest_s = _LEAST_BETWEEN_S - (time.perf_counter() - woken_s)
            if rest_s > 0:
                time.sleep(rest_s)


class _Process:
    """One of them."""

    def __init__(self) -> None:
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
        self._ending = self._is_hung = self._is_gone = False
        self._patient_until_s = time.perf_counter() + _STARTS_WITHIN_S
        self._borrower: Borrower | None = None

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
        name = name or default_name(uri)
        with self._lock:
            number = next((number for number in range(SOURCES) if number not in self._sources), None)
            if number is None:
                raise ConfigError(f"a decoding process has {SOURCES} sources already: use more --decode-processes")
            shown, live = (redact(uri), True) if is_stream(uri) else (uri, False)
            self._board.taken[number] = 0
            source = RemoteSource(number, SourceInfo(name, shown, live=live), self._say, self._board.taken)
            self._sources[number] = source
        if not self.is_alive:
            source.ended(broken_off(source.info, self._how_it_ended()))
        self._say(messages.Open(number, uri, name, options))
        return source

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
            source.ended(None if self._ending else error or broken_off(source.info, self._how_it_ended()))
        return False

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
            self._borrowing().drop(message.slot)
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
